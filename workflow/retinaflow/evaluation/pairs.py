"""Paired differences: by how much one model has a higher kappa than another on the same images."""

from collections.abc import Mapping
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np

from retinaflow.data.frames import read_frame
from retinaflow.errors import RetinaflowError
from retinaflow.evaluation.bootstrap import bootstrap_kappas, interval, kappa
from retinaflow.evaluation.grades import parse_grades
from retinaflow.storage.tables import REBUILD

PAIR_COLUMNS = ("split", "model", "other_model", "difference", "low", "high", "share")
COMPARED_COLUMNS = ("filename", "patient", "grade", "predicted_grade")


class Pair(NamedTuple):
    """Quadratic weighted kappa of a ``model`` minus that of the ``other_model``.

    ``difference`` is None if one of the kappas is undefined. The last three are None if they are undefined, or without
    bootstrap samples.

    Attributes:
        model: Name of a model.
        other_model: Name of the model that it is compared with.
        difference: Difference of the kappas, -2 to 2.
        low: Lower end of the 95 % interval.
        high: Upper end of the 95 % interval.
        share: Share of the bootstrap samples in which the model is better, ties half; 0 to 1.
    """

    model: str
    other_model: str
    difference: float | None
    low: float | None
    high: float | None
    share: float | None

    def reversed(self) -> "Pair":
        """Return the difference of the ``other_model`` to the ``model``."""
        difference, low, high = (None if value is None else -value for value in self[2:5])
        return Pair(self.other_model, self.model, difference, high, low, None if self.share is None else 1 - self.share)


class PredictedGrades(NamedTuple):
    """Predicted grades of several models for the same n images.

    Attributes:
        patients: Names of the patients (n,).
        actual: True grades, int64 (n,), 0 to k - 1.
        predicted: Predicted grades of each model, int64 (n,), in the order of the models.
        grade_count: Number k of grades.
    """

    patients: list[str]
    actual: np.ndarray
    predicted: dict[str, np.ndarray]
    grade_count: int


def read_predicted_grades(predictions: Mapping[str, Path], grade_count: int) -> PredictedGrades:
    """Read the tables of predictions of several models for the same split.

    Args:
        predictions: Table of each model, at least one.
        grade_count: Number k of grades.

    Returns:
        The grades, ordered by filename.

    Raises:
        RetinaflowError: A table cannot be read, or two tables have different images.
    """
    (model, path), *others = predictions.items()
    first = _read(path, grade_count)
    predicted = {model: first.predicted}
    for other, table in others:
        read = _read(table, grade_count)
        _check_same(table, read, path, first)
        predicted[other] = read.predicted
    return PredictedGrades(first.patients, first.actual, predicted, grade_count)


def compare_pairs(grades: PredictedGrades, *, samples: int, seed: int) -> list[Pair]:
    """Compare each model with all that come after it.

    Args:
        grades: Predicted grades of all models.
        samples: Number of bootstrap samples of the patients (module ``bootstrap``), the same for all models.
        seed: Seed of the bootstrap.

    Returns:
        The pairs, in the order of the models.
    """
    kappas = [_kappa(grades.actual, predicted, grades.grade_count) for predicted in grades.predicted.values()]
    # With a single patient, all bootstrap samples are the same.
    drawn = bootstrap_kappas(
        grades.actual,
        list(grades.predicted.values()),
        grade_count=grades.grade_count,
        patients=grades.patients,
        samples=samples if len(set(grades.patients)) > 1 else 0,
        seed=seed,
    )
    return [
        _pair(model, other, kappas[one] - kappas[two], drawn[one] - drawn[two])
        for (one, model), (two, other) in combinations(enumerate(grades.predicted), 2)
    ]


class _Predictions(NamedTuple):
    """A table of predictions, ordered by filename: names (n,), and int64 (n,) ``actual`` and ``predicted``."""

    filenames: list[str]
    patients: list[str]
    actual: np.ndarray
    predicted: np.ndarray


def _read(path: Path, grade_count: int) -> _Predictions:
    frame = read_frame(path, COMPARED_COLUMNS)
    if frame.empty:
        raise RetinaflowError(f"{path}: found no image, expected at least one. {REBUILD}")
    for column in ("grade", "predicted_grade"):
        frame[column] = parse_grades(path, frame[column], grade_count)
    frame = frame.sort_values(list(COMPARED_COLUMNS))
    return _Predictions(
        frame["filename"].tolist(),
        frame["patient"].tolist(),
        frame["grade"].to_numpy(),
        frame["predicted_grade"].to_numpy(),
    )


def _check_same(path: Path, read: _Predictions, other: Path, expected: _Predictions) -> None:
    for name, values, others in zip(("filename", "patient", "grade"), read[:3], expected[:3], strict=True):
        if list(values) != list(others):
            raise RetinaflowError(f"{path}: a {name} differs from {other}; expected the same images. {REBUILD}")


def _kappa(actual: np.ndarray, predicted: np.ndarray, grade_count: int) -> float:
    counts = np.bincount(actual * grade_count + predicted, minlength=grade_count**2)
    return float(kappa(counts.reshape(grade_count, grade_count)))


def _pair(model: str, other: str, difference: float, drawn: np.ndarray) -> Pair:
    low, high = interval(drawn) or (None, None)
    share = None if low is None else float(np.nanmean(np.sign(drawn)) / 2 + 0.5)
    return Pair(model, other, difference if np.isfinite(difference) else None, low, high, share)
