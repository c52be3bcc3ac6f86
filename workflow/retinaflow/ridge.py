"""Ridge regression of the level on features; its strength, and its worth, are judged by patients it has not seen."""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from sklearn.decomposition import PCA
from sklearn.linear_model import Ridge
from sklearn.model_selection import PredefinedSplit, cross_val_predict
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from retinaflow.errors import RetinaflowError
from retinaflow.split import fold_patients

FOLDS = 5
# Of features scaled to deviation 1: from hardly any shrinkage of a few of them to little left of thousands.
STRENGTHS = tuple(10.0 ** (step / 2) for step in range(2, 14))
# As many as a thousand photographs have; of more, what varies least is left out.
COMPONENTS = 1024


class Fit(NamedTuple):
    """A regression; its ridge strength; and the severities float64 (n,) of what it was fitted to.

    Each of these is by a regression of that strength that was fitted without the photograph's patient.
    """

    regression: Pipeline
    strength: float
    held_out: np.ndarray

    def severity(self, features: np.ndarray) -> np.ndarray:
        """Of photographs that may be new: float64 (m,), about 0 to the highest level, from features (m, d)."""
        return self.regression.predict(features).astype(np.float64)


def fit(features: np.ndarray, levels: np.ndarray, patients: Sequence[str], seed: int) -> Fit:
    """Fit the ``levels`` int64 (n,) by ``features`` float (n, d) of photographs of ``patients``.

    Features are scaled to deviation 1 and turned into principal components, which changes nothing but the time it takes
    where there are at most ``COMPONENTS``. Of ``STRENGTHS`` (Hoerl and Kennard 1970, Ridge regression, Technometrics
    12(1), 55-67) the one is taken that errs least, in the mean square, on patients that were held out.

    Raises ``RetinaflowError`` if all photographs are of one patient.
    """
    components = PCA(min(COMPONENTS, *features.shape), random_state=seed)
    scaled = make_pipeline(StandardScaler(), components)
    reduced = scaled.fit_transform(features)
    parts = PredefinedSplit(patient_folds(levels, patients, seed))
    # The level once for each strength: scikit-learn then multiplies the features with each other once for all.
    targets = np.repeat(levels[:, np.newaxis].astype(reduced.dtype), len(STRENGTHS), axis=1)
    answers = cross_val_predict(Ridge(STRENGTHS), reduced, targets, cv=parts)
    best = int(np.mean((answers - targets) ** 2, axis=0).argmin())
    regression = make_pipeline(scaled, Ridge(STRENGTHS[best]).fit(reduced, levels))
    return Fit(regression, STRENGTHS[best], answers[:, best].astype(np.float64))


def rounds(
    features: np.ndarray, levels: np.ndarray, patients: Sequence[str], seed: int
) -> Iterator[tuple[np.ndarray, np.ndarray, Fit]]:
    """Fit without a part of the patients, in turn: photographs fitted to and held out, both int64, and the ``Fit``."""
    names = np.asarray(patients, dtype=object)
    for training, held_out in PredefinedSplit(patient_folds(levels, patients, seed)).split():
        yield training, held_out, fit(features[training], levels[training], names[training], seed)


def cross_fitted(features: np.ndarray, levels: np.ndarray, patients: Sequence[str], seed: int) -> np.ndarray:
    """Severity float64 (n,) of each photograph by a regression that has not seen its patient in any way."""
    severity = np.empty(len(levels))
    for _, held_out, fitted in rounds(features, levels, patients, seed):
        severity[held_out] = fitted.severity(features[held_out])
    return severity


def patient_folds(levels: np.ndarray, patients: Sequence[str], seed: int) -> np.ndarray:
    """Number of the fold of each photograph, int64 (n,): by patient, the worst levels spread evenly.

    Raises ``RetinaflowError`` if all photographs are of one patient.
    """
    rows = [{"patient": patient, "level": str(level)} for patient, level in zip(patients, levels, strict=True)]
    folds = np.array(fold_patients(rows, FOLDS, "patient", seed))
    if len(np.unique(folds)) < 2:
        raise RetinaflowError(
            f"found {len(set(patients))} patients with {len(folds)} photographs, which cannot be held out in turn. "
            "Add photographs of other patients, or check data.patient."
        )
    return folds
