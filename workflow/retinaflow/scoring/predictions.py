"""Grade the splits of a model: decision rule, predictions of each image, and metrics."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from retinaflow.evaluation.grades import Grades
from retinaflow.evaluation.metrics import evaluate
from retinaflow.networks import objectives
from retinaflow.scoring.decision_rules import Labelled, cross_fitted, fit, grade, write_decision_rule
from retinaflow.scoring.raw_outputs import Outputs, read_outputs
from retinaflow.storage.files import write_json
from retinaflow.storage.tables import stream_table, write_table

log = logging.getLogger(__name__)

PREDICTION_COLUMNS = ("image", "filename", "grade_name", "grade", "predicted_grade_name", "predicted_grade")
GRADE_COLUMNS = ("patient", "eye", "severity", "argmax_grade_name", "argmax_grade", "referable")


@dataclass(frozen=True)
class GradingJob:
    """Inputs, settings and outputs of the grading of one model.

    Attributes:
        model: Name of the model; a fold of a network is ``NETWORK/fold-N``.
        objective: Objective of the model, which tells how its raw outputs are read.
        raw_outputs: Table of raw outputs of each split. The decision rule is fitted on the first split, which the
            model did not train on.
        inventories: Inventory tables with the quality of the images. May be empty.
        grade_names: Names of the k grades, in order of severity.
        referable_grade: Lowest referable grade, 1 to k - 1.
        referable_sensitivity: Sensitivity that the referral threshold must reach, above 0, at most 1.
        bootstrap_samples: Number of bootstrap samples, 0 for no intervals.
        seed: Seed of the cross-fitting and of the bootstrap.
        decision_rule: File of the decision rule.
        predictions: Table of predictions of each split.
        metrics: Metrics file of each split.
        kind: Columns of the raw outputs: ``output``, or ``no_tta``.
    """

    model: str
    objective: str
    raw_outputs: Mapping[str, Path]
    inventories: Sequence[Path]
    grade_names: Sequence[str]
    referable_grade: int
    referable_sensitivity: float
    bootstrap_samples: int
    seed: int
    decision_rule: Path
    predictions: Mapping[str, Path]
    metrics: Mapping[str, Path]
    kind: str = "output"


def grade_model(job: GradingJob) -> dict[str, np.ndarray]:
    """Fit the decision rule of a model, and write it with the predictions and metrics of each split.

    Images of the first split are graded by cross-fitting: by decision rules that were fitted on other patients.

    Args:
        job: Inputs, settings and outputs.

    Returns:
        Confusion matrix of each split, int64 (k, k), rows actual.
    """
    raw_outputs = {
        split: read_outputs(path, job.objective, len(job.grade_names), job.kind)
        for split, path in job.raw_outputs.items()
    }
    held_out = next(iter(raw_outputs))
    known = raw_outputs[held_out]
    labelled = Labelled(job.objective, job.grade_names, known.outputs, known.grades, known.patients)
    options = labelled, job.referable_grade, job.referable_sensitivity, job.seed
    rule = fit(*options)
    matrices = {}
    for split, outputs in raw_outputs.items():
        grades = cross_fitted(*options) if split == held_out else grade(rule, outputs.outputs)
        write_predictions(job.predictions[split], outputs, grades, job.grade_names)
        metrics = _metrics(job, outputs, grades)
        network = job.model.split("/")[0]
        header = {"model": job.model, "network": network, "split": split, "grade_names": list(job.grade_names)}
        write_json(job.metrics[split], {**header, **metrics})
        _log_metrics(job.model, split, metrics)
        matrices[split] = np.array(metrics["confusion_matrix"])
    write_decision_rule(job.decision_rule, rule)
    return matrices


def write_predictions(path: Path, outputs: Outputs, grades: Grades, grade_names: Sequence[str]) -> None:
    """Write a table with one row an image.

    The columns are ``PREDICTION_COLUMNS``, ``probability_NAME`` for each grade, and ``GRADE_COLUMNS``. The predicted
    grade uses the thresholds, ``argmax_grade`` does not. ``referable`` is 0 or 1, by the referral threshold.

    Args:
        path: Table to write.
        outputs: Names and true grades of n images.
        grades: Predictions for the same images, in the same order.
        grade_names: Names of the k grades.
    """
    columns = [f"probability_{name}" for name in grade_names]
    values = [
        outputs.grades.tolist(),
        *(array.tolist() for array in (grades.predicted, grades.argmax, grades.severity, grades.referable)),
        grades.probabilities.tolist(),
    ]
    write_table(
        path,
        [*PREDICTION_COLUMNS, *columns, *GRADE_COLUMNS],
        (
            {
                "image": image,
                "filename": filename,
                "grade_name": grade_names[actual],
                "grade": actual,
                "predicted_grade_name": grade_names[predicted],
                "predicted_grade": predicted,
                **{column: f"{value:.9g}" for column, value in zip(columns, probabilities, strict=True)},
                "patient": patient,
                "eye": eye,
                "severity": f"{severity:.9g}",
                "argmax_grade_name": grade_names[argmax],
                "argmax_grade": argmax,
                "referable": int(referable),
            }
            for image, filename, patient, eye, actual, predicted, argmax, severity, referable, probabilities in zip(
                outputs.images, outputs.filenames, outputs.patients, outputs.eyes, *values, strict=True
            )
        ),
    )


def _metrics(job: GradingJob, outputs: Outputs, grades: Grades) -> dict[str, Any]:
    """Metrics of the predictions for one split."""
    uncalibrated = None
    # A regression has no probabilities before its standard deviation is fitted.
    if job.objective != "regression":
        uncalibrated = objectives.grade_probabilities(job.objective, outputs.outputs, len(job.grade_names), 1.0)
    return evaluate(
        outputs.grades,
        grades,
        grade_names=job.grade_names,
        referable_grade=job.referable_grade,
        patients=outputs.patients,
        eyes=outputs.eyes,
        bootstrap_samples=job.bootstrap_samples,
        seed=job.seed,
        uncalibrated=uncalibrated,
        quality=read_quality(job.inventories, outputs.images) if job.inventories else None,
    )


def _log_metrics(model: str, split: str, metrics: Mapping[str, Any]) -> None:
    log.info(
        "%s on %s: %d images, accuracy %.4f (always %s: %.4f), quadratic weighted kappa %s (without thresholds: %s)",
        model,
        split,
        metrics["images"],
        metrics["accuracy"],
        metrics["baseline"]["grade_name"],
        metrics["baseline"]["accuracy"],
        metrics["quadratic_weighted_kappa"],
        metrics["argmax"]["quadratic_weighted_kappa"],
    )


def read_quality(inventories: Iterable[Path], images: Sequence[str]) -> np.ndarray:
    """Quality float64 (n,), 0 to 1, of ``images`` from the tables ``inventories``; NaN if it is unknown."""
    known = {
        row["image"]: float(row["quality"])
        for inventory in inventories
        for row in stream_table(inventory, ("image", "quality", "problem"))
        if not row["problem"]
    }
    return np.array([known.get(image, np.nan) for image in images], np.float64)
