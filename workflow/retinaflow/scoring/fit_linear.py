"""Fit linear models to the features of frozen backbones, and score them on images that they were not fitted to."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd

from retinaflow.data.frames import read_frame
from retinaflow.errors import RetinaflowError
from retinaflow.scoring import ridge
from retinaflow.scoring.eyes import both_eyes
from retinaflow.scoring.feature_files import read_features
from retinaflow.scoring.linear_model import LinearModel, package_versions, write_linear_model
from retinaflow.scoring.raw_outputs import OUTPUT_COLUMNS, RawOutputs, concatenated, write_raw_outputs
from retinaflow.storage.files import digest_files
from retinaflow.storage.tables import REBUILD

log = logging.getLogger(__name__)


class StoredSplit(NamedTuple):
    """Files of the images of one stored split: ``train``, ``validation``, a fold or a test set.

    Attributes:
        table: Index table.
        features: Pairs of feature file and row table, one of each network.
    """

    table: Path
    features: Sequence[tuple[Path, Path]]


class LinearRun(NamedTuple):
    """One fit of a linear model.

    Attributes:
        fitted: Stored splits that the model is fitted to.
        held_out: Split that it is scored on, stored or joined.
        file: File of the model.
    """

    fitted: Sequence[str]
    held_out: str
    file: Path


@dataclass(frozen=True)
class LinearJob:
    """Inputs, settings and outputs of a linear model.

    Attributes:
        model: Name of the model.
        eyes: ``one`` or ``both``.
        fallback: Model for images without fellow eye, None with one eye.
        networks: Description of each network, as ``inputs`` of ``LINEAR_RECORD`` without ``values``.
        splits: Files of all stored splits, by name.
        runs: One fit, or one for each fold.
        outputs: Table of raw outputs of the held-out images, and then of each test set. The keys are names of splits.
        grade_names: Names of the grades.
        seed: Seed of the folds that choose the strength.
        joined: Names of the stored splits of each split that is joined of several.
    """

    model: str
    eyes: str
    fallback: str | None
    networks: Sequence[Mapping[str, Any]]
    splits: Mapping[str, StoredSplit]
    runs: Sequence[LinearRun]
    outputs: Mapping[str, Path]
    grade_names: Sequence[str]
    seed: int
    joined: Mapping[str, Sequence[str]] = field(default_factory=dict)


class _Images(NamedTuple):
    """Images with the joined features of all networks, and the number of features of each network."""

    labels: pd.DataFrame
    features: np.ndarray
    widths: list[int]

    def values(self, eyes: str) -> np.ndarray:
        """Return the values of a model, float32 (n, w)."""
        if eyes == "one":
            return self.features.astype(np.float32)
        return both_eyes(self.features, self.labels["patient"].tolist(), self.labels["eye"].tolist())

    def raw_outputs(self, severity: np.ndarray) -> RawOutputs:
        return RawOutputs(
            images=self.labels["image"].tolist(),
            filenames=self.labels["filename"].tolist(),
            patients=self.labels["patient"].tolist(),
            eyes=self.labels["eye"].tolist(),
            grades=self.labels["grade"].to_numpy(np.int64),
            outputs=severity[:, np.newaxis],
        )


def fit_linear(job: LinearJob) -> list[LinearModel]:
    """Fit a linear model, and write it with its raw outputs for the held-out images and the test sets.

    With folds, one model is fitted without each fold. Each image of the training set is scored by the model that was
    fitted without it, and each image of a test set by the mean of the models.

    Returns:
        The models.

    Raises:
        RetinaflowError: A file is damaged, images have no features, or all images are of one patient.
    """
    images = {split: _read(files, job.networks) for split, files in job.splits.items()}
    images |= {split: _concatenated([images[name] for name in stored]) for split, stored in job.joined.items()}
    held_out, *tests = job.outputs
    models, scored = [], []
    for run in job.runs:
        model = _fit(job, run, images)
        models.append(model)
        of_split = images[run.held_out]
        scored.append(of_split.raw_outputs(model.predict(of_split.values(job.eyes))))
    write_raw_outputs(job.outputs[held_out], concatenated(scored))
    for split in tests:
        values = images[split].values(job.eyes)
        severity = np.mean([model.predict(values) for model in models], axis=0)
        write_raw_outputs(job.outputs[split], images[split].raw_outputs(severity))
    # Models last: a kill before leaves none, and Snakemake runs the job again.
    for run, model in zip(job.runs, models, strict=True):
        write_linear_model(run.file, model)
    return models


def _read(files: StoredSplit, networks: Sequence[Mapping[str, Any]]) -> _Images:
    labels = read_frame(files.table, OUTPUT_COLUMNS, types={"grade": int})
    joined = []
    for (features, rows), network in zip(files.features, networks, strict=True):
        array, names = read_features(features, rows)
        if not network["deviations"]:  # They are the second half. With one view, they are 0.
            array = array[:, : array.shape[1] // 2]
        places = {name: place for place, name in enumerate(names)}
        missing = [name for name in labels["image"] if name not in places]
        if missing:
            raise RetinaflowError(
                f"{features}: {len(missing)} images of {files.table} have no features, first {missing[0]!r}. {REBUILD}"
            )
        joined.append(array[[places[name] for name in labels["image"]]])
    return _Images(labels, np.concatenate(joined, axis=1), [part.shape[1] for part in joined])


def _concatenated(parts: Sequence[_Images]) -> _Images:
    return _Images(
        pd.concat([part.labels for part in parts], ignore_index=True),
        np.concatenate([part.features for part in parts]),
        parts[0].widths,
    )


def _fit(job: LinearJob, run: LinearRun, images: Mapping[str, _Images]) -> LinearModel:
    fitted = _concatenated([images[split] for split in run.fitted])
    grades, patients = fitted.labels["grade"].to_numpy(np.int64), fitted.labels["patient"].tolist()
    found = ridge.fit(fitted.values(job.eyes), grades, grades=grades, patients=patients, seed=job.seed)
    weights, intercept = found.affine()
    log.info("%s: fitted to %d images of %s, strength %g", job.model, len(grades), run.fitted, found.strength)
    record = {
        "model": job.model,
        "kind": "linear",
        "objective": "regression",
        "grade_names": list(job.grade_names),
        "eyes": job.eyes,
        "fallback": job.fallback,
        "inputs": [{**network, "values": width} for network, width in zip(job.networks, fitted.widths, strict=True)],
        "strength": found.strength,
        "images": len(grades),
        "patients": len(set(patients)),
        "seed": job.seed,
        "packages": package_versions(),
        "digests": {"train_index": digest_files([job.splits[split].table for split in run.fitted])},
    }
    return LinearModel(weights, intercept, record)
