"""Eye stacking: severity from the outputs and features of a network for both eyes.

It is fitted to images that the network was not trained on.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from sklearn.linear_model import LinearRegression

from retinaflow.errors import RetinaflowError
from retinaflow.networks import objectives
from retinaflow.scoring import ridge
from retinaflow.scoring.eyes import both_eyes
from retinaflow.scoring.feature_files import read_features
from retinaflow.scoring.linear_model import LinearModel, package_versions, write_linear_model
from retinaflow.scoring.raw_outputs import RawOutputs, concatenated, read_raw_outputs, write_raw_outputs
from retinaflow.storage.tables import REBUILD

log = logging.getLogger(__name__)


class StackingInputs(NamedTuple):
    """Severities and features of n images by one network that was not trained on them.

    Attributes:
        patients: Names of the patients (n,).
        eyes: Names of the eyes (n,).
        severity: Severities, float64 (n,).
        features: Features, float (n, 2 d).
    """

    patients: Sequence[str]
    eyes: Sequence[str]
    severity: np.ndarray
    features: np.ndarray

    def at(self, places: np.ndarray) -> "StackingInputs":
        """Return the images at ``places``, int64 (m,)."""
        return StackingInputs(
            [self.patients[place] for place in places],
            [self.eyes[place] for place in places],
            self.severity[places],
            self.features[places],
        )

    def of_both_eyes(self) -> tuple[np.ndarray, np.ndarray]:
        """Return severities float32 (n, 3) and features float32 (n, 4 d + 1) of both eyes."""
        severities = both_eyes(self.severity[:, np.newaxis], self.patients, self.eyes)
        return severities, both_eyes(self.features, self.patients, self.eyes)


class EyeStacking:
    """Severity as a linear function of the severities and the features of both eyes.

    Least squares fits the part of the severities. Ridge regression then fits the rest on the features, less their part
    that follows from the severities. It equals a ridge regression on both that does not shrink the severities (Frisch
    and Waugh 1933, Econometrica 1(4), 387-401). If features add nothing, the chosen strength shrinks them to nothing.
    """

    def __init__(self, inputs: StackingInputs, grades: np.ndarray, seed: int) -> None:
        """Fit to images of known grades.

        Args:
            inputs: Images that the network was not trained on.
            grades: Their grades, int64 (n,).
            seed: Seed of the folds.

        Raises:
            RetinaflowError: All images are of one patient.
        """
        severities, features = inputs.of_both_eyes()
        self._line = LinearRegression().fit(severities, grades)
        self._features = LinearRegression().fit(severities, features)
        rest = grades - self._line.predict(severities)
        self._correction = ridge.fit(
            features - self._features.predict(severities), rest, grades=grades, patients=inputs.patients, seed=seed
        )

    def affine(self) -> tuple[np.ndarray, float]:
        """Return the stacking as one weighted sum, without the part that follows from the fit in steps.

        Returns:
            The weights, float64 (2 (1 + 2 d) + 1,): severity and features of the image, those of the fellow eye, and
            whether there is one; and the intercept.
        """
        weights, intercept = self._correction.affine()
        severities = self._line.coef_ - weights @ self._features.coef_
        half = len(weights) // 2
        joined = [severities[:1], weights[:half], severities[1:2], weights[half:-1], [severities[2] + weights[-1]]]
        return np.concatenate(joined), float(self._line.intercept_ + intercept - weights @ self._features.intercept_)

    @property
    def strength(self) -> float:
        """Return the strength of the ridge regression."""
        return self._correction.strength

    def severity(self, inputs: StackingInputs) -> np.ndarray:
        """Return the severities of images, float64 (m,), about 0 to the highest grade."""
        severities, features = inputs.of_both_eyes()
        rest = features - self._features.predict(severities)
        return self._line.predict(severities) + self._correction.predict(rest)


def cross_fit_stacking(inputs: StackingInputs, grades: np.ndarray, seed: int) -> np.ndarray:
    """Compute the severity of each image by an eye stacking that was fitted without its patient.

    Args:
        inputs: Images that the network was not trained on.
        grades: Their grades, int64 (n,).
        seed: Seed of the folds.

    Returns:
        Severities, float64 (n,).

    Raises:
        RetinaflowError: All images are of one patient.
    """
    severity = np.empty(len(grades))
    for training, held_out in ridge.patient_folds(grades, inputs.patients, seed):
        stacking = EyeStacking(inputs.at(training), grades[training], seed)
        severity[held_out] = stacking.severity(inputs.at(held_out))
    return severity


class RunFiles(NamedTuple):
    """Files of one training run and one split.

    Attributes:
        raw_outputs: Table of raw outputs.
        features: File of features.
        rows: Table of the images of the features.
    """

    raw_outputs: Path
    features: Path
    rows: Path


@dataclass(frozen=True)
class StackingModels:
    """Files of the fitted stackings, and what their records say.

    Attributes:
        model: Name of the model.
        network: Name of the network, which grades images without fellow eye.
        inputs: Description of each training run, as ``inputs`` of ``LINEAR_RECORD`` without ``values``.
        grade_names: Names of the grades.
        files: A file for each training run.
    """

    model: str
    network: str
    inputs: Sequence[Mapping[str, Any]]
    grade_names: Sequence[str]
    files: Sequence[Path]


def stack_eyes(
    runs: Mapping[str, Sequence[RunFiles]],
    outputs: Mapping[str, Path],
    *,
    objective: str,
    models: StackingModels,
    seed: int,
) -> None:
    """Write the severities of the eye stacking of a network as raw outputs of a regression, and its models.

    The features of each training run have their own meaning, so each run has its own eye stacking. Each image of the
    first split is graded without its patient. With several runs, the folds, their images are joined. The severities
    of the other splits are means over the runs.

    Args:
        runs: Files of each training run, by split. The runs were not trained on the first split.
        outputs: Table of raw outputs to write, by split.
        objective: Objective of the network.
        models: Files of the stackings that are fitted to all images of the first split.
        seed: Seed of the folds.

    Raises:
        RetinaflowError: Raw outputs and features are not of the same images.
    """
    held_out, *others = runs
    grade_count = len(models.grade_names)
    read = [_read(files, objective, grade_count) for files in runs[held_out]]
    cross_fit = [
        raw._replace(outputs=cross_fit_stacking(inputs, raw.grades, seed)[:, np.newaxis]) for raw, inputs in read
    ]
    write_raw_outputs(outputs[held_out], concatenated(cross_fit))
    stackings = [EyeStacking(inputs, raw.grades, seed) for raw, inputs in read]
    log.info("strengths of the ridge regressions: %s", [stacking.strength for stacking in stackings])
    for split in others:
        severities = []
        for stacking, files in zip(stackings, runs[split], strict=True):
            raw, inputs = _read(files, objective, grade_count)
            severities.append(stacking.severity(inputs))
        write_raw_outputs(outputs[split], raw._replace(outputs=np.mean(severities, axis=0)[:, np.newaxis]))
    for place, (stacking, (raw, inputs)) in enumerate(zip(stackings, read, strict=True)):
        write_linear_model(
            models.files[place], _linear_model(stacking, models, place, raw=raw, inputs=inputs, seed=seed)
        )


def _linear_model(
    stacking: EyeStacking,
    models: StackingModels,
    place: int,
    *,
    raw: RawOutputs,
    inputs: StackingInputs,
    seed: int,
) -> LinearModel:
    weights, intercept = stacking.affine()
    record = {
        "model": models.model,
        "kind": "eye_stacking",
        "objective": "regression",
        "grade_names": list(models.grade_names),
        "eyes": "both",
        "fallback": models.network,
        "inputs": [{**models.inputs[place], "values": 1 + inputs.features.shape[1]}],
        "strength": stacking.strength,
        "images": len(raw.images),
        "patients": len(set(raw.patients)),
        "seed": seed,
        "packages": package_versions(),
        "digests": {},
    }
    return LinearModel(weights, intercept, record)


def _read(files: RunFiles, objective: str, grade_count: int) -> tuple[RawOutputs, StackingInputs]:
    raw = read_raw_outputs(files.raw_outputs, objective, grade_count=grade_count)
    features, images = read_features(files.features, files.rows)
    if images != raw.images:
        raise RetinaflowError(
            f"{files.features}: {len(images)} images, expected the {len(raw.images)} of {files.raw_outputs} in their "
            f"order. {REBUILD}"
        )
    severity = objectives.severity(objective, raw.outputs, grade_count)
    return raw, StackingInputs(raw.patients, raw.eyes, severity, features)
