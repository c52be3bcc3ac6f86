"""Results that the configuration does not use, such as shards, checkpoints and rankings: list and remove them."""

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from retinaflow.config.lookups import (
    common_name,
    feature_networks,
    held_out_splits,
    linear_networks,
    scored_sets,
    shard_counts,
    training_runs,
    variant,
)
from retinaflow.config.models import Models
from retinaflow.jobs.score_cache import CACHE, network_of_entry
from retinaflow.settings.root import Configuration
from retinaflow.storage.files import digest_files
from retinaflow.storage.lock import lock
from retinaflow.storage.tables import read_table


class Unused(NamedTuple):
    """A file or folder that no model of the configuration uses, and its size in bytes."""

    path: Path
    size: int


def find_unused(config: Configuration) -> list[Unused]:
    """List files and folders below the results folder that no model of the configuration uses.

    These are shards of other variants, splits and numbers, features of other networks, checkpoints of other training
    runs, and cached networks that are none of the trained ones. Rankings of a run are unused if a model that failed in
    it left the configuration. All else in the results folder is left alone.

    Args:
        config: The complete configuration, with paths for remote addresses. Its label tables are read.

    Returns:
        Unused files and folders, sorted by path. The size of a folder counts a hard link once.
    """
    results = Path(config.results)
    unused = [*_unused_shards(results / "shards", config), *_unused_features(results / "features", config)]
    unused += _unused_checkpoints(results / "checkpoints", config)
    unused += _unused_networks(results, config)
    unused += _unused_scores(results, config)
    unused += _unused_rankings(results / "comparison", config)
    return [Unused(path, _size(path)) for path in sorted(unused)]


def remove_unused(config: Configuration) -> list[Unused]:
    """Remove what ``find_unused`` finds, and return it.

    Raises:
        RetinaflowError: A workflow run uses the results folder.
    """
    with lock(Path(config.results)):
        unused = find_unused(config)
        for path, _ in unused:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()
    return unused


def _unused_shards(folder: Path, config: Configuration) -> Iterator[Path]:
    counts = shard_counts(config)
    variants = {variant(config, name).name for name in feature_networks(config)}
    for of_variant in _folders(folder):
        if of_variant.name not in variants:
            yield of_variant
            continue
        for of_split in _folders(of_variant):
            if of_split.name not in counts:
                yield of_split
            else:
                yield from _surplus_shards(of_split, counts[of_split.name])


def _surplus_shards(folder: Path, count: int) -> Iterator[Path]:
    for path in [*folder.iterdir(), *(folder / ".cache").glob("*")]:
        number = path.name.split(".")[0]
        if number.isdecimal() and int(number) >= count:
            yield path


def _unused_features(folder: Path, config: Configuration) -> Iterator[Path]:
    # The probe uses features of training splits; linear models also use those of test sets, and a graph.
    probed = held_out_splits(config)
    of_linear = [*probed, *scored_sets(config), "backbone"]
    for of_network in _folders(folder):
        if of_network.name not in feature_networks(config):
            yield of_network
        else:
            used = of_linear if of_network.name in linear_networks(config) else probed
            names = (path for path in of_network.iterdir() if path.is_file() and not path.name.startswith("."))
            yield from (path for path in names if path.stem not in used)


def _unused_checkpoints(folder: Path, config: Configuration) -> Iterator[Path]:
    for of_network in _folders(folder):
        if of_network.name not in config.models:
            yield of_network
            continue
        # Each fold, and each data set that is left out, has a folder of its own in that of the network.
        runs = [run.partition("/")[2] for run in training_runs(config, of_network.name)]
        if any(runs):
            yield from (path for path in of_network.iterdir() if path.name not in runs)
        else:
            yield from (path for path in _folders(of_network) if path.name.startswith(("fold-", "without-")))


def _unused_networks(results: Path, config: Configuration) -> Iterator[Path]:
    """Cached networks that no training run of the configuration has as its result.

    Once all are trained, the steps that they shared are unused, too.
    """
    records = [results / "models" / run / "training_run.json" for run in Models.of(config).training_runs]
    keys = {json.loads(record.read_text(encoding="utf-8")).get("key") for record in records if record.exists()}
    networks, steps = results / "models/.cache", results / "checkpoints/.cache"
    if networks.is_dir():
        yield from (path for path in networks.iterdir() if path.name not in keys)
    if steps.is_dir() and all(record.exists() for record in records):
        yield steps


def _unused_scores(results: Path, config: Configuration) -> Iterator[Path]:
    """Cached raw outputs and features of networks that no training run of the configuration has as its result."""
    cache = results / CACHE
    if not cache.is_dir():
        return
    models = [results / "models" / run / "model.keras" for run in Models.of(config).training_runs]
    used = {digest_files([model]) for model in models if model.exists()}
    yield from (entry for entry in cache.iterdir() if network_of_entry(entry) not in used)


def _unused_rankings(folder: Path, config: Configuration) -> Iterator[Path]:
    """Rankings of runs in which a model failed that is no longer configured.

    A run that compares all models removes them. A run with nothing to do does not.
    """
    models = set(map(common_name, Models.of(config).names))
    for table in folder.rglob("unfinished.csv"):
        failed = {row["model"] for row in read_table(table, ("model", "remark")) if "failed: " in row["remark"]}
        if failed - models:
            yield from table.parent.glob("*unfinished.*")  # with its record


def _folders(folder: Path) -> list[Path]:
    found = folder.iterdir() if folder.is_dir() else []
    return [path for path in found if path.is_dir() and not path.is_symlink() and not path.name.startswith(".")]


def _size(path: Path) -> int:
    files = [path] if path.is_file() or path.is_symlink() else [file for file in path.rglob("*") if file.is_file()]
    by_inode = {(status.st_dev, status.st_ino): status.st_size for status in map(os.lstat, files)}
    return sum(by_inode.values())
