"""Predictions for images, made from the raw outputs of a model."""

from typing import NamedTuple

import numpy as np


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
