"""Verification of a results folder: every file with a record, shards, checkpoints, caches and numbers of rows."""

import json
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from retinaflow.errors import RetinaflowError
from retinaflow.jobs.row_counts import row_faults
from retinaflow.preprocessing.shards import NO_CHECKSUM, checksum, open_shard
from retinaflow.storage.file_cache import CONTENT
from retinaflow.storage.files import digest_files
from retinaflow.storage.integrity import RECORD_SUFFIX, damage, record_of

_STATE = "state.json"  # of a checkpoint (``training.checkpoints``), whose module imports a backend
# Folders of images and logs, which have no records.
SKIPPED = {"unpacked", "downloaded", "logs", "tensorboard"}
# Results of each stage that depend on its files, by the first folder of a file.
DEPENDENT = {
    "inventory": "tables, training and scoring, if the new file differs",
    "split": "tables, training and scoring, if the new file differs",
    "organized": "shards, training and scoring",
    "shards": "this shard, and the training and scoring of the networks that use it",
    "features": "these features and the models on them",
    "checkpoints": "the epochs of this training",
    "models": "this network or decision rule, its scores and the comparison",
    "scores": "these scores, the grading and the comparison",
    "comparison": "the comparison",
}


class Damage(NamedTuple):
    """A damaged file of a results folder.

    Attributes:
        path: The file.
        fault: Kind of the damage.
        removed: Files to remove, so that the next run makes them again.
        remade: Results that the next run makes again.
    """

    path: Path
    fault: str
    removed: tuple[Path, ...]
    remade: str


class Verification(NamedTuple):
    """Result of ``verify_results``: number of verified files, and the damaged ones."""

    verified: int
    damaged: list[Damage]


def verify_results(results: Path) -> Verification:
    """Verify all files below ``results`` that have a record or checksums. Nothing is changed.

    Scores and indices without a record have their rows counted (``row_counts``).

    Raises:
        RetinaflowError: There is no such folder.
    """
    if not results.is_dir():
        raise RetinaflowError(f"{results}: no such folder; expected the results folder of a run. Name it.")
    faults = dict(row_faults(results)) | {path: check(path) for path, check in _files(results)}
    damaged = [
        Damage(path, fault, _with_companions(path), DEPENDENT.get(path.relative_to(results).parts[0], "this file"))
        for path, fault in sorted(faults.items())
        if fault
    ]
    return Verification(len(faults), damaged)


def remove_damaged(damaged: Iterable[Damage]) -> None:
    """Remove damaged files, their records and the files that belong to them."""
    for path in (path for each in damaged for path in each.removed):
        path.unlink(missing_ok=True)
        record_of(path).unlink(missing_ok=True)


def _files(results: Path) -> Iterator[tuple[Path, Callable[[Path], str]]]:
    for folder, folders, names in os.walk(results):
        here = Path(folder)
        steps = here.relative_to(results).parts
        folders[:] = [name for name in folders if not (name in SKIPPED and not steps)]
        if steps[:1] == ("organized",) and len(steps) == 2:  # Below are the folders of images.
            folders[:] = []
        recorded = (name[1 : -len(RECORD_SUFFIX)] for name in names if name.endswith(RECORD_SUFFIX))
        yield from ((here / name, _check_record) for name in recorded if (here / name).exists())
        if steps[:1] == ("shards",) and len(steps) == 3:
            yield from ((here / name, _check_shard) for name in names if name.endswith(".npy"))
        elif _STATE in names or CONTENT in names:
            yield here / (_STATE if _STATE in names else CONTENT), _check_digests


def _check_record(path: Path) -> str:
    try:
        return damage(path)
    except OSError as error:
        return f"it cannot be read ({error.strerror})"


def _check_shard(path: Path) -> str:
    try:
        shard = open_shard(path, path.with_suffix(".csv"))
        wrong = [
            name
            for name, pixels, expected in zip(shard.names, shard.array, shard.checksums, strict=True)
            if expected != NO_CHECKSUM and checksum(pixels) != expected
        ]
    except RetinaflowError as error:
        return str(error)
    return f"the pixels of {len(wrong)} images differ from their checksums, first {wrong[0]!r}" if wrong else ""


def _check_digests(path: Path) -> str:
    """Check the files of a checkpoint or of a cache entry, by the digests in its JSON file."""
    try:
        digests = json.loads(path.read_text(encoding="utf-8"))["files"]
        wrong = [name for name, digest in digests.items() if digest_files([path.parent / name]) != digest]
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        return f"it cannot be read ({error})"
    return f"{', '.join(wrong)} is damaged" if wrong else ""


def _with_companions(path: Path) -> tuple[Path, ...]:
    """Return the file, and the other file of a shard or of features, which is made with it."""
    companions = (path.with_suffix(".npy"), path.with_suffix(".csv"))
    return companions if path in companions and all(other.exists() for other in companions) else (path,)
