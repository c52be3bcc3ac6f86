"""Ridge regression on features, with its strength chosen by cross-validation over patients."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from sklearn.model_selection import PredefinedSplit, cross_val_predict
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from retinaflow.data.folds import assign_folds
from retinaflow.errors import RetinaflowError

FOLDS = 5
# For features scaled to deviation 1: from hardly any shrinkage of a few features to complete shrinkage of thousands.
STRENGTHS = tuple(10.0 ** (step / 2) for step in range(2, 17))
# Threads of linear algebra, for any number of cores. The number decides how sums are rounded. More threads than cores
# wait for each other and need ten times as long as one thread.
THREADS = 2
# Largest number of principal components. A thousand images have no more; of more images, the least variance is lost.
COMPONENTS = 1024


class RidgeFit(NamedTuple):
    """A fitted ridge regression.

    Attributes:
        regression: The regression.
        strength: Its ridge strength.
        held_out: Predictions for the images that it was fitted to, float64 (n,). Each is by a regression of the same
            strength that was fitted without the patient of the image.
    """

    regression: Pipeline
    strength: float
    held_out: np.ndarray

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Return predictions for images, float64 (m,), from their ``features`` (m, d)."""
        return self.regression.predict(features).astype(np.float64)

    def affine(self) -> tuple[np.ndarray, float]:
        """Return the weight of each feature, float64 (d,), and the intercept. Scaling and components are in them."""
        scaled, line = self.regression[0], self.regression[1]
        scaler, components = scaled[0], scaled[1]
        turned = line.coef_.astype(np.float64) @ components.components_.astype(np.float64)
        weights = turned / scaler.scale_
        return weights, float(line.intercept_ - weights @ scaler.mean_ - turned @ components.mean_.astype(np.float64))


def fit(
    features: np.ndarray, target: np.ndarray, *, grades: np.ndarray, patients: Sequence[str], seed: int
) -> RidgeFit:
    """Fit a ridge regression of a target on features.

    Features are scaled to deviation 1 and turned into principal components. Up to ``COMPONENTS``, these only save time.
    The strength is the one of ``STRENGTHS`` with the least mean squared error on held-out patients (Hoerl and Kennard
    1970, Ridge regression, Technometrics 12(1), 55-67).

    Args:
        features: Features of the images, float (n, d).
        target: Values to predict, (n,).
        grades: Grades, int64 (n,). Each fold has the same share of each worst grade.
        patients: Names of the patients (n,).
        seed: Seed of the folds.

    Returns:
        The fitted regression.

    Raises:
        RetinaflowError: All images are of one patient.
    """
    scaled = make_pipeline(StandardScaler(), PCA(min(COMPONENTS, *features.shape), random_state=seed))
    reduced = scaled.fit_transform(features)
    # One copy of the target for each strength: scikit-learn then computes the products of the features only once.
    targets = np.repeat(target[:, np.newaxis].astype(reduced.dtype), len(STRENGTHS), axis=1)
    folds = PredefinedSplit(_fold_numbers(grades, patients, seed))
    predicted = cross_val_predict(Ridge(STRENGTHS), reduced, targets, cv=folds)
    best = int(np.mean((predicted - targets) ** 2, axis=0).argmin())
    regression = make_pipeline(scaled, Ridge(STRENGTHS[best]).fit(reduced, target))
    return RidgeFit(regression, STRENGTHS[best], predicted[:, best].astype(np.float64))


def patient_folds(grades: np.ndarray, patients: Sequence[str], seed: int) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield the places of training images and of held-out images of each fold, both int64.

    Each fold holds out a fifth of the patients, with an equal share of each worst grade. The folds depend on ``seed``
    and on the names of the patients, not on their order.

    Args:
        grades: Grades, int64 (n,).
        patients: Names of the patients (n,).
        seed: Seed of the folds.

    Raises:
        RetinaflowError: All images are of one patient.
    """
    yield from PredefinedSplit(_fold_numbers(grades, patients, seed)).split()


def _fold_numbers(grades: np.ndarray, patients: Sequence[str], seed: int) -> np.ndarray:
    folds = assign_folds(patients, grades.tolist(), folds=FOLDS, seed=seed)
    if len(np.unique(folds)) < 2:
        raise RetinaflowError(
            f"found {len(set(patients))} patients with {len(folds)} images to fit on, expected at least 2 patients, so "
            "that one can be held out. Add images, hold out more (split.validation), set eyes.models to [] or check "
            "data.patient_pattern."
        )
    return folds
