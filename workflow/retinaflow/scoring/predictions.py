"""Grade the splits of a model: decision rule, predictions of each image, and metrics."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from retinaflow.data.frames import read_frame, write_frame
from retinaflow.evaluation.grades import Grades, GradeScale, Ranking
from retinaflow.evaluation.metrics import evaluate, without_referable
from retinaflow.networks import objectives
from retinaflow.scoring.data_set_rules import cross_fit_data_sets, images_of_sets, name_of_split, with_data_sets
from retinaflow.scoring.decision_rules import (
    DecisionRule,
    LabelledOutputs,
    apply_decision_rule,
    fit_decision_rule,
    write_decision_rule,
)
from retinaflow.scoring.raw_outputs import RawOutputs, fold_strata, raw_rows, read_raw_outputs
from retinaflow.storage.integrity import write_document

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
        scales: Scale of each test set whose labels have other grades. Predictions and metrics have its grades. No
            decision rule is fitted on it.
        folds: Index tables of the folds, if the first split has the images that each fold holds out.
        local: Patients of test sets that refit the model. Predictions and metrics leave them out.
        data_sets: Names of the joined training sets; none if there is one. Each has a decision rule of its own, which
            grades its held-out images and the test set of the same name.
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
    scales: Mapping[str, GradeScale] = field(default_factory=dict)
    folds: Sequence[Path] = ()
    local: Mapping[str, frozenset[str]] = field(default_factory=dict)
    data_sets: Sequence[str] = ()

    def names_of(self, split: str) -> Sequence[str]:
        """Names of the grades of a split."""
        return self.scales[split].names if split in self.scales else self.grade_names


def grade_model(job: GradingJob) -> dict[str, np.ndarray]:
    """Fit the decision rule of a model, and write it with the predictions and metrics of each split.

    Images of the first split are graded by cross-fitting: by decision rules that were fitted on other patients.

    Args:
        job: Inputs, settings and outputs.

    Returns:
        Confusion matrix of each split, int64 (k, k), rows actual. With a scale, k is its number of grades.
    """
    raw_outputs = {
        split: read_raw_outputs(path, job.objective, grade_count=len(job.grade_names), kind=job.kind)
        for split, path in job.raw_outputs.items()
    }
    held_out = next(iter(raw_outputs))
    known = raw_outputs[held_out]
    rule, cross_fitted = _fit(job, known)
    matrices = {}
    for split, of_all in raw_outputs.items():
        is_local = np.isin(of_all.patients, sorted(job.local.get(split, ())))
        of_split = raw_rows(of_all, ~is_local)
        of_set = rule.of_data_set(name_of_split(split))
        grades = cross_fitted if split == held_out else apply_decision_rule(of_set, of_split.outputs)
        scale = job.scales.get(split)
        if scale is not None:
            grades = scale.merge(grades, job.referable_grade)
        write_predictions(job.predictions[split], of_split, grades, job.names_of(split))
        # Cross-fitted probabilities of different groups of patients have no common scale.
        ranking = _ranking(job, rule, of_split) if split == held_out else None
        metrics = _metrics(job, split, of_split, grades, ranking=ranking)
        network = job.model.partition("/fold-")[0]
        header: dict[str, Any] = {
            "model": job.model,
            "network": network,
            "split": split,
            "grade_names": list(job.names_of(split)),
        }
        if scale is not None:
            header["joined_grades"] = _joined(scale, job.grade_names)
        if is_local.any():
            left_out = {name for name, local in zip(of_all.patients, is_local, strict=True) if local}
            header["recalibration"] = {"images": int(is_local.sum()), "patients": len(left_out)}
        if job.data_sets:
            header["decision_rule"] = _rule_record(rule, split, held_out)
        write_document(job.metrics[split], {**header, **metrics})
        _log_metrics(job.model, split, metrics)
        matrices[split] = np.array(metrics["confusion_matrix"])
    write_decision_rule(job.decision_rule, rule)
    return matrices


def _fit(job: GradingJob, known: RawOutputs) -> tuple[DecisionRule, Grades]:
    """Fit the decision rule on held-out images, and predict each of them by a rule of other patients."""
    labelled = LabelledOutputs(job.objective, job.grade_names, known.outputs, known.grades, known.patients)
    members = images_of_sets(known.images, job.data_sets)
    sensitivity = job.referable_sensitivity
    rule = fit_decision_rule(labelled, job.referable_grade, referable_sensitivity=sensitivity, seed=job.seed)
    cross_fitted = cross_fit_data_sets(
        labelled, job.referable_grade, members=members, referable_sensitivity=sensitivity, seed=job.seed
    )
    return with_data_sets(rule, labelled, members, seed=job.seed), cross_fitted


def _rule_record(rule: DecisionRule, split: str, held_out: str) -> dict[str, Any]:
    """Which decision rule graded a split: that of one training set, those of each, or that of all together."""
    own = sorted(rule.data_sets) if split == held_out else [name_of_split(split)]
    own = [name for name in own if name in rule.data_sets]
    one = rule.of_data_set(own[0]) if own and split != held_out else rule
    return {"data_sets": own, "images": one.images, "patients": one.patients}


def write_predictions(path: Path, raw_outputs: RawOutputs, grades: Grades, grade_names: Sequence[str]) -> None:
    """Write a table with one row an image.

    The columns are ``PREDICTION_COLUMNS``, ``probability_NAME`` for each grade, and ``GRADE_COLUMNS``. The predicted
    grade uses the thresholds, ``argmax_grade`` does not. ``referable`` is 0 or 1, by the referral threshold.

    Args:
        path: Table to write.
        raw_outputs: Names and true grades of n images.
        grades: Predictions for the same images, in the same order.
        grade_names: Names of the k grades.
    """
    names = np.array(grade_names, dtype=object)
    columns = {
        "image": raw_outputs.images,
        "filename": raw_outputs.filenames,
        "grade_name": names[raw_outputs.grades],
        "grade": raw_outputs.grades.tolist(),
        "predicted_grade_name": names[grades.predicted],
        "predicted_grade": grades.predicted.tolist(),
        **{
            f"probability_{name}": _nine_digits(probabilities)
            for name, probabilities in zip(grade_names, grades.probabilities.T, strict=True)
        },
        "patient": raw_outputs.patients,
        "eye": raw_outputs.eyes,
        "severity": _nine_digits(grades.severity),
        "argmax_grade_name": names[grades.argmax],
        "argmax_grade": grades.argmax.tolist(),
        "referable": grades.referable.astype(np.int64).tolist(),
    }
    write_frame(path, pd.DataFrame(columns, dtype=object))


def _nine_digits(values: np.ndarray) -> list[str]:
    return [f"{value:.9g}" for value in values.tolist()]


def _joined(scale: GradeScale, grade_names: Sequence[str]) -> dict[str, list[str]]:
    """Names of the grades that each grade of a scale joins."""
    joined: dict[str, list[str]] = {name: [] for name in scale.names}
    for name, number in zip(grade_names, scale.of_grade, strict=True):
        joined[scale.names[number]].append(name)
    return joined


def _ranking(job: GradingJob, rule: DecisionRule, raw_outputs: RawOutputs) -> Ranking:
    """Scores of the held-out images by one decision rule."""
    probabilities = apply_decision_rule(rule, raw_outputs.outputs).probabilities
    return Ranking(probabilities, fold_strata(job.folds, raw_outputs.images) if job.folds else None)


def _metrics(
    job: GradingJob, split: str, raw_outputs: RawOutputs, grades: Grades, *, ranking: Ranking | None
) -> dict[str, Any]:
    """Metrics of the predictions for one split."""
    scale, uncalibrated = job.scales.get(split), None
    referable = scale.referable_grade(job.referable_grade) if scale else job.referable_grade
    # A regression has no probabilities before its standard deviation is fitted.
    if job.objective != "regression":
        uncalibrated = objectives.grade_probabilities(job.objective, raw_outputs.outputs, len(job.grade_names), 1.0)
        uncalibrated = scale.merge_probabilities(uncalibrated) if scale else uncalibrated
    metrics = evaluate(
        raw_outputs.grades,
        grades,
        grade_names=job.names_of(split),
        referable_grade=referable or 1,
        patients=raw_outputs.patients,
        eyes=raw_outputs.eyes,
        bootstrap_samples=job.bootstrap_samples,
        seed=job.seed,
        uncalibrated=uncalibrated,
        quality=read_quality(job.inventories, raw_outputs.images) if job.inventories else None,
        ranking=ranking,
    )
    return without_referable(metrics) if referable is None else metrics


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
    """Read the quality of ``images`` from the tables ``inventories``: float64 (n,), 0 to 1, NaN if it is unknown."""
    known: dict[str, float] = {}
    for inventory in inventories:
        frame = read_frame(inventory, ("image", "quality", "problem"))
        usable = frame[frame["problem"] == ""]
        known.update(zip(usable["image"], map(float, usable["quality"]), strict=True))
    return np.array([known.get(image, np.nan) for image in images], np.float64)
