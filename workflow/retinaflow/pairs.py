"""Whether one system grades better than another on the same photographs, or was just lucky with these patients."""

from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np

from retinaflow.bootstrap import interval, kappa, patient_indices, replicate_kappas
from retinaflow.errors import RetinaflowError
from retinaflow.tables import REBUILD, stream_table

PAIR_COLUMNS = ("part", "system", "other", "difference", "low", "high", "share")
ANSWER_COLUMNS = ("filename", "patient", "actual_class_index", "pred_class_index")


class Pair(NamedTuple):
    """By how much the quadratic weighted kappa of a ``system`` is above that of the ``other``.

    ``low``, ``high``: 95 % interval; ``share``: of replicates in which the system is ahead, ties half. None where
    undefined: ``difference`` without one of the kappas; the rest also without replicates.
    """

    system: str
    other: str
    difference: float | None
    low: float | None
    high: float | None
    share: float | None

    def reversed(self) -> "Pair":
        """The same of the ``other`` over the ``system``."""
        difference, low, high = (None if value is None else -value for value in self[2:5])
        return Pair(self.other, self.system, difference, high, low, None if self.share is None else 1 - self.share)


def compare_pairs(predictions: Mapping[str, Path], classes: int, replicates: int, seed: int) -> list[Pair]:
    """Each system with all that come after it, in the order of ``predictions``: their tables of one part.

    The bootstrap draws patients with replacement, by ``seed`` and for all systems alike: ``bootstrap``.
    Raises ``RetinaflowError`` if a table cannot be read, or two are not of the same photographs.
    """
    answers = {system: _read(path, classes) for system, path in predictions.items()}
    _check_together(predictions, answers)
    _, patients, actual, _ = next(iter(answers.values()))
    given = [answer.levels for answer in answers.values()]
    found = [_kappa(actual, levels, classes) for levels in given]
    several = replicates > 0 and patient_indices(patients).max() > 0
    drawn = (
        replicate_kappas(actual, given, classes, patients, replicates, seed) if several else np.empty((len(given), 0))
    )
    return [
        _pair(system, other, found[first] - found[second], drawn[first] - drawn[second])
        for (first, system), (second, other) in combinations(enumerate(answers), 2)
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
                f"{path}: row {number} has class {str(error)[:100]}, expected 0 to {classes - 1}. {REBUILD}"
            ) from error
        rows.append((row["filename"], row["patient"], actual, level))
    if not rows:
        raise RetinaflowError(f"{path}: found no photograph, expected at least one. {REBUILD}")
    filenames, patients, actuals, levels = (list(column) for column in zip(*sorted(rows), strict=True))
    return _Answers(filenames, patients, np.array(actuals), np.array(levels))


def _check_together(predictions: Mapping[str, Path], answers: Mapping[str, _Answers]) -> None:
    first, *others = answers
    for other in others:
        for name, mine, its in zip(
            ("filename", "patient", "class"), answers[other][:3], answers[first][:3], strict=False
        ):
            if list(mine) != list(its):
                raise RetinaflowError(
                    f"{predictions[other]}: a {name} is another than in {predictions[first]}; expected the same "
                    f"photographs. {REBUILD}"
                )


def _kappa(actual: np.ndarray, levels: np.ndarray, classes: int) -> float:
    counts = np.bincount(actual * classes + levels, minlength=classes**2)
    return float(kappa(counts.reshape(classes, classes)))


def _pair(system: str, other: str, difference: float, drawn: np.ndarray) -> Pair:
    low, high = interval(drawn) or (None, None)
    ahead = None if low is None else float(np.nanmean(np.sign(drawn)) / 2 + 0.5)
    return Pair(system, other, difference if np.isfinite(difference) else None, low, high, ahead)
