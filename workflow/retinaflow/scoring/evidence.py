"""Tables of the evidence for a clinical review: one model, its endpoints, operating points, subgroups and sizes."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from retinaflow.data.inventory import SUBGROUP
from retinaflow.evaluation.accuracy import Estimate, Sampling, assess_results, assess_scores
from retinaflow.evaluation.binary_calibration import brier, calibration_line, net_benefit
from retinaflow.evaluation.proportions import (
    Proportion,
    p_value_above,
    proportion,
    units_for_power,
    units_for_width,
    wilson,
)
from retinaflow.evaluation.subgroups import GroupedUnits, GroupMetric, Guard, bands, compare_groups, correct_together
from retinaflow.evaluation.units import COUNTINGS, LEFT_OUT, UNITS, StudyUnits, count_results, group_units
from retinaflow.scoring.decision_rules import operating_point, patient_groups
from retinaflow.scoring.study_images import StudyImages, group_columns

ENDPOINT_COLUMNS = (
    *("split", "endpoint", "unit", "operating_point", "cut", "counting"),
    *("units", "patients", "positive", "true_positive", "false_positive", "false_negative", "true_negative"),
    *("metric", "value", "low", "high", "wilson_low", "wilson_high", "design_effect"),
    *("target", "p_superiority", "p_non_inferiority"),
)
CALIBRATION_COLUMNS = ("split", "endpoint", "unit", "units", "patients", "positive", "metric", "value", "low", "high")
NET_BENEFIT_COLUMNS = ("split", "endpoint", "threshold", "net_benefit", "low", "high", "refer_all", "refer_nobody")
SUBGROUP_COLUMNS = (
    *("split", "endpoint", "operating_point", "unit", "column", "group", "units", "patients", "metric", "events"),
    *("value", "low", "high", "difference", "difference_low", "difference_high", "p_value", "corrected_p_value"),
    "guarded",
)
SIZE_COLUMNS = (
    *("split", "endpoint", "operating_point", "metric", "value", "units_per_patient", "design_effect"),
    *("question", "patients", "answer"),
)
THRESHOLDS = np.arange(1, 61) / 100
STUDY_SIZES = (100, 200, 500, 1000, 2000, 5000)
WIDTHS = (0.1, 0.05)
POWERS = (0.8, 0.9)
# The quality of an image in the inventory is a subgroup, too.
OWN_SUBGROUPS = ("quality", "camera")

EvidenceRow = dict[str, Any]


@dataclass(frozen=True)
class EvidencePlan:
    """Decisions that were fixed before the study.

    Attributes:
        endpoints: Grades of each endpoint, by its name.
        also_positive: Subgroup columns that make an image positive for an endpoint.
        operating_points: Operating points, such as ``sensitivity 0.90`` or ``threshold 0.50``. At least one.
        prevalences: Prevalences for predictive values.
        targets: Sensitivity and specificity to exceed.
        margin: Margin of non-inferiority.
        guard: Smallest subgroup.
        bands: Edges of the bands of columns of numbers.
        samples: Number of bootstrap samples.
        seed: Seed of bootstrap and cross-fitting.
    """

    endpoints: Mapping[str, Sequence[int]]
    also_positive: Mapping[str, Sequence[str]]
    operating_points: Sequence[str]
    prevalences: Sequence[float]
    targets: Mapping[str, float]
    margin: float
    guard: Guard
    bands: Mapping[str, Sequence[float]]
    samples: int
    seed: int

    def defined(self, study: StudyImages) -> dict[str, list[int]]:
        """Grades of each endpoint that the grades of ``study`` define."""
        found = {name: study.own_grades(grades) for name, grades in self.endpoints.items()}
        return {name: grades for name, grades in found.items() if grades is not None}

    def positive(self, study: StudyImages, endpoint: str) -> np.ndarray:
        """Truth of each image of ``study``, bool (n,)."""
        return study.positive(self.defined(study)[endpoint], self.also_positive.get(endpoint, ()))

    def units(self, study: StudyImages, endpoint: str, unit: str, *, calibrated: bool = False) -> StudyUnits:
        """Units of ``study``."""
        grades = self.defined(study)[endpoint]
        return group_units(study.units_of(self.positive(study, endpoint), grades, calibrated=calibrated), unit)


def fit_cut(positive: np.ndarray, risk: np.ndarray, point: str) -> float:
    """Return the cut of an operating point: units with at least this risk are referred.

    Args:
        positive: Truth of units that the model did not train on, bool (n,).
        risk: Their risk, float64 (n,), 0 to 1.
        point: ``sensitivity S``, ``specificity S`` or ``threshold T``.
    """
    kind, text = point.split()
    if kind == "sensitivity":
        return operating_point(risk, positive, float(text))
    if kind == "specificity":
        return 1 - operating_point(1 - risk, ~positive, float(text))
    return float(text)


def referred(
    known: StudyUnits, units: StudyUnits, point: str, *, seed: int, patients: Sequence[str]
) -> tuple[np.ndarray, float]:
    """Return the result of each unit, bool (u,), and the cut.

    Args:
        known: Units of the validation split.
        units: Units to refer. If they are ``known`` themselves, each has a cut that was fitted on other patients.
        point: The operating point.
        seed: Seed of the groups of patients.
        patients: Patient of each image of ``known``.
    """
    usable = known.gradable
    cut = fit_cut(known.gradable_positive[usable], known.risk[usable], point)
    if units is not known or point.startswith("threshold"):
        return _at_least(units.risk, cut), cut
    names = np.empty(len(units.risk), dtype=object)
    names[units.of_image] = patients
    groups = patient_groups(names.tolist(), units.positive.astype(int).tolist(), seed)
    flagged = np.zeros(len(units.risk), dtype=bool)
    for group in np.unique(groups):
        inside, others = groups == group, (groups != group) & usable
        of_group = fit_cut(known.gradable_positive[others], known.risk[others], point)
        flagged[inside] = _at_least(units.risk[inside], of_group)
    return flagged, cut


def _at_least(risk: np.ndarray, cut: float) -> np.ndarray:
    return np.isfinite(risk) & (np.nan_to_num(risk) >= cut)


def endpoint_rows(plan: EvidencePlan, known: StudyImages, study: StudyImages) -> list[EvidenceRow]:
    """Rows of ``ENDPOINT_COLUMNS`` of a split, by operating points that were fitted on the split ``known``."""
    rows = []
    for endpoint in plan.defined(study):
        found: list[EvidenceRow] = []
        for unit in UNITS:
            fitted = plan.units(known, endpoint, unit)
            units = fitted if study is known else plan.units(study, endpoint, unit)
            # With one image an eye, the rows of the images are those of the eyes.
            if unit != "eye" or len(fitted.risk) < len(known.grades) or len(units.risk) < len(study.grades):
                found = list(_unit_rows(plan, (known, study), (fitted, units)))
            rows += [{"split": study.split, "endpoint": endpoint, "unit": unit, **row} for row in found]
    return rows


def _unit_rows(
    plan: EvidencePlan, studies: tuple[StudyImages, StudyImages], of_studies: tuple[StudyUnits, StudyUnits]
) -> Iterator[EvidenceRow]:
    """Rows of the units of a split, the second one, by operating points of the first one."""
    (known, study), (fitted, units) = studies, of_studies
    yield from _score_rows(plan, study, units)
    for point in plan.operating_points:
        flagged, cut = referred(fitted, units, point, seed=plan.seed, patients=known.patients)
        for counting in (LEFT_OUT,) if units.complete.all() else COUNTINGS:
            row = {"operating_point": point, "cut": cut, "counting": counting}
            yield from ({**row, **one} for one in _result_rows(plan, count_results(units, flagged, counting)))


def _score_rows(plan: EvidencePlan, study: StudyImages, units: StudyUnits) -> Iterator[EvidenceRow]:
    """Rows of areas and of imageability, which need no operating point."""
    share = proportion(units.gradable, units.members)
    yield _proportion_row(share, Estimate(share.value, share.low, share.high), metric="imageability")
    usable = units.gradable
    positive = units.gradable_positive[usable]
    sampling = Sampling(units.members[usable], plan.samples, plan.seed)
    counts = {"units": len(positive), "patients": len(np.unique(sampling.members)), "positive": int(positive.sum())}
    for metric, found in assess_scores(positive, units.risk[usable], sampling, strata=_strata(study, units)).items():
        yield {**counts, "metric": metric, **found._asdict()}


def _strata(study: StudyImages, units: StudyUnits) -> np.ndarray | None:
    """Fold of each unit with a result, int64 (m,); None if one network scored all."""
    if study.strata is None:
        return None
    strata = np.zeros(len(units.risk), dtype=np.int64)
    strata[units.of_image] = study.strata
    return strata[units.gradable]


def _result_rows(plan: EvidencePlan, found: tuple[np.ndarray, np.ndarray, np.ndarray]) -> Iterator[EvidenceRow]:
    """Rows of the metrics of one result."""
    positive, flagged, members = found
    counts = {
        "units": len(positive),
        "patients": len(np.unique(members)),
        "positive": int(positive.sum()),
        "true_positive": int((positive & flagged).sum()),
        "false_positive": int((~positive & flagged).sum()),
        "false_negative": int((positive & ~flagged).sum()),
        "true_negative": int((~positive & ~flagged).sum()),
    }
    sampling = Sampling(members, plan.samples, plan.seed)
    shares = {
        "sensitivity": proportion(flagged[positive], members[positive]),
        "specificity": proportion(~flagged[~positive], members[~positive]),
        "ppv": proportion(positive[flagged], members[flagged]),
        "npv": proportion(~positive[~flagged], members[~flagged]),
    }
    for metric, value in assess_results(positive, flagged, sampling, prevalences=plan.prevalences).items():
        row = {"metric": metric, **value._asdict()}
        if metric in shares:
            row = _proportion_row(shares[metric], value, metric=metric)
        if target := plan.targets.get(metric):
            row["target"] = target
            row["p_superiority"] = p_value_above(shares[metric], target)
            row["p_non_inferiority"] = p_value_above(shares[metric], target - plan.margin)
        yield {**row, **counts}


def _proportion_row(share: Proportion, value: Estimate, *, metric: str) -> EvidenceRow:
    return {
        "units": share.units,
        "patients": share.patients,
        "metric": metric,
        **value._asdict(),
        "wilson_low": share.low,
        "wilson_high": share.high,
        "design_effect": share.design_effect,
    }


def calibration_rows(plan: EvidencePlan, study: StudyImages) -> list[EvidenceRow]:
    """Rows of ``CALIBRATION_COLUMNS`` of a split, of images, eyes and patients with a result."""
    rows = []
    for endpoint in plan.defined(study):
        for unit in UNITS:
            units = plan.units(study, endpoint, unit, calibrated=True)
            usable = units.gradable
            positive, risk, members = units.gradable_positive[usable], units.risk[usable], units.members[usable]
            line, parts = calibration_line(positive, risk, members), brier(positive, risk)
            found = {
                "slope": line.slope,
                "intercept": line.intercept,
                "in_the_large": line.in_the_large,
                **{f"brier_{name}": Estimate(value) for name, value in parts._asdict().items()},
            }
            counts = {"units": len(risk), "patients": len(np.unique(members)), "positive": int(positive.sum())}
            row = {"split": study.split, "endpoint": endpoint, "unit": unit, **counts}
            rows += [{**row, "metric": metric, **value._asdict()} for metric, value in found.items()]
    return rows


def net_benefit_rows(plan: EvidencePlan, study: StudyImages) -> list[EvidenceRow]:
    """Rows of ``NET_BENEFIT_COLUMNS`` of a split, of its images with a result."""
    rows = []
    for endpoint in plan.defined(study):
        units = plan.units(study, endpoint, "image", calibrated=True)
        usable = units.gradable
        curve, refer_all = net_benefit(
            units.gradable_positive[usable],
            units.risk[usable],
            Sampling(units.members[usable], plan.samples, plan.seed),
            thresholds=THRESHOLDS,
        )
        rows += [
            {
                "split": study.split,
                "endpoint": endpoint,
                "threshold": float(threshold),
                "net_benefit": value.value,
                "low": value.low,
                "high": value.high,
                "refer_all": float(everybody),
                "refer_nobody": 0.0,
            }
            for threshold, value, everybody in zip(THRESHOLDS, curve, refer_all, strict=True)
        ]
    return rows


def subgroup_rows(plan: EvidencePlan, known: StudyImages, study: StudyImages) -> list[EvidenceRow]:
    """Rows of ``SUBGROUP_COLUMNS`` of a split, at the first operating point.

    The unit is the patient if the column is the same for all images of each patient, else the image. P values are
    corrected for all comparisons of the endpoint on the split.
    """
    point, rows = plan.operating_points[0], []
    for endpoint in plan.defined(study):
        found: list[GroupMetric] = []
        places = []
        for column, names in _groups(plan, study).items():
            unit = "patient" if _same_within(names, study.patients) else "image"
            fitted = plan.units(known, endpoint, unit)
            units = fitted if study is known else plan.units(study, endpoint, unit)
            flagged, _ = referred(fitted, units, point, seed=plan.seed, patients=known.patients)
            of_unit = np.empty(len(units.risk), dtype=object)
            of_unit[units.of_image] = names
            usable = units.gradable
            metrics = compare_groups(
                GroupedUnits(
                    units.gradable_positive[usable],
                    flagged[usable],
                    units.risk[usable],
                    of_unit[usable].tolist(),
                    _strata(study, units),
                ),
                Sampling(units.members[usable], plan.samples, plan.seed),
                plan.guard,
            )
            found += metrics
            places += [(unit, column)] * len(metrics)
        for (unit, column), metric in zip(places, correct_together(found), strict=True):
            row = {"split": study.split, "endpoint": endpoint, "operating_point": point, "unit": unit, "column": column}
            rows.append({**row, **_subgroup_row(metric)})
    return rows


def _subgroup_row(metric: GroupMetric) -> EvidenceRow:
    return {
        **{name: getattr(metric, name) for name in ("group", "units", "patients", "metric", "events")},
        **metric.inside._asdict(),
        "difference": metric.difference.value,
        "difference_low": metric.difference.low,
        "difference_high": metric.difference.high,
        "p_value": metric.p_value if np.isfinite(metric.p_value) else None,
        "corrected_p_value": metric.corrected if np.isfinite(metric.corrected) else None,
        "guarded": int(metric.guarded),
    }


def _groups(plan: EvidencePlan, study: StudyImages) -> dict[str, list[str]]:
    """Group of each image by each column that has at least two groups."""
    columns = {name: study.columns[name] for name in OWN_SUBGROUPS if name in study.columns}
    columns |= {name: study.columns[f"{SUBGROUP}{name}"] for name in group_columns(study.columns)}
    found = {name: bands(values.tolist(), plan.bands.get(name)) for name, values in columns.items()}
    return {name: groups for name, groups in found.items() if len(set(groups)) > 1}


def _same_within(names: Sequence[str], patients: Sequence[str]) -> bool:
    return len(set(zip(patients, names, strict=True))) == len(set(patients))


def size_rows(plan: EvidencePlan, known: StudyImages, study: StudyImages) -> list[EvidenceRow]:
    """Rows of ``SIZE_COLUMNS`` of a split: widths of intervals and numbers of patients, at each operating point.

    The unit is the patient. Prevalence and design effect are those of this split.
    """
    rows = []
    for endpoint in plan.defined(study):
        fitted = plan.units(known, endpoint, "patient")
        units = fitted if study is known else plan.units(study, endpoint, "patient")
        for point in plan.operating_points:
            flagged, _ = referred(fitted, units, point, seed=plan.seed, patients=known.patients)
            positive, result, members = count_results(units, flagged, LEFT_OUT)
            patients = len(np.unique(members))
            shares = {
                "sensitivity": proportion(result[positive], members[positive]),
                "specificity": proportion(~result[~positive], members[~positive]),
            }
            for metric, share in shares.items():
                row = {"split": study.split, "endpoint": endpoint, "operating_point": point, "metric": metric}
                if share.value is not None and share.design_effect:
                    rows += [{**row, **one} for one in _sizes(share, patients, plan.targets[metric])]
    return rows


def _sizes(share: Proportion, patients: int, target: float) -> Iterator[EvidenceRow]:
    value, design_effect = share.value or 0.0, share.design_effect
    # Effective units that one patient of the study contributes.
    gain = share.effective / patients
    row = {
        "value": value,
        "units_per_patient": share.units / patients,
        "design_effect": design_effect,
    }
    for count in STUDY_SIZES:
        low, high = wilson(value, max(1.0, gain * count))
        yield {**row, "question": "width of the 95 % interval", "patients": count, "answer": high - low}
    for width in WIDTHS:
        needed = int(np.ceil(units_for_width(value, width) / gain))
        yield {**row, "question": f"patients for a width of {width:g}", "patients": needed, "answer": width}
    for power in POWERS:
        units = units_for_power(value, target, power)
        question = f"patients for a power of {power:.0%} to exceed {target:g}"
        yield {**row, "question": question, "patients": int(np.ceil(units / gain)) if units else None, "answer": power}
