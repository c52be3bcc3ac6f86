"""Check the folders, files and addresses that a configuration names."""

import os
import shlex
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from zipfile import is_zipfile

from retinaflow.config.lookups import (
    CLASS_FOLDERS,
    data_sets,
    feature_networks,
    has_both_eyes,
    label_columns,
    label_tables,
    labelled_patients,
    recalibration,
)
from retinaflow.config.messages import raise_problems
from retinaflow.data.labels import read_labels
from retinaflow.data.matching import common_images
from retinaflow.data.new_site import too_few_patients
from retinaflow.errors import RetinaflowError
from retinaflow.networks.earlier_model import earlier_model, faults, needed_files
from retinaflow.networks.extractor_files import extractor_faults, extractor_file, needed_extractor_files
from retinaflow.networks.weights import EXPECTED_WEIGHTS, weights_fault
from retinaflow.settings.data import DataSetSettings, set_key
from retinaflow.settings.root import Configuration
from retinaflow.settings.train import TrainingSettings
from retinaflow.storage import object_storage
from retinaflow.storage.archives import split_archive

AHEAD = 2.0  # seconds that clocks of a file server may differ by

# os.path and not Path: for it, a path that is too long or may not be looked at is one that is not there.
# ruff: noqa: PTH112, PTH113


def check_files(config: Configuration) -> None:
    """Check every folder and file that ``config`` names. The images of a demo are drawn later and not looked for.

    Raises:
        RetinaflowError: one error that lists each key whose folder or file is missing or cannot be used.
    """
    raise_problems([problem for key, name in _tracked(config) for problem in _name_problems(key, name)])
    problems = [*_results_problems(config.results)]
    if not config.demo:
        for data_set, source in data_sets(config).items():
            problems += _source_problems(data_set, source, config.results)
    problems += _list_problems(config)
    problems += _overlaps(data_sets(config))
    for name, settings in feature_networks(config).items():
        if extractor_file(settings.backbone):
            problems += [f"backbone of {name}: {problem}" for problem in extractor_faults(settings)]
            continue
        problems += [f"weights of {name}: {problem}" for problem in _weights_problems(settings)]
        problems += _own_start_problems(name, config)
    raise_problems([*problems, *_clock_problems(config)])


def check_pairs(config: Configuration) -> None:
    """Check that each training set has fellow eyes, if each is left out in turn and a model needs them.

    The label tables, which must be local files, are read only if this matters.

    Raises:
        RetinaflowError: A model of both eyes is named, and a training set has no patient with both eyes.
    """
    keys = [f"models.{name}.eyes" for name, settings in config.linear.items() if settings.eyes == "both"]
    if isinstance(config.eyes.models, list) and config.eyes.models:
        keys.append("eyes.models")
    if config.split.leave_out and keys and not has_both_eyes(config):
        raise_problems(
            f"{key}: with split.leave_out, each training set needs patients with both eyes, and the labels of at least "
            f"one have none; remove {key}"
            for key in keys
        )


def check_new_sites(config: Configuration) -> None:
    """Check that the labels of each test set of ``evidence.recalibration`` have enough patients.

    The label tables, which must be local files, are read only if this matters. ``preflight`` counts usable images.

    Raises:
        RetinaflowError: A test set has too few patients.
    """
    counts = recalibration(config)
    faults = {split: too_few_patients(labelled_patients(config, split), count) for split, count in counts.items()}
    raise_problems(f"{set_key(split)}: {fault}" for split, fault in faults.items() if fault)


def image_keys(data_set: str, source: DataSetSettings) -> list[tuple[str, str]]:
    """The key and the value of each place that a data set has images in."""
    key = f"{set_key(data_set)}.images"
    several = len(source.images) > 1
    return [(f"{key}[{number}]" if several else key, images) for number, images in enumerate(source.images)]


def label_keys(data_set: str, source: DataSetSettings) -> list[tuple[str, str]]:
    """The key and the value of each label table of a data set."""
    key, tables = f"{set_key(data_set)}.labels", label_tables(source)
    return [(f"{key}[{number}]" if len(tables) > 1 else key, labels) for number, labels in enumerate(tables)]


def _tracked(config: Configuration) -> Iterable[tuple[str, str]]:
    """Key and name of everything that becomes an input or output of a rule by its name."""
    yield "results", config.results
    for data_set, source in data_sets(config).items():
        yield from label_keys(data_set, source)
        if source.pairs:
            yield f"{set_key(data_set)}.pairs", source.pairs
        # The user's image folders are no inputs; only a digest of their listing is.
        made = [images for images in source.images if config.demo or split_archive(images)]
        yield from ((f"{set_key(data_set)}.images", images) for images in made)
    for name, settings in feature_networks(config).items():
        yield f"weights of {name}", settings.weights
        if extractor_file(settings.backbone):
            yield f"backbone of {name}", settings.backbone


def _name_problems(key: str, name: str) -> Iterable[str]:
    if "{" in name or "}" in name:
        yield f"{key}: {name!r} has a brace, which Snakemake takes for the start of a wildcard; give it another name"
    if "\0" in name:
        yield f"{key}: {name!r} has a NUL character, which no path may have; remove it"


def _results_problems(results: str) -> Iterable[str]:
    existing = Path(results).absolute()
    while not os.path.lexists(existing):
        existing = existing.parent
    if not os.path.isdir(existing):
        yield f"results: {str(existing)!r} is not a folder, expected one that results can be written to; name another"
    elif not os.access(existing, os.W_OK | os.X_OK):
        yield f"results: {str(existing)!r} may not be written to; name another folder, or have its owner permit it"


def _source_problems(data_set: str, source: DataSetSettings, results: str) -> Iterable[str]:
    for key, images in image_keys(data_set, source):
        yield from _images_problems(key, images, results)
    for key, labels in label_keys(data_set, source):
        archive = split_archive(labels)
        if object_storage.is_remote(labels):
            yield from _remote_problems(key, labels)
        elif os.path.isdir(labels):
            yield f"{key}: {labels!r} is a folder; name a table in it, or write {CLASS_FOLDERS} for grades by folder"
        elif not os.path.isfile(archive[0] if archive else labels):
            yield f"{key}: there is no file {labels!r}; {_path_advice(labels)}"
    if source.pairs and not os.path.isfile(source.pairs):
        yield (
            f"{set_key(data_set)}.pairs: there is no file {source.pairs!r} on this machine; correct the path, or set "
            "pairs to null if patients are not known"
        )
    if not label_tables(source):
        for key, images in image_keys(data_set, source):
            if object_storage.is_remote(images):
                yield f"{key}: class_folders need images on this machine, found {images!r}; name a label table"


def _path_advice(path: str) -> str:
    """Advice about a path that does not exist."""
    if "$" in path:
        return "of variables, only $HOME is replaced: write the path itself"
    if path.replace(" ", "_") == CLASS_FOLDERS:
        return f"write {CLASS_FOLDERS} for grades by folder"
    return "correct the path"


def _list_problems(config: Configuration) -> Iterable[str]:
    for side, files in (config.split.lists.model_dump() if config.split.lists else {}).items():
        for name in files or ():
            if not os.path.isfile(name):
                yield f"split.lists.{side}: there is no file {name!r} on this machine; correct the path"


def _images_problems(key: str, images: str, results: str) -> Iterable[str]:
    archive = split_archive(images)
    if object_storage.is_remote(images):
        yield from _remote_problems(key, images)
    elif archive:
        if not os.path.isfile(archive[0]):
            yield f"{key}: there is no archive {str(archive[0])!r}; correct the path"
        elif not is_zipfile(archive[0]):
            yield f"{key}: {str(archive[0])!r} is no .zip archive, or not all of one; fetch or copy it again"
    elif not os.path.isdir(images):
        advice = f"; {_path_advice(images)}" if "$" in images else ""
        yield f"{key}: {images!r} is not a folder; expected a folder of images or a .zip archive{advice}"
    elif Path(os.path.realpath(results)).is_relative_to(os.path.realpath(images)):
        yield f"{key}: {images!r} holds the results folder {results!r}; move that out of it"


def _clock_problems(config: Configuration) -> Iterable[str]:
    """Name the input files that the clock of this machine has not reached.

    Snakemake fails each job whose outputs are older than an input, and removes the outputs.
    """
    now = time.time()
    for key, path in _input_files(config):
        ahead = Path(path).stat().st_mtime - now if os.path.isfile(path) else 0
        if ahead >= AHEAD:
            yield (
                f"{key}: {path!r} is dated {ahead:.0f} s ahead of the clock of this machine, so jobs that read it "
                f"would fail; correct the clock, or run `touch -d yesterday {shlex.quote(path)}`"
            )


def _input_files(config: Configuration) -> Iterable[tuple[str, str]]:
    """Key and path of each file on this machine that is an input of a rule.

    Tables and lists are none: their digests are parameters.
    """
    for data_set, source in {} if config.demo else data_sets(config).items():
        archives = ((key, split_archive(images)) for key, images in image_keys(data_set, source))
        yield from ((key, str(archive[0])) for key, archive in archives if archive)
    for name, settings in feature_networks(config).items():
        file, earlier = extractor_file(settings.backbone), earlier_model(settings.weights)
        if file:
            with suppress(RetinaflowError):  # Another check names the fault of the file.
                yield from ((f"backbone of {name}", str(needed)) for needed in needed_extractor_files(file))
        else:
            files = needed_files(earlier) if earlier else [Path(settings.weights)]
            yield from ((f"weights of {name}", str(needed)) for needed in files)


def _own_start_problems(name: str, config: Configuration) -> Iterable[str]:
    earlier = earlier_model(feature_networks(config)[name].weights)
    if earlier and _is_same(str(earlier), str(Path(config.results, "models", name))):
        yield f"weights of {name}: {str(earlier)!r} is the model itself; name another model"


def _weights_problems(settings: TrainingSettings) -> Iterable[str]:
    weights = settings.weights
    if weights in ("imagenet", "random"):
        return
    earlier = None if object_storage.is_remote(weights) else earlier_model(weights)
    if earlier:
        yield from faults(earlier, settings)
        return
    if object_storage.is_remote(weights):
        if fault := object_storage.fault(weights):
            yield fault
        if not weights.endswith(".h5"):
            yield f"{weights!r}: has another extension than .h5; {EXPECTED_WEIGHTS}"
    elif not os.path.isfile(weights):
        yield f"there is no file {weights!r}; expected 'imagenet', 'random', a weights file or a trained model"
    elif fault := weights_fault(weights):
        yield f"{weights!r}: {fault}; or set `weights` to 'imagenet' or 'random'"


def _remote_problems(key: str, url: str) -> Iterable[str]:
    if fault := object_storage.fault(url):
        yield f"{key}: {fault}"


def sharing_sets(sources: Mapping[str, DataSetSettings], data_set: str) -> list[str]:
    """Names of other data sets that have images in the same folders as ``data_set``."""
    own = sources[data_set].images
    return [
        name
        for name, source in sources.items()
        if name != data_set and any(_is_same(images, others) for images in own for others in source.images)
    ]


def _overlaps(sources: Mapping[str, DataSetSettings]) -> Iterable[str]:
    places = [(name, *place) for name, source in sources.items() for place in image_keys(name, source)]
    for number, (name, key, images) in enumerate(places):
        for other, other_key, others in places[:number]:
            if not _is_same(images, others):
                continue
            # Tables of different images share a folder, as in train.csv and test.csv.
            shown = "" if name == other else _common_image(sources[name], sources[other])
            if name == other or shown:
                yield (
                    f"{key}: {images!r} and {others!r} of {other_key} are one folder, or one lies inside the other, "
                    f"and subfolders are searched: each image would count twice{shown}; name folders that are apart"
                )


def _common_image(source: DataSetSettings, other: DataSetSettings) -> str:
    """Words that name an image that both label tables have, or the reason why that is not known. Empty if none has."""
    if not label_tables(source) or not label_tables(other):
        return ", since the grades are the names of folders"
    try:
        rows, others = (read_labels(label_tables(one), **label_columns(one)) for one in (source, other))
    except RetinaflowError:
        return ", unless the label tables can be read and have no image in common"
    common = common_images(rows, others)
    return f", since both label tables have {min(common)!r}" if common else ""


def _is_same(images: str, others: str) -> bool:
    """Whether two places are one folder, or one lies inside the other."""
    (archive, steps), (other_archive, other_steps) = _location(images), _location(others)
    return archive == other_archive and all(a == b for a, b in zip(steps, other_steps, strict=False))


def _location(images: str) -> tuple[str, tuple[str, ...]]:
    """The real path of the archive, if any, and the steps from there."""
    archive = split_archive(images)
    if archive:
        return os.path.realpath(archive[0]), Path(archive[1]).parts
    return "", Path(os.path.realpath(images)).parts
