"""Both eyes of a patient: diabetes harms them alike, so that each says something of the other."""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from scipy.sparse import csr_array


def fellows(patients: Sequence[str], eyes: Sequence[str]) -> csr_array:
    """Weights float64 (n, n) by which values of photographs average to those of each one's fellow eye.

    ``patients`` and ``eyes``: names (n,). Photographs of the same patient and another eye count alike. The row of a
    photograph without any, or whose own eye has no name, is empty.
    """
    members = defaultdict(list)
    for number, (patient, eye) in enumerate(zip(patients, eyes, strict=True)):
        if eye:
            members[patient].append((number, eye))
    rows, columns, weights = [], [], []
    for photographs in members.values():
        for number, eye in photographs:
            others = [other for other, another in photographs if another != eye]
            rows += [number] * len(others)
            columns += others
            weights += [1 / max(1, len(others))] * len(others)
    return csr_array((weights, (rows, columns)), shape=(len(patients), len(patients)))


def paired(weights: csr_array) -> np.ndarray:
    """Whether each photograph has a fellow eye: bool (n,), of the ``fellows`` (n, n)."""
    return np.diff(weights.indptr) > 0


def blend(outputs: np.ndarray, patients: Sequence[str], eyes: Sequence[str], weight: float) -> np.ndarray:
    """``outputs`` (n, width) of a model, averaged with the fellow eye's, which counts ``weight``, 0 to 1.

    A photograph without a fellow keeps its own. Rows that add up to 1, or that never rise, still do so.
    """
    weights = fellows(patients, eyes)
    share = weight * paired(weights)[:, np.newaxis]
    return (1 - share) * outputs + share * (weights @ outputs)


def both_eyes(features: np.ndarray, patients: Sequence[str], eyes: Sequence[str]) -> np.ndarray:
    """Features float32 (n, 2 d + 1) of both eyes: each photograph's own, its fellow's, and whether there is one.

    ``features``: float (n, d). Without a fellow its own stand there once more, as if both eyes were alike. To ridge
    regression, mean and difference of both would say the same, but on EyePACS graded worse: the difference, which
    varies less, would be scaled up.
    """
    weights = fellows(patients, eyes)
    has = paired(weights)[:, np.newaxis]
    own = features.astype(np.float32)
    return np.concatenate([own, np.where(has, weights @ own, own), has], axis=1, dtype=np.float32)
