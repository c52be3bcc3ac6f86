"""Whether one system grades better than another on the same photographs, or was just lucky with these patients."""

from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np

from retinaflow.errors import RetinaflowError
from retinaflow.evaluation.bootstrap import interval, kappa, replicate_kappas
from retinaflow.storage.tables import REBUILD, stream_table

PAIR_COLUMNS = ("split", "model", "other_model", "difference", "low", "high", "share")
ANSWER_COLUMNS = ("filename", "patient", "grade", "predicted_grade")


class Pair(NamedTuple):
    """By how much the quadratic weighted kappa of a ``model`` is above that of the ``other_model``.

    ``low``, ``high``: 95 % interval; ``share``: of replicates in which the model is ahead, ties half. None where
    undefined: ``difference`` without one of the kappas; the rest also without replicates.
    """

    model: str
    other_model: str
    difference: float | None
    low: float | None
    high: float | None
    share: float | None

    def reversed(self) -> "Pair":
        """The same of the ``other_model`` over the ``model``."""
        difference, low, high = (None if value is None else -value for value in self[2:5])
        return Pair(self.other_model, self.model, difference, high, low, None if self.share is None else 1 - self.share)


def compare_pairs(predictions: Mapping[str, Path], classes: int, replicates: int, seed: int) -> list[Pair]:
    """Each system with all that come after it, in the order of ``predictions``: their tables of one part.

    The bootstrap draws patients with replacement, by ``seed`` and for all systems alike: ``bootstrap``.
    Raises ``RetinaflowError`` if a table cannot be read, or two are not of the same photographs.
    """
    (system, path), *others = predictions.items()
    first = _read(path, classes)
    given = {system: first.levels}
    for other, table in others:
        answers = _read(table, classes)
        _check_same(table, answers, path, first)
        given[other] = answers.levels
    found = [_kappa(first.actual, levels, classes) for levels in given.values()]
    # One patient drawn with replacement is always the same one.
    draws = replicates if len(set(first.patients)) > 1 else 0
    drawn = replicate_kappas(first.actual, list(given.values()), classes, first.patients, draws, seed)
    return [
        _pair(system, other, found[one] - found[two], drawn[one] - drawn[two])
        for (one, system), (two, other) in combinations(enumerate(given), 2)
    ]


class _Answers(NamedTuple):
    """A table of predictions, in the order of its filenames: names (n,), and int64 (n,) ``actual`` and ``levels``."""

    filenames: list[str]
    patients: list[str]
    actual: np.ndarray
    levels: np.ndarray


def _read(path: Path, classes: int) -> _Answers:
    indices = {str(level): level for level in range(classes)}
    rows = []
    for number, row in enumerate(stream_table(path, ANSWER_COLUMNS), start=1):
        try:
            actual, level = (indices[row[column]] for column in ANSWER_COLUMNS[2:])
        except KeyError as error:
            raise RetinaflowError(
                f"{path}: row {number} has grade {str(error)[:100]}, expected 0 to {classes - 1}. {REBUILD}"
            ) from error
        rows.append((row["filename"], row["patient"], actual, level))
    if not rows:
        raise RetinaflowError(f"{path}: found no photograph, expected at least one. {REBUILD}")
    filenames, patients, actuals, levels = (list(column) for column in zip(*sorted(rows), strict=True))
    return _Answers(filenames, patients, np.array(actuals), np.array(levels))


def _check_same(path: Path, answers: _Answers, other: Path, expected: _Answers) -> None:
    for name, mine, its in zip(("filename", "patient", "grade"), answers[:3], expected[:3], strict=True):
        if list(mine) != list(its):
            raise RetinaflowError(
                f"{path}: a {name} is another than in {other}; expected the same photographs. {REBUILD}"
            )


def _kappa(actual: np.ndarray, levels: np.ndarray, classes: int) -> float:
    counts = np.bincount(actual * classes + levels, minlength=classes**2)
    return float(kappa(counts.reshape(classes, classes)))


def _pair(system: str, other: str, difference: float, drawn: np.ndarray) -> Pair:
    low, high = interval(drawn) or (None, None)
    ahead = None if low is None else float(np.nanmean(np.sign(drawn)) / 2 + 0.5)
    return Pair(system, other, difference if np.isfinite(difference) else None, low, high, ahead)
