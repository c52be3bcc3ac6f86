"""Divide a data set into training and validation so that no patient is on both sides."""

import hashlib
import logging
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

from retinaflow.data.inventory import INVENTORY_COLUMNS, usable
from retinaflow.errors import RetinaflowError
from retinaflow.storage.tables import Row, read_table, write_table

log = logging.getLogger(__name__)

SPLIT_COLUMNS = ("image", "path", "grade", "patient", "eye", "bytes", "width", "height", "digest")


def split_patients(rows: Sequence[Row], validation: float, unit: str, seed: int) -> tuple[list[Row], list[Row]]:
    """Divide ``rows`` (columns image, patient, level) into (training, validation), each in the order of ``rows``.

    ``unit`` is what stays together: ``patient``, or ``image`` to divide without regard to patients. Units are grouped
    by their worst level; of the n units of a level, the share ``validation`` (0 < share < 1), rounded half up but at
    least one and at most n - 1 where n > 1, is chosen by a digest of ``seed`` and name. So one unit more or less moves
    at most one other unit of its level.
    """
    chosen: set[str] = set()
    for units in _strata(rows, unit, seed).values():
        count = int((Decimal(str(validation)) * len(units)).to_integral_value(ROUND_HALF_UP))
        if len(units) > 1:
            count = min(max(count, 1), len(units) - 1)
        chosen.update(units[:count])
    return [row for row in rows if row[unit] not in chosen], [row for row in rows if row[unit] in chosen]


def fold_patients(rows: Sequence[Row], folds: int, unit: str, seed: int) -> list[int]:
    """Fold 1..``folds`` of each of ``rows``, whose units are grouped and ordered as by ``split_patients``.

    Each level's units are cut into blocks that differ by at most one in size. One unit more or less moves at most one
    other unit across each of the ``folds`` - 1 cuts of its level.
    """
    fold_of: dict[str, int] = {}
    for level, units in _strata(rows, unit, seed).items():
        cuts = [(2 * block * len(units) + folds) // (2 * folds) for block in range(folds + 1)]
        for block in range(folds):
            # Each level starts at another fold, or the few units of rare levels would all land in the same ones.
            fold_of.update(dict.fromkeys(units[cuts[block] : cuts[block + 1]], (block + level) % folds + 1))
    return [fold_of[row[unit]] for row in rows]


def fold_photographs(patients: Sequence[str], levels: Sequence[int], folds: int, seed: int) -> list[int]:
    """``fold_patients`` of n photographs that are no rows of a table: names and levels of each."""
    rows = [{"patient": patient, "grade": str(level)} for patient, level in zip(patients, levels, strict=True)]
    return fold_patients(rows, folds, "patient", seed)


def write_split(
    inventory: Path,
    classes: Sequence[str],
    validation: float,
    folds: int,
    unit: str,
    seed: int,
    outputs: Sequence[tuple[Path, Path]],
) -> None:
    """Divide the usable rows of the table ``inventory`` and write each (training, validation) pair of ``outputs``.

    One pair by ``split_patients`` if ``folds`` is 0; otherwise a pair a fold, which is the validation part.
    Raises ``RetinaflowError``, having written nothing, if a part lacks one of ``classes``.
    """
    rows = [
        {column: row[column] for column in SPLIT_COLUMNS} for row in usable(read_table(inventory, INVENTORY_COLUMNS))
    ]
    if folds:
        fold_of = list(zip(rows, fold_patients(rows, folds, unit, seed), strict=True))
        numbers = range(1, folds + 1)
        pairs = [
            ([row for row, its in fold_of if its != i], [row for row, its in fold_of if its == i]) for i in numbers
        ]
        names = [f" of fold {i}" for i in numbers]
    else:
        pairs, names = [split_patients(rows, validation, unit, seed)], [""]
    _check(inventory, "the inventory", rows, rows, classes, unit)
    for pair, name in zip(pairs, names, strict=True):
        for part, title in zip(pair, ("training", "validation"), strict=True):
            _check(inventory, f"the {title} part{name}", part, rows, classes, unit)
            counts = Counter(int(row["grade"]) for row in part)
            shown = ", ".join(f"{label} {counts[level]}" for level, label in enumerate(classes))
            log.info("%s%s: %d photographs of %d patients (%s)", title, name, len(part), _units(part, "patient"), shown)
    for pair, paths in zip(pairs, outputs, strict=True):
        for part, path in zip(pair, paths, strict=True):
            write_table(path, SPLIT_COLUMNS, part)


def _strata(rows: Sequence[Row], unit: str, seed: int) -> Mapping[int, list[str]]:
    """Units by their worst level, in an order that depends on nothing but the seed and their names."""
    worst: dict[str, int] = {}
    for row in rows:
        worst[row[unit]] = max(worst.get(row[unit], 0), int(row["grade"]))

    def order(name: str) -> tuple[bytes, str]:
        key = f"{seed}\0{name}".encode("utf-8", "surrogateescape")
        return hashlib.blake2b(key, digest_size=16).digest(), name

    strata: dict[int, list[str]] = defaultdict(list)
    for name in sorted(worst, key=order):
        strata[worst[name]].append(name)
    return strata


def _check(
    inventory: Path, title: str, part: Sequence[Row], rows: Sequence[Row], classes: Sequence[str], unit: str
) -> None:
    present = {row["grade"] for row in part}
    for level, name in enumerate(classes):
        if str(level) in present:
            continue
        count = _units([row for row in rows if row["grade"] == str(level)], unit)
        raise RetinaflowError(
            f"{inventory}: {title} has no photograph of class {name!r} (level {level}), expected some of each class; "
            f"the inventory has {count} {unit}s with one. "
            + (
                "Use fewer folds, another seed or another share of validation, or add photographs of that class."
                if count
                else "Add photographs of that class, or take it out of the classes."
            )
        )


def _units(rows: Sequence[Row], unit: str) -> int:
    return len({row[unit] for row in rows})
