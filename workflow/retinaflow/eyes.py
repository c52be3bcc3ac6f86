"""Both eyes of a patient: diabetes harms them alike, so that each says something of the other."""

from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from scipy.sparse import csr_array
from sklearn.linear_model import LinearRegression

from retinaflow import ridge


class Seen(NamedTuple):
    """What one network, not trained on them, makes of n photographs of ``patients`` and their ``eyes``, names (n,).

    ``severity``: float64 (n,); ``features``: float (n, 2 d).
    """

    patients: Sequence[str]
    eyes: Sequence[str]
    severity: np.ndarray
    features: np.ndarray


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
    """Features float32 (n, 2 d + 1) of both eyes: their mean, half of their difference, and whether there are two.

    ``features``: float (n, d), each photograph's own. Of a photograph without a fellow the mean is its own and the
    difference 0, as if both eyes were alike.
    """
    weights = fellows(patients, eyes)
    has = paired(weights)[:, np.newaxis]
    own = features.astype(np.float32)
    other = np.where(has, weights @ own, own)
    return np.concatenate([(own + other) / 2, (own - other) / 2, has], axis=1, dtype=np.float32)


class Fusion:
    """Severity by what a network makes of both eyes: a linear function of its severities, and of its features.

    The former is fitted by least squares; what it leaves, by ridge regression on what it does not tell of the features.
    That is ridge regression on both in which the severities are not shrunk (Frisch and Waugh 1933, Econometrica 1(4),
    387-401): where features add nothing, so large a strength is chosen that they count for nothing. It knows no other
    photographs than those it is fitted to, which must be such that the network was not trained on.
    """

    def __init__(self, seen: Seen, levels: np.ndarray, seed: int) -> None:
        """Fit to ``seen`` of known ``levels``, int64 (n,).

        Raises ``RetinaflowError`` if all photographs are of one patient.
        """
        both = both_eyes(seen.severity[:, np.newaxis], seen.patients, seen.eyes)
        features = both_eyes(seen.features, seen.patients, seen.eyes)
        self.line = LinearRegression().fit(both, levels)
        self.told = LinearRegression().fit(both, features)
        left = levels - self.line.predict(both)
        self.correction = ridge.fit(features - self.told.predict(both), left, levels, seen.patients, seed)

    def severity(self, seen: Seen) -> np.ndarray:
        """Of photographs that may be new: float64 (m,), about 0 to the highest level."""
        both = both_eyes(seen.severity[:, np.newaxis], seen.patients, seen.eyes)
        features = both_eyes(seen.features, seen.patients, seen.eyes)
        return self.line.predict(both) + self.correction.answer(features - self.told.predict(both))


def cross_fused(seen: Seen, levels: np.ndarray, seed: int) -> np.ndarray:
    """Severity float64 (n,) of each photograph by a ``Fusion`` that was fitted without its patient.

    Raises ``RetinaflowError`` if all photographs are of one patient.
    """
    severity = np.empty(len(levels))
    for training, held_out in ridge.divided(levels, seen.patients, seed):
        fusion = Fusion(_chosen(seen, training), levels[training], seed)
        severity[held_out] = fusion.severity(_chosen(seen, held_out))
    return severity


def _chosen(seen: Seen, places: np.ndarray) -> Seen:
    return Seen(
        [seen.patients[place] for place in places],
        [seen.eyes[place] for place in places],
        seen.severity[places],
        seen.features[places],
    )
