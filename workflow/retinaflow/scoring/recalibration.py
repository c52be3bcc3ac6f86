"""A new site: its own patients refit decision rule and operating points, and all other patients show the gain."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from retinaflow.evaluation.accuracy import Estimate
from retinaflow.evaluation.binary_calibration import calibration_line
from retinaflow.evaluation.proportions import proportion
from retinaflow.evaluation.units import LEFT_OUT, StudyUnits, count_results
from retinaflow.scoring.decision_rules import DecisionRule, LabelledOutputs, apply_decision_rule, fit_decision_rule
from retinaflow.scoring.evidence import EvidencePlan, EvidenceRow, fit_cut, referred
from retinaflow.scoring.raw_outputs import raw_rows
from retinaflow.scoring.study_images import StudyImages

RECALIBRATION_COLUMNS = (
    *("split", "endpoint", "unit", "operating_point", "correction", "local_patients", "patients", "cut"),
    *("metric", "value", "low", "high"),
)
UNCORRECTED, RECALIBRATED, LOCAL_CUT = "uncorrected", "recalibrated", "local operating point"
# Numbers of local patients of the curve, and draws of each.
CURVE_SIZES = (25, 50, 100, 200, 400, 800)
DRAWS = 40


def recalibration_rows(
    plan: EvidencePlan, known: StudyImages, study: StudyImages, rule: DecisionRule
) -> list[EvidenceRow]:
    """Rows of ``RECALIBRATION_COLUMNS`` of a test set, all of patients that refit nothing.

    - ``uncorrected``: decision rule and operating points of the split ``known``.
    - ``recalibrated``: both refitted on the local patients of the test set, who are in no other result.
    - ``local operating point``: the curve. The operating point alone is refitted on more and more patients. Values are
      means over ``DRAWS`` draws, and ``low`` and ``high`` contain 95 % of the draws.

    Args:
        plan: Decisions that were fixed before.
        known: Images of the validation split.
        study: Images of the test set; none without local patients.
        rule: Decision rule of the model.
    """
    local = study.local
    if local is None:
        return []
    new = _refitted_rule(local, rule, plan.seed)
    new_site, new_rest = _by_rule(local, new), _by_rule(study, new)
    count = len(set(local.patients))
    rows = [
        *_rows(plan, known, study, correction=UNCORRECTED, local_patients=0),
        *_rows(plan, new_site, new_rest, correction=RECALIBRATED, local_patients=count),
    ]
    row = {"split": study.split, "patients": len(set(study.patients))}
    rng = np.random.default_rng(plan.seed)
    curve = [one for endpoint in plan.defined(study) for one in _curve(plan, study, endpoint, rng)]
    return [*({**row, **one} for one in rows), *({"split": study.split, **one} for one in curve)]


def _refitted_rule(local: StudyImages, rule: DecisionRule, seed: int) -> DecisionRule:
    """Decision rule that the gradable images of the ``local`` patients fit."""
    raw = raw_rows(local.raw, np.isfinite(local.probabilities[: len(local.raw.images), 0]))
    labelled = LabelledOutputs(rule.objective, rule.grade_names, raw.outputs, raw.grades, raw.patients)
    return fit_decision_rule(
        labelled, rule.referable_grade, referable_sensitivity=rule.referable_sensitivity, seed=seed
    )


def _by_rule(study: StudyImages, rule: DecisionRule) -> StudyImages:
    """The images with the probabilities of another decision rule."""
    probabilities = np.full_like(study.probabilities, np.nan)
    probabilities[: len(study.raw.images)] = apply_decision_rule(rule, study.raw.outputs).probabilities
    probabilities[~np.isfinite(study.probabilities[:, 0])] = np.nan
    return replace(study, probabilities=probabilities, calibrated=probabilities)


def _rows(
    plan: EvidencePlan, fitted_on: StudyImages, rest: StudyImages, *, correction: str, local_patients: int
) -> Iterator[EvidenceRow]:
    row: dict[str, Any] = {"correction": correction, "local_patients": local_patients}
    for endpoint in plan.defined(rest):
        units = plan.units(rest, endpoint, "image", calibrated=True)
        usable = units.gradable
        line = calibration_line(units.gradable_positive[usable], units.risk[usable], units.members[usable])
        of_line = {"slope": line.slope, "in_the_large": line.in_the_large}
        for metric, value in of_line.items():
            yield {**row, "endpoint": endpoint, "unit": "image", "metric": metric, **value._asdict()}
        fitted, patients = (plan.units(images, endpoint, "patient") for images in (fitted_on, rest))
        for point in plan.operating_points:
            flagged, cut = referred(fitted, patients, point, seed=plan.seed, patients=fitted_on.patients)
            for metric, value in _shares(patients, flagged).items():
                of_point = {"endpoint": endpoint, "unit": "patient", "operating_point": point, "cut": cut}
                yield {**row, **of_point, "metric": metric, **value._asdict()}


def _shares(units: StudyUnits, flagged: np.ndarray) -> Mapping[str, Estimate]:
    positive, result, members = count_results(units, flagged, LEFT_OUT)
    found = {
        "sensitivity": proportion(result[positive], members[positive]),
        "specificity": proportion(~result[~positive], members[~positive]),
    }
    return {name: Estimate(share.value, share.low, share.high) for name, share in found.items()}


def _curve(plan: EvidencePlan, study: StudyImages, endpoint: str, rng: np.random.Generator) -> Iterator[EvidenceRow]:
    """Rows of the curve of the first operating point: how many local patients are needed to reach its aim."""
    units, point = plan.units(study, endpoint, "patient"), plan.operating_points[0]
    usable = np.flatnonzero(units.gradable)
    positive, risk = units.gradable_positive[usable], units.risk[usable]
    for size in (one for one in CURVE_SIZES if 2 * one <= len(usable)):
        values: dict[str, list[float]] = {"sensitivity": [], "specificity": []}
        for _ in range(DRAWS):
            order = rng.permutation(len(usable))
            local, others = order[:size], order[size:]
            flagged = risk[others] >= fit_cut(positive[local], risk[local], point)
            truth = positive[others]
            values["sensitivity"] += [float(flagged[truth].mean())] if truth.any() else []
            values["specificity"] += [float((~flagged[~truth]).mean())] if not truth.all() else []
        yield from _curve_rows(values, {"endpoint": endpoint, "operating_point": point, "local_patients": size})


def _curve_rows(values: Mapping[str, Sequence[float]], row: EvidenceRow) -> Iterator[EvidenceRow]:
    for metric, drawn in values.items():
        if drawn:
            low, high = np.quantile(drawn, [0.025, 0.975]).tolist()
            value = {"metric": metric, "value": float(np.mean(drawn)), "low": low, "high": high}
            yield {**row, "unit": "patient", "correction": LOCAL_CUT, **value}
