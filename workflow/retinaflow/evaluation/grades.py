"""What is said of photographs, once the outputs of a network have been turned into answers."""

from typing import NamedTuple

import numpy as np


class Grades(NamedTuple):
    """Answers to n photographs, for k classes in order of severity.

    ``severity``: float64 (n,), 0 to k - 1. ``probabilities``: float64 (n, k), calibrated, rows sum to 1. ``plain``:
    int64 (n,), the level that the outputs name by themselves. ``level``: int64 (n,), by fitted thresholds on the
    severity. ``referable``: bool (n,), by a fitted operating point.
    """

    severity: np.ndarray
    probabilities: np.ndarray
    plain: np.ndarray
    level: np.ndarray
    referable: np.ndarray
