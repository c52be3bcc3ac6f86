"""Ridge regression on features; its strength, and its worth, are judged by patients that it has not seen."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from sklearn.model_selection import PredefinedSplit, cross_val_predict
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from retinaflow.data.split import fold_photographs
from retinaflow.errors import RetinaflowError

FOLDS = 5
# Of features scaled to deviation 1: from hardly any shrinkage of a few of them to nothing left of thousands.
STRENGTHS = tuple(10.0 ** (step / 2) for step in range(2, 17))
# Of linear algebra, whatever the number of cores: sums are rounded by how they are divided, and more threads than cores
# wait for each other, ten times as long as one computes.
THREADS = 2
# As many as a thousand photographs have; of more, what varies least is left out.
COMPONENTS = 1024


class Fit(NamedTuple):
    """A regression; its ridge strength; and its answers float64 (n,) to what it was fitted to.

    Each of these is by a regression of that strength that was fitted without the photograph's patient.
    """

    regression: Pipeline
    strength: float
    held_out: np.ndarray

    def answer(self, features: np.ndarray) -> np.ndarray:
        """To photographs that may be new: float64 (m,), from features (m, d)."""
        return self.regression.predict(features).astype(np.float64)


def fit(features: np.ndarray, target: np.ndarray, grades: np.ndarray, patients: Sequence[str], seed: int) -> Fit:
    """Fit ``target`` (n,) by ``features`` float (n, d) of photographs of int64 (n,) ``grades`` and of ``patients``.

    Features are scaled to deviation 1 and turned into principal components, which changes nothing but the time it takes
    where there are at most ``COMPONENTS``. Of ``STRENGTHS`` (Hoerl and Kennard 1970, Ridge regression, Technometrics
    12(1), 55-67) the one is taken that errs least, in the mean square, on patients that were held out.

    Raises ``RetinaflowError`` if all photographs are of one patient.
    """
    scaled = make_pipeline(StandardScaler(), PCA(min(COMPONENTS, *features.shape), random_state=seed))
    reduced = scaled.fit_transform(features)
    # The target once for each strength: scikit-learn then multiplies the features with each other once for all.
    targets = np.repeat(target[:, np.newaxis].astype(reduced.dtype), len(STRENGTHS), axis=1)
    answers = cross_val_predict(Ridge(STRENGTHS), reduced, targets, cv=PredefinedSplit(_folds(grades, patients, seed)))
    best = int(np.mean((answers - targets) ** 2, axis=0).argmin())
    regression = make_pipeline(scaled, Ridge(STRENGTHS[best]).fit(reduced, target))
    return Fit(regression, STRENGTHS[best], answers[:, best].astype(np.float64))


def divided(grades: np.ndarray, patients: Sequence[str], seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Places of training and of held-out photographs, each int64: each fifth of the patients is held out in turn.

    The worst grades are spread evenly. It depends on ``seed`` and on the patients' names, not on their order.
    Raises ``RetinaflowError`` if all photographs are of one patient.
    """
    yield from PredefinedSplit(_folds(grades, patients, seed)).split()


def _folds(grades: np.ndarray, patients: Sequence[str], seed: int) -> np.ndarray:
    folds = np.array(fold_photographs(patients, grades.tolist(), FOLDS, seed))
    if len(np.unique(folds)) < 2:
        raise RetinaflowError(
            f"found {len(set(patients))} patients with {len(folds)} photographs to fit on, too few to hold out in "
            "turn. Add photographs, hold out more (split.validation), set eyes.models to [] or check "
            "data.patient_pattern."
        )
    return folds
