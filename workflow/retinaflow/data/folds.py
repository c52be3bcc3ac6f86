"""Folds and groups of patients for stratified splits. Imports nothing heavy."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence

import numpy as np


def strata(
    units: Sequence[str], grades: Iterable[int], seed: int, data_sets: Sequence[str] | None = None
) -> dict[tuple[str, int], list[str]]:
    """Group units by their data set and their worst grade.

    Args:
        units: Unit of each image, such as its patient. Of joined data sets, the name of the data set comes first, as in
            ``eyepacs/17``.
        grades: Grade of each image.
        seed: Seed of the order.
        data_sets: Data set of each image. Without it, it is the text before the last ``/`` of a unit.

    Returns:
        Names of the units of each data set (``""`` if there is one) and grade, in an order that depends on the seed and
        the names alone.
    """
    worst: dict[str, int] = {}
    for unit, grade in zip(units, grades, strict=True):
        worst[unit] = max(worst.get(unit, 0), grade)

    def order(name: str) -> tuple[bytes, str]:
        key = f"{seed}\0{name}".encode("utf-8", "surrogateescape")
        return hashlib.blake2b(key, digest_size=16).digest(), name

    set_of = dict(zip(units, data_sets or [unit.rpartition("/")[0] for unit in units], strict=True))
    groups: dict[tuple[str, int], list[str]] = defaultdict(list)
    for name in sorted(worst, key=order):
        groups[set_of[name], worst[name]].append(name)
    return groups


def assign_folds(
    units: Sequence[str],
    grades: Sequence[int],
    *,
    folds: int,
    seed: int,
    data_sets: Sequence[str] | None = None,
) -> np.ndarray:
    """Assign images to folds, so that all images of a unit are in one fold.

    The units of each data set and grade, grouped and ordered by ``strata``, are cut into blocks that differ by at most
    one in size. One unit more or less moves at most one other unit across each of the ``folds`` - 1 cuts of its grade.

    Args:
        units: Unit of each image, such as its patient.
        grades: Grade of each image.
        folds: Number of folds.
        seed: Seed of the order.
        data_sets: As for ``strata``.

    Returns:
        Fold of each image, int64 (n,), 1 to ``folds``.
    """
    fold_of: dict[str, int] = {}
    for (_, grade), names in strata(units, grades, seed, data_sets).items():
        cuts = [(2 * block * len(names) + folds) // (2 * folds) for block in range(folds + 1)]
        for block in range(folds):
            # Each grade starts at another fold. Otherwise the few units of rare grades would share the first folds.
            fold_of.update(dict.fromkeys(names[cuts[block] : cuts[block + 1]], (block + grade) % folds + 1))
    return np.array([fold_of[unit] for unit in units], dtype=np.int64)
