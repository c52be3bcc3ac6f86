"""Calibration: of the images graded with a probability of 80 %, 80 % should be correct."""

from typing import NamedTuple

import numpy as np

BINS = 15


class Reliability(NamedTuple):
    """Points of a reliability diagram over m equal bins of the top probability; bin i is (i / m, (i + 1) / m].

    Attributes:
        images: int64 (m,), number of images in each bin.
        confidence: float64 (m,), mean top probability of the images in a bin; NaN in an empty bin.
        accuracy: float64 (m,), share of the images in a bin that have the most probable grade; NaN in an empty bin.
    """

    images: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    @property
    def expected_calibration_error(self) -> float:
        """Mean distance between confidence and accuracy over the images, 0 to 1.

        Guo et al. (2017), On calibration of modern neural networks, arXiv:1706.04599, equation 3.
        """
        filled = self.images > 0
        distances = np.abs(self.confidence - self.accuracy)[filled]
        return float(np.average(distances, weights=self.images[filled]))


def reliability(actual: np.ndarray, probabilities: np.ndarray, bins: int = BINS) -> Reliability:
    """Bin images by their top probability. ``actual``: int (n,), n > 0; ``probabilities``: float (n, k)."""
    confidence = probabilities.max(axis=1)
    correct = probabilities.argmax(axis=1) == actual
    bin_of = np.searchsorted(np.arange(1, bins) / bins, confidence, side="left")
    images, confidences, hits = (np.bincount(bin_of, values, bins) for values in (None, confidence, correct))
    with np.errstate(invalid="ignore"):  # an empty bin is 0 / 0
        return Reliability(images, confidences / images, hits / images)
