"""Whether probabilities mean what they say: of the photographs graded with 80 % certainty, 80 % should be right."""

from typing import NamedTuple

import numpy as np

BINS = 15


class Reliability(NamedTuple):
    """The points of a reliability diagram over m equal bins of the top probability; bin i is (i / m, (i + 1) / m].

    ``images``: int64 (m,). ``confidence``, ``accuracy``: float64 (m,), mean top probability of a bin's photographs and
    the share of them that are of the most probable class; NaN in an empty bin.
    """

    images: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    @property
    def expected_calibration_error(self) -> float:
        """Mean distance between confidence and accuracy over the photographs, 0 to 1.

        Guo et al. (2017), On calibration of modern neural networks, arXiv:1706.04599, equation 3.
        """
        filled = self.images > 0
        distances = np.abs(self.confidence - self.accuracy)[filled]
        return float(np.average(distances, weights=self.images[filled]))


def reliability(actual: np.ndarray, probabilities: np.ndarray, bins: int = BINS) -> Reliability:
    """Bin photographs by their top probability. ``actual``: int (n,), n > 0; ``probabilities``: float (n, k)."""
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == actual
    bin_of = np.searchsorted(np.arange(1, bins) / bins, confidence, side="left")
    images, confident, correct = (np.bincount(bin_of, values, bins) for values in (None, confidence, right))
    with np.errstate(invalid="ignore"):  # an empty bin is 0 / 0
        return Reliability(images, confident / images, correct / images)
