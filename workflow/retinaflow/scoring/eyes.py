"""Values of both eyes of a patient. Retinopathy is similar in both, so each improves the grade of its fellow eye."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_array

from retinaflow.scoring.linear_model import join_eyes


def fellow_eye_weights(patients: Sequence[str], eyes: Sequence[str]) -> csr_array:
    """Return a matrix that averages values over the images of each image's fellow eye.

    These are the images of the same patient with another eye; all of them have the same weight.

    Args:
        patients: Names of the patients (n,).
        eyes: Names of the eyes (n,), "" for an unknown eye.

    Returns:
        float64 (n, n). The row of an image without fellow eye, or of an unknown eye, is empty.
    """
    members = defaultdict(list)
    for number, (patient, eye) in enumerate(zip(patients, eyes, strict=True)):
        if eye:
            members[patient].append((number, eye))
    rows, columns, weights = [], [], []
    for images in members.values():
        for number, eye in images:
            fellows = [other for other, other_eye in images if other_eye != eye]
            rows += [number] * len(fellows)
            columns += fellows
            weights += [1 / max(1, len(fellows))] * len(fellows)
    return csr_array((weights, (rows, columns)), shape=(len(patients), len(patients)))


def have_fellow_eye(weights: csr_array) -> np.ndarray:
    """Return which images have a fellow eye, bool (n,), from their ``fellow_eye_weights`` (n, n)."""
    return np.diff(weights.indptr) > 0


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
