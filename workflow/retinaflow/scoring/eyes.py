"""Values of both eyes of a patient. Retinopathy is similar in both, so each improves the grade of its fellow eye."""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from retinaflow.scoring.linear_model import join_eyes


class FellowEyes(NamedTuple):
    """A sparse matrix (n, n) that averages values over the images of each image's fellow eye. Needs no SciPy.

    Attributes:
        starts: Place of the first entry of each row in ``columns``, int64 (n + 1,).
        columns: Images of the fellow eye of each image, int64 (m,).
    """

    starts: np.ndarray
    columns: np.ndarray

    def __matmul__(self, values: np.ndarray) -> np.ndarray:
        """Return the mean values of the fellow eye, float64 (n, d), or 0 without one, for ``values`` (n, d)."""
        counts = np.diff(self.starts)
        filled = np.flatnonzero(counts)
        means = np.zeros(values.shape)
        if len(self.columns) == len(filled):
            means[filled] = values[self.columns]
        else:
            shares = np.repeat(1 / np.maximum(1, counts), counts)[:, np.newaxis]
            means[filled] = np.add.reduceat(shares * values[self.columns], self.starts[filled], axis=0)
        return means


def fellow_eye_weights(patients: Sequence[str], eyes: Sequence[str]) -> FellowEyes:
    """Return a matrix that averages values over the images of each image's fellow eye.

    These are the images of the same patient with another eye; all of them have the same weight.

    Args:
        patients: Names of the patients (n,).
        eyes: Names of the eyes (n,), "" for an unknown eye.

    Returns:
        Weights (n, n). The row of an image without fellow eye, or of an unknown eye, is empty.
    """
    members = defaultdict(list)
    for number, (patient, eye) in enumerate(zip(patients, eyes, strict=True)):
        if eye:
            members[patient].append((number, eye))
    fellows: list[list[int]] = [[] for _ in patients]
    for images in members.values():
        for number, eye in images:
            fellows[number] = [other for other, other_eye in images if other_eye != eye]
    starts = np.cumsum([0, *map(len, fellows)])
    return FellowEyes(starts, np.array([other for of_image in fellows for other in of_image], np.int64))


def have_fellow_eye(weights: FellowEyes) -> np.ndarray:
    """Return which images have a fellow eye, bool (n,), from their ``fellow_eye_weights`` (n, n)."""
    return np.diff(weights.starts) > 0


def average_eyes(
    outputs: np.ndarray, patients: Sequence[str], *, eyes: Sequence[str], fellow_eye_weight: float
) -> np.ndarray:
    """Average the raw outputs of each image with those of its fellow eye.

    Rows that sum to 1 still do, and rows that never rise still never rise.

    Args:
        outputs: Raw outputs of a model, float (n, width).
        patients: Names of the patients (n,).
        eyes: Names of the eyes (n,), "" for an unknown eye.
        fellow_eye_weight: Weight of the fellow eye in the average, 0 to 1.

    Returns:
        float64 (n, width). An image without fellow eye has its own raw outputs.
    """
    weights = fellow_eye_weights(patients, eyes)
    share = fellow_eye_weight * have_fellow_eye(weights)[:, np.newaxis]
    return (1 - share) * outputs + share * (weights @ outputs)


def both_eyes(features: np.ndarray, patients: Sequence[str], eyes: Sequence[str]) -> np.ndarray:
    """Join the features of each image with those of its fellow eye.

    An image without fellow eye has its own features twice, as if both eyes were alike. The mean and the difference of
    both eyes have the same information. On EyePACS, ridge regression on them had a lower kappa: the difference varies
    less and would be scaled up.

    Args:
        features: float (n, d).
        patients: Names of the patients (n,).
        eyes: Names of the eyes (n,), "" for an unknown eye.

    Returns:
        float32 (n, 2 d + 1): its own features, those of the fellow eye, and whether there is a fellow eye.
    """
    weights = fellow_eye_weights(patients, eyes)
    own = features.astype(np.float32)
    return join_eyes(own, weights @ own, have_fellow_eye(weights))
