"""Decision rules, which turn the raw outputs of a model into grades and referral.

A rule is fitted on images that its model did not train on.
"""

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from retinaflow.data.folds import assign_folds
from retinaflow.errors import RetinaflowError
from retinaflow.evaluation.grades import Grades
from retinaflow.networks import objectives
from retinaflow.storage.documents import read_document
from retinaflow.storage.integrity import write_document

# Groups of patients for cross-fitting.
GROUPS = 5
# Resamples of the patients; thresholds are the mean over them.
RESAMPLES = 50
# Bounds of the temperature, and of the standard deviation of a regression.
TEMPERATURES = (0.05, 20.0)

_NUMBERS = {"type": "array", "items": {"type": "number"}}
_COUNT = {"type": "integer", "minimum": 1}
DECISION_RULE_SCHEMA: dict[str, Any] = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "objective": {"enum": ["softmax", "regression", "ordinal"]},
        "grade_names": {"type": "array", "minItems": 2, "items": {"type": "string", "minLength": 1}},
        "thresholds": _NUMBERS,
        "temperature": {"type": "number", "exclusiveMinimum": 0},
        "cutpoints": {**_NUMBERS, "type": ["array", "null"]},
        "referable_grade": _COUNT,
        "referable_sensitivity": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
        "referable_cut": {"type": "number", "minimum": 0, "maximum": 1},
        "images": _COUNT,
        "patients": _COUNT,
    },
}
DECISION_RULE_SCHEMA["required"] = list(DECISION_RULE_SCHEMA["properties"])
# Values that a decision rule of one data set has of its own.
OWN_VALUES = ("thresholds", "temperature", "cutpoints", "referable_cut", "images", "patients")
# Rules of a single training set lack the key.
DECISION_RULE_SCHEMA["properties"]["data_sets"] = {
    "type": "object",
    "additionalProperties": {
        "type": "object",
        "additionalProperties": False,
        "required": list(OWN_VALUES),
        "properties": {name: DECISION_RULE_SCHEMA["properties"][name] for name in OWN_VALUES},
    },
}


class DecisionRule(NamedTuple):
    """Parameters that turn the raw outputs of a model into predictions of k grades.

    Attributes:
        objective: Objective of the model (module ``objectives``).
        grade_names: Names of the k grades.
        thresholds: k - 1, ascending. The predicted grade is the number of thresholds below the severity. Of two grades,
            the predicted one is the screening decision instead.
        temperature: Temperature of ``objectives.grade_probabilities``; for a regression, the standard deviation of
            ``ordered_probit``.
        cutpoints: k - 1, ascending, for ``objectives.grade_probabilities`` of a regression; None otherwise.
        referable_grade: Lowest referable grade, 1 to k - 1.
        referable_sensitivity: Sensitivity that ``referable_cut`` reaches on the images of the fit.
        referable_cut: An image is referred if its probability of the referable grades is at least this, 0 to 1.
        images: Number of images of the fit.
        patients: Number of their patients.
        data_sets: ``OWN_VALUES`` of each joined training set whose own images fit a rule.
    """

    objective: str
    grade_names: list[str]
    thresholds: list[float]
    temperature: float
    cutpoints: list[float] | None
    referable_grade: int
    referable_sensitivity: float
    referable_cut: float
    images: int
    patients: int
    data_sets: Mapping[str, Mapping[str, Any]] = {}

    def of_data_set(self, name: str) -> "DecisionRule":
        """Return the rule for images of a data set: its own one, or that of all training sets together."""
        return self._replace(**self.data_sets.get(name, {}), data_sets={})

    def document(self) -> dict[str, Any]:
        """Return the values for a JSON file, without those of single data sets."""
        return {name: value for name, value in self._asdict().items() if name != "data_sets"}


class LabelledOutputs(NamedTuple):
    """Raw outputs of a model for n images with known grades.

    Attributes:
        objective: Objective of the model.
        grade_names: Names of the k grades.
        outputs: Raw outputs, float (n, width).
        grades: True grades, int64 (n,), 0 to k - 1.
        patients: Names of the patients (n,).
    """

    objective: str
    grade_names: Sequence[str]
    outputs: np.ndarray
    grades: np.ndarray
    patients: Sequence[str]

    def subset(self, mask: np.ndarray) -> "LabelledOutputs":
        """Return the images that ``mask``, bool (n,), selects."""
        patients = [self.patients[place] for place in np.flatnonzero(mask)]
        return self._replace(outputs=self.outputs[mask], grades=self.grades[mask], patients=patients)


def fit_decision_rule(
    labelled: LabelledOutputs, referable_grade: int, *, referable_sensitivity: float, seed: int
) -> DecisionRule:
    """Fit a decision rule. The order of the images does not change the result.

    Args:
        labelled: At least one image that the model did not train on.
        referable_grade: Lowest referable grade, 1 to k - 1.
        referable_sensitivity: Sensitivity of the referral, above 0, at most 1.
        seed: Seed of the resamples of ``mean_thresholds``.
    """
    k = len(labelled.grade_names)
    severity = objectives.severity(labelled.objective, labelled.outputs, k)
    cutpoints = None
    if labelled.objective == "regression":
        cutpoints, temperature = ordered_probit(severity, labelled.grades, k)
    else:
        temperature = best_temperature(labelled.objective, labelled.outputs, grades=labelled.grades, grade_count=k)
    probabilities = objectives.grade_probabilities(labelled.objective, labelled.outputs, k, temperature, cutpoints)
    thresholds = mean_thresholds(severity, labelled.grades, patients=labelled.patients, grade_count=k, seed=seed)
    return DecisionRule(
        objective=labelled.objective,
        grade_names=list(labelled.grade_names),
        thresholds=thresholds.tolist(),
        temperature=temperature,
        cutpoints=None if cutpoints is None else cutpoints.tolist(),
        referable_grade=referable_grade,
        referable_sensitivity=referable_sensitivity,
        referable_cut=operating_point(
            probabilities[:, referable_grade:].sum(axis=1), labelled.grades >= referable_grade, referable_sensitivity
        ),
        images=len(labelled.grades),
        patients=len(set(labelled.patients)),
    )


def apply_decision_rule(rule: DecisionRule, outputs: np.ndarray) -> Grades:
    """Return the predictions of ``rule`` for raw outputs, float (n, width)."""
    k = len(rule.grade_names)
    cutpoints = None if rule.cutpoints is None else np.array(rule.cutpoints)
    severity = objectives.severity(rule.objective, outputs, k)
    probabilities = objectives.grade_probabilities(rule.objective, outputs, k, rule.temperature, cutpoints)
    referable = probabilities[:, rule.referable_grade :].sum(axis=1) >= rule.referable_cut
    predicted = referable if k == 2 else np.searchsorted(rule.thresholds, severity, side="left")
    return Grades(
        severity=severity,
        probabilities=probabilities,
        argmax=objectives.argmax_grades(rule.objective, outputs, k),
        predicted=predicted.astype(np.int64),
        referable=referable,
    )


def patient_groups(patients: Sequence[str], grades: Sequence[int], seed: int) -> np.ndarray:
    """Divide patients into groups for cross-fitting.

    Args:
        patients: Names of the patients (n,).
        grades: Grades (n,). All groups have about the same number of patients with each worst grade.
        seed: Seed of the groups.

    Returns:
        Number of the group of each image, int64 (n,). Images of a patient are in one group.
    """
    groups = assign_folds(patients, grades, folds=GROUPS, seed=seed)
    # With few patients, all may be in one group. Each patient is a group then.
    return np.unique(patients, return_inverse=True)[1] if len(set(groups)) == 1 else groups


def cross_fit(labelled: LabelledOutputs, referable_grade: int, *, referable_sensitivity: float, seed: int) -> Grades:
    """Predict each image by a decision rule that was fitted on other patients.

    So the metrics of these predictions are not too optimistic. The seed and the names divide the patients into five
    groups. All groups have about the same number of patients with each worst grade.

    Args:
        labelled: Images of at least two patients.
        referable_grade: Lowest referable grade, 1 to k - 1.
        referable_sensitivity: Sensitivity of the referral, above 0, at most 1.
        seed: Seed of the groups and of each fit.

    Returns:
        Predictions in the order of the images.

    Raises:
        RetinaflowError: All images are of one patient.
    """
    if len(set(labelled.patients)) < 2:
        raise RetinaflowError(
            f"{len(labelled.grades)} images of one patient are held out, expected those of at least two patients: "
            "the decision rule of a patient is fitted on other patients. Hold out more (split.validation)."
        )
    groups = patient_groups(labelled.patients, labelled.grades.tolist(), seed)
    numbers = np.unique(groups)
    of_groups = [
        apply_decision_rule(
            fit_decision_rule(
                labelled.subset(groups != number),
                referable_grade,
                referable_sensitivity=referable_sensitivity,
                seed=seed,
            ),
            labelled.outputs[groups == number],
        )
        for number in numbers
    ]
    order = np.argsort(np.concatenate([np.flatnonzero(groups == number) for number in numbers]))
    return Grades(*(np.concatenate(values)[order] for values in zip(*of_groups, strict=True)))


# Thresholds ---------------------------------------------------------------------------------------------------------


def mean_thresholds(
    severity: np.ndarray, grades: np.ndarray, *, patients: Sequence[str], grade_count: int, seed: int
) -> np.ndarray:
    """Return the mean of the best thresholds for resamples of the patients.

    Each resample draws patients with replacement, as many as there are, and has all their images. The mean is bagging:
    Breiman (1996), Machine Learning 24, 123-140. The best thresholds for one set of images overfit to it. With
    simulated severities, the mean improved kappa on other images by 0.001 to 0.01. The gain was largest
    for fits on 60 images.

    Args:
        severity: float (n,).
        grades: True grades, int (n,), 0 to k - 1.
        patients: Names of the patients (n,).
        grade_count: Number k of grades.
        seed: Seed of the resamples.

    Returns:
        k - 1 ascending thresholds, float64.
    """
    order = np.argsort(severity, kind="stable")
    severity, grades = severity[order], grades[order]
    members = np.unique(patients, return_inverse=True)[1]
    count = members.max() + 1
    members = members[order]
    rng = np.random.default_rng(seed)
    draws = (np.bincount(rng.integers(0, count, count), minlength=count)[members] for _ in range(RESAMPLES))
    return np.mean(
        [best_thresholds(severity, grades, weights=weights, grade_count=grade_count) for weights in draws], axis=0
    )


def best_thresholds(severity: np.ndarray, grades: np.ndarray, *, weights: np.ndarray, grade_count: int) -> np.ndarray:
    """Return the thresholds with the highest quadratic weighted kappa. The result is the exact optimum.

    1 - kappa is a ratio of two sums over the images: the squared distance between predicted and true grade, and its
    expectation by chance. For a given ratio r, the minimum of (distance - r * chance) is the length of a shortest path.
    The path runs through the images in the order of severity, and steps to the next grade at each threshold. The ratio
    of this path is the next r. The iteration ends when the ratio no longer falls (Dinkelbach 1967, On nonlinear
    fractional programming, Management Science 13(7), 492-498).

    Args:
        severity: float (n,), ascending.
        grades: True grades, int (n,), 0 to k - 1.
        weights: Number of times that each image counts, int (n,).
        grade_count: Number k of grades.

    Returns:
        k - 1 ascending thresholds, float64, each halfway between two severities. If all true
        grades are equal, or if no thresholds have a kappa above 0, the thresholds are halfway between the grades.
    """
    counts = np.bincount(grades, weights, grade_count)
    halfway_between_grades = np.arange(grade_count - 1) + 0.5
    if np.count_nonzero(counts) < 2:
        return halfway_between_grades
    # Equal severities stay together. A threshold may also lie below or above all of them.
    places = np.flatnonzero(np.r_[True, severity[1:] > severity[:-1], True])
    distance, chance = _sums(grades, weights, counts, places)
    ratio = 1.0  # The ratio if all images have one grade.
    while True:
        path = _shortest_path(distance - ratio * chance)
        better = _along(distance, path) / _along(chance, path)
        if better >= ratio * (1 - 1e-12):
            break
        ratio = better
    if ratio == 1.0:
        return halfway_between_grades
    ends = places[path[1:-1]]
    padded = np.r_[-0.5, severity, grade_count - 0.5]
    below, above = padded[ends], padded[ends + 1]
    halfway = (below + above) / 2
    # No float is between two neighbouring floats.
    return np.where(halfway < above, halfway, below)


def _sums(
    grades: np.ndarray, weights: np.ndarray, counts: np.ndarray, places: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Return squared distance and its expectation, (k, m), if all images before place j have grade i."""
    predicted = np.arange(len(counts))[:, np.newaxis]
    first, second = (predicted.T**power @ counts / counts.sum() for power in (1, 2))
    number, total, squares = (np.r_[0, np.cumsum(weights * grades**power)][places] for power in (0, 1, 2))
    distance = predicted**2 * number - 2 * predicted * total + squares
    return distance, (predicted**2 - 2 * predicted * first + second) * number


def _shortest_path(cost: np.ndarray) -> np.ndarray:
    """Find the cheapest division of the images into grades.

    Args:
        cost: Cost if all images before place j have grade i, (k, m).

    Returns:
        Places where the first grade starts, where each threshold is, and where the last grade ends, int (k + 1,).
    """
    best, steps = cost[0], []
    for of_grade in cost[1:]:
        gain = best - of_grade
        least = np.minimum.accumulate(gain)
        # The first place with the least value up to here.
        steps.append(np.maximum.accumulate(np.where(np.r_[True, gain[1:] < least[:-1]], np.arange(len(gain)), 0)))
        best = least + of_grade
    path = [cost.shape[1] - 1]
    for step in reversed(steps):
        path.append(step[path[-1]])
    return np.array([0, *reversed(path)])


def _along(sums: np.ndarray, path: np.ndarray) -> float:
    grades = np.arange(len(sums))
    return float((sums[grades, path[1:]] - sums[grades, path[:-1]]).sum())


# Probabilities ------------------------------------------------------------------------------------------------------


def best_temperature(objective: str, outputs: np.ndarray, *, grades: np.ndarray, grade_count: int) -> float:
    """Return the temperature with the highest likelihood of the true grades.

    Guo et al. (2017), On calibration of modern neural networks, arXiv:1706.04599, section 4.2.

    Args:
        objective: ``softmax`` or ``ordinal``.
        outputs: Raw outputs, float (n, width).
        grades: True grades, int (n,), 0 to k - 1.
        grade_count: Number k of grades.

    Returns:
        A temperature within ``TEMPERATURES``.
    """

    def loss(logarithm: float) -> float:
        probabilities = objectives.grade_probabilities(objective, outputs, grade_count, math.exp(logarithm))
        return -float(np.log(np.maximum(_of(probabilities, grades), objectives.TINY)).mean())

    # Imported here: prediction imports this module and runs without SciPy.
    from scipy.optimize import minimize_scalar

    found = minimize_scalar(loss, bounds=tuple(map(math.log, TEMPERATURES)), method="bounded")
    return math.exp(found.x)


def ordered_probit(severity: np.ndarray, grades: np.ndarray, grade_count: int) -> tuple[np.ndarray, float]:
    """Fit an ordered probit model: cutpoints and standard deviation with the highest likelihood of the true grades.

    McKelvey and Zavoina (1975), Journal of Mathematical Sociology 4(1), 103-120. The cutpoints differ from the
    thresholds. Thresholds with the best kappa give rare grades a probability above their frequency. The fit adds one
    image for each grade, with the grade as its severity, so that no grade is impossible.

    Args:
        severity: float (n,).
        grades: True grades, int (n,), 0 to k - 1.
        grade_count: Number k of grades.

    Returns:
        k - 1 ascending cutpoints, float64, and the standard deviation.
    """
    from scipy.optimize import minimize
    from scipy.special import ndtr

    severity, grades = (np.r_[values, np.arange(grade_count)] for values in (severity, grades))
    rows = np.arange(len(grades))

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        # In cutpoints / deviation and 1 / deviation, the likelihood has one maximum (Pratt 1981, JASA 76, 103-106).
        cutpoints, slope = parameters[:-1], parameters[-1]
        inner = cutpoints - slope * severity[:, np.newaxis]
        ends = np.pad(inner, ((0, 0), (1, 1)), constant_values=((0, 0), (-40.0, 40.0)))
        low, high = ends[rows, grades], ends[rows, grades + 1]
        likelihood = np.maximum(np.where(low > 0, ndtr(-low) - ndtr(-high), ndtr(high) - ndtr(low)), objectives.TINY)
        at_low, at_high = (np.exp(-0.5 * end**2) / math.sqrt(2 * math.pi) / likelihood for end in (low, high))
        of_cutpoints = np.bincount(grades, at_high, grade_count)[:-1] - np.bincount(grades, at_low, grade_count)[1:]
        gradient = np.r_[of_cutpoints, severity @ (at_low - at_high)]
        return -float(np.log(likelihood).mean()), -gradient / len(rows)

    start = np.r_[np.arange(grade_count - 1) + 0.5, 1.0]
    bounds = [(None, None)] * (grade_count - 1) + [(1 / TEMPERATURES[1], 1 / TEMPERATURES[0])]
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"ftol": 1e-12, "gtol": 1e-7})
    return np.maximum.accumulate(found.x[:-1]) / found.x[-1], float(1 / found.x[-1])


def _of(probabilities: np.ndarray, grades: np.ndarray) -> np.ndarray:
    return probabilities[np.arange(len(grades)), grades]


def operating_point(risk: np.ndarray, referable: np.ndarray, sensitivity: float) -> float:
    """Return the highest cut of the risk with at least a given sensitivity.

    Args:
        risk: Probability of the referable grades, float (n,).
        referable: Whether the true grade is referable, bool (n,).
        sensitivity: Share of the referable images with a risk at or above the cut, above 0, at most 1.

    Returns:
        A cut halfway to the next lower risk, or 1/2 if no image is referable.
    """
    positive = np.sort(risk[referable])[::-1]
    if not len(positive):
        return 0.5
    # Rounded first, so that a product such as 9.000000000000002 counts as nine images.
    needed = max(1, math.ceil(round(sensitivity * len(positive), 6)))
    cut = positive[needed - 1]
    lower = risk[risk < cut]
    return float((cut + lower.max()) / 2) if len(lower) else 0.0


# Files --------------------------------------------------------------------------------------------------------------


def write_decision_rule(path: str | os.PathLike[str], rule: DecisionRule) -> None:
    """Write ``rule`` as JSON."""
    of_sets = {name: dict(values) for name, values in rule.data_sets.items()}
    write_document(path, rule.document() | ({"data_sets": of_sets} if of_sets else {}))


def read_decision_rule(path: str | os.PathLike[str]) -> DecisionRule:
    """Read a decision rule that ``write_decision_rule`` wrote.

    Raises:
        RetinaflowError: The file cannot be read, or is not a decision rule.
    """
    again = "Delete it and grade the model again."
    rule = DecisionRule(**read_document(path, DECISION_RULE_SCHEMA, kind="a decision rule", again=again))
    for one in (rule, *map(rule.of_data_set, rule.data_sets)):
        if fault := _fault(one):
            raise RetinaflowError(f"{path}: {fault}. {again}")
    return rule


def _fault(rule: DecisionRule) -> str:
    """Words for values that do not fit together; empty if they do."""
    k = len(rule.grade_names)
    for name, values in (("thresholds", rule.thresholds), ("cutpoints", rule.cutpoints or [0.0] * (k - 1))):
        if len(values) != k - 1 or not all(math.isfinite(value) for value in values) or sorted(values) != values:
            return f"{name} are {values}, expected {k - 1} ascending numbers"
    if rule.referable_grade >= k or (rule.cutpoints is None) == (rule.objective == "regression"):
        return (
            f"referable_grade {rule.referable_grade} and cutpoints {rule.cutpoints} of {rule.objective} for "
            f"{k} grades; expected a grade below {k}, and cutpoints for a regression only"
        )
    return ""
