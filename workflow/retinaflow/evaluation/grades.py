"""Predictions for images, made from the raw outputs of a model; and grades as tables have them."""

import os
from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from retinaflow.errors import RetinaflowError
from retinaflow.storage.tables import REBUILD


class Grades(NamedTuple):
    """Predictions for n images and k grades.

    Attributes:
        severity: float64 (n,), 0 to k - 1.
        probabilities: float64 (n, k), calibrated; rows sum to 1.
        argmax: int64 (n,), the grade that the raw outputs give without fitted thresholds.
        predicted: int64 (n,), the grade by fitted thresholds on the severity.
        referable: bool (n,), by a fitted operating point.
    """

    severity: np.ndarray
    probabilities: np.ndarray
    argmax: np.ndarray
    predicted: np.ndarray
    referable: np.ndarray


def parse_grades(path: str | os.PathLike[str], texts: Iterable[str], grade_count: int) -> np.ndarray:
    """Convert a column of grades to int64 (n,).

    Args:
        path: The table, for the message.
        texts: The grades as the table has them (n,).
        grade_count: Number k of grades.

    Raises:
        RetinaflowError: A text is not one of 0 to k - 1.
    """
    numbers = {str(grade): grade for grade in range(grade_count)}
    texts = list(texts)
    grades = [numbers.get(text, -1) for text in texts]
    if -1 in grades:
        row = grades.index(-1)
        found = repr(texts[row])[:100]
        raise RetinaflowError(f"{path}: row {row + 1} has grade {found}, expected 0 to {grade_count - 1}. {REBUILD}")
    return np.array(grades, np.int64)
