"""What turns the outputs of a system into answers, fitted on photographs that nobody was trained on, never on test."""

import math
import os
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import minimize, minimize_scalar
from scipy.special import ndtr

from retinaflow.data.split import fold_photographs
from retinaflow.errors import RetinaflowError
from retinaflow.evaluation.grades import Grades
from retinaflow.networks import objectives
from retinaflow.storage.documents import read_document
from retinaflow.storage.files import write_json

# Groups of patients, each graded by what was fitted on the others.
GROUPS = 5
# Resamples of the patients that thresholds are the mean of.
RESAMPLES = 50
# The least and largest temperature, or standard deviation of a regression, that is looked for.
TEMPERATURES = (0.05, 20.0)

_NUMBERS = {"type": "array", "items": {"type": "number"}}
_COUNT = {"type": "integer", "minimum": 1}
SCHEMA: dict[str, Any] = {
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
SCHEMA["required"] = list(SCHEMA["properties"])


class DecisionRule(NamedTuple):
    """How the outputs of a system for k classes are read.

    ``objective``: what they are (``objectives``); ``grade_names``: k names. ``thresholds``: k - 1, ascending; the
    grade is how many of them the severity exceeds. ``temperature`` and, of a regression alone, the k - 1 ascending
    ``cutpoints`` are what ``objectives.grade_probabilities`` takes. A photograph is referred if its probability of
    ``referable_grade`` or
    worse reaches ``referable_cut``, which found ``referable_sensitivity`` of those to be found. ``photographs`` and
    ``patients``: of how many it was fitted.
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


class Labelled(NamedTuple):
    """Outputs of a system for n photographs whose grades are known.

    ``outputs``: float (n, width) as ``objective`` has them for the k ``classes``; ``grades``: int64 (n,); ``patients``:
    n names.
    """

    objective: str
    classes: Sequence[str]
    outputs: np.ndarray
    grades: np.ndarray
    patients: Sequence[str]

    def chosen(self, places: np.ndarray) -> "Labelled":
        """The photographs at ``places``, bool (n,)."""
        patients = [self.patients[place] for place in np.flatnonzero(places)]
        return self._replace(outputs=self.outputs[places], grades=self.grades[places], patients=patients)


def fit(labelled: Labelled, referable_grade: int, referable_sensitivity: float, seed: int) -> DecisionRule:
    """The decision that does best on ``labelled``, at least one photograph. It does not depend on their order."""
    k = len(labelled.classes)
    severity = objectives.severity(labelled.objective, labelled.outputs, k)
    cuts = None
    if labelled.objective == "regression":
        cuts, temperature = ordered_probit(severity, labelled.grades, k)
    else:
        temperature = best_temperature(labelled.objective, labelled.outputs, labelled.grades, k)
    probabilities = objectives.grade_probabilities(labelled.objective, labelled.outputs, k, temperature, cuts)
    risk, referable = probabilities[:, referable_grade:].sum(axis=1), labelled.grades >= referable_grade
    return DecisionRule(
        labelled.objective,
        list(labelled.classes),
        mean_thresholds(severity, labelled.grades, labelled.patients, k, seed).tolist(),
        temperature,
        None if cuts is None else cuts.tolist(),
        referable_grade,
        referable_sensitivity,
        operating_point(risk, referable, referable_sensitivity),
        len(labelled.grades),
        len(set(labelled.patients)),
    )


def grade(decision: DecisionRule, outputs: np.ndarray) -> Grades:
    """What ``decision`` makes of ``outputs``, float (n, width)."""
    objective, k = decision.objective, len(decision.grade_names)
    cuts = None if decision.cutpoints is None else np.array(decision.cutpoints)
    severity = objectives.severity(objective, outputs, k)
    probabilities = objectives.grade_probabilities(objective, outputs, k, decision.temperature, cuts)
    return Grades(
        severity,
        probabilities,
        objectives.argmax_grades(objective, outputs, k),
        np.searchsorted(decision.thresholds, severity, side="left").astype(np.int64),
        probabilities[:, decision.referable_grade :].sum(axis=1) >= decision.referable_cut,
    )


def cross_fitted(labelled: Labelled, referable_grade: int, referable_sensitivity: float, seed: int) -> Grades:
    """Grades of photographs by decisions that were fitted without their patients: what the figures of these may go by.

    Patients are divided into five groups, of as many with each worst level as can be, by ``seed`` and name.
    Raises ``RetinaflowError`` if there is one patient only.
    """
    if len(set(labelled.patients)) < 2:
        raise RetinaflowError(
            f"{len(labelled.grades)} photographs of one patient are held out, expected those of at least two patients: "
            "what grades one is fitted on others. Hold out more (split.validation)."
        )
    groups = np.array(fold_photographs(labelled.patients, labelled.grades.tolist(), GROUPS, seed))
    # Patients of one group alone: each is a group.
    if len(set(groups)) == 1:
        groups = np.unique(labelled.patients, return_inverse=True)[1]
    numbers = np.unique(groups)
    parts = [
        grade(
            fit(labelled.chosen(groups != number), referable_grade, referable_sensitivity, seed),
            labelled.outputs[groups == number],
        )
        for number in numbers
    ]
    order = np.argsort(np.concatenate([np.flatnonzero(groups == number) for number in numbers]))
    return Grades(*(np.concatenate(values)[order] for values in zip(*parts, strict=True)))


# Thresholds ---------------------------------------------------------------------------------------------------------


def mean_thresholds(
    severity: np.ndarray, grades: np.ndarray, patients: Sequence[str], classes: int, seed: int
) -> np.ndarray:
    """k - 1 ascending thresholds on float (n,) ``severity``: the mean of those best for resampled patients.

    Each resample draws as many patients as there are, with replacement, all photographs of a patient together (bagging:
    Breiman 1996, Machine Learning 24, 123-140). Thresholds that are best for one set of photographs fit its chances,
    too: with simulated severities, the mean was worth 0.001 to 0.01 more kappa on others, the most for 60 photographs.
    """
    order = np.argsort(severity, kind="stable")
    severity, grades = severity[order], grades[order]
    members = np.unique(patients, return_inverse=True)[1]
    count = members.max() + 1
    members = members[order]
    rng = np.random.default_rng(seed)
    draws = (np.bincount(rng.integers(0, count, count), minlength=count)[members] for _ in range(RESAMPLES))
    return np.mean([best_thresholds(severity, grades, weights, classes) for weights in draws], axis=0)


def best_thresholds(severity: np.ndarray, grades: np.ndarray, weights: np.ndarray, classes: int) -> np.ndarray:
    """k - 1 ascending thresholds of the largest quadratic weighted kappa: float64 (k - 1,), exact and not a search.

    ``severity``: float (n,), ascending; ``grades``: int (n,); ``weights``: how often each photograph counts, int (n,).
    Thresholds lie halfway between the severities that they part. Where all grades are one, so that kappa is undefined,
    or no thresholds do better than the same answer for all, they lie halfway between the grades.

    1 - kappa is a ratio of two sums over the photographs: the squared distance between answer and level, and its
    expectation by chance. For a given ratio r, the least of (distance - r * chance) is a shortest path through the
    sorted photographs, with a step to the next level at each threshold; its own ratio is the next r, until none is less
    (Dinkelbach 1967, On nonlinear fractional programming, Management Science 13(7), 492-498).
    """
    counts = np.bincount(grades, weights, classes)
    halfway_between_levels = np.arange(classes - 1) + 0.5
    if np.count_nonzero(counts) < 2:
        return halfway_between_levels
    # Equal severities stay together. A threshold may also lie below or above all of them.
    places = np.flatnonzero(np.r_[True, severity[1:] > severity[:-1], True])
    distance, chance = _sums(grades, weights, counts, places)
    ratio = 1.0  # of the same answer for all
    while True:
        path = _shortest_path(distance - ratio * chance)
        better = _along(distance, path) / _along(chance, path)
        if better >= ratio * (1 - 1e-12):
            break
        ratio = better
    if ratio == 1.0:
        return halfway_between_levels
    cuts = places[path[1:-1]]
    padded = np.r_[-0.5, severity, classes - 0.5]
    below, above = padded[cuts], padded[cuts + 1]
    halfway = (below + above) / 2
    # Between neighbouring floats lies none.
    return np.where(halfway < above, halfway, below)


def _sums(
    grades: np.ndarray, weights: np.ndarray, counts: np.ndarray, places: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Squared distance and its expectation if the first photographs, up to each place, were all of a level: (k, m)."""
    answers = np.arange(len(counts))[:, np.newaxis]
    first, second = (answers.T**power @ counts / counts.sum() for power in (1, 2))
    number, total, squares = (np.r_[0, np.cumsum(weights * grades**power)][places] for power in (0, 1, 2))
    return answers**2 * number - 2 * answers * total + squares, (answers**2 - 2 * answers * first + second) * number


def _shortest_path(cost: np.ndarray) -> np.ndarray:
    """Places (k + 1,) at which the cheapest division into grades begins and ends.

    ``cost``: (k, m), of the photographs up to each place at each level.
    """
    best, steps = cost[0], []
    for level in cost[1:]:
        gain = best - level
        least = np.minimum.accumulate(gain)
        # The first place with the least value so far.
        steps.append(np.maximum.accumulate(np.where(np.r_[True, gain[1:] < least[:-1]], np.arange(len(gain)), 0)))
        best = least + level
    path = [cost.shape[1] - 1]
    for step in reversed(steps):
        path.append(step[path[-1]])
    return np.array([0, *reversed(path)])


def _along(sums: np.ndarray, path: np.ndarray) -> float:
    grades = np.arange(len(sums))
    return float((sums[grades, path[1:]] - sums[grades, path[:-1]]).sum())


# Probabilities ------------------------------------------------------------------------------------------------------


def best_temperature(objective: str, outputs: np.ndarray, grades: np.ndarray, classes: int) -> float:
    """The temperature of softmax or ordinal ``outputs`` that makes int (n,) ``grades`` likeliest.

    Guo et al. (2017), On calibration of modern neural networks, arXiv:1706.04599, section 4.2.
    """

    def loss(logarithm: float) -> float:
        probabilities = objectives.grade_probabilities(objective, outputs, classes, math.exp(logarithm))
        return -float(np.log(np.maximum(_of(probabilities, grades), objectives.TINY)).mean())

    found = minimize_scalar(loss, bounds=tuple(map(math.log, TEMPERATURES)), method="bounded")
    return math.exp(found.x)


def ordered_probit(severity: np.ndarray, grades: np.ndarray, classes: int) -> tuple[np.ndarray, float]:
    """Cuts, float64 (k - 1,) ascending, and standard deviation that make int (n,) ``grades`` of ``severity`` likeliest.

    McKelvey and Zavoina (1975), Journal of Mathematical Sociology 4(1), 103-120. The cuts are others than the
    thresholds: those that are best for kappa make rare grades likelier than they are. Each class counts one photograph
    more, at its own level, so that none becomes impossible.
    """
    severity, grades = (np.r_[values, np.arange(classes)] for values in (severity, grades))
    rows = np.arange(len(grades))

    def loss(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        # In terms of cuts / deviation and 1 / deviation, the likelihood has one maximum (Pratt 1981, JASA 76, 103-106).
        cuts, slope = parameters[:-1], parameters[-1]
        inner = cuts - slope * severity[:, np.newaxis]
        ends = np.pad(inner, ((0, 0), (1, 1)), constant_values=((0, 0), (-40.0, 40.0)))
        low, high = ends[rows, grades], ends[rows, grades + 1]
        likelihood = np.maximum(np.where(low > 0, ndtr(-low) - ndtr(-high), ndtr(high) - ndtr(low)), objectives.TINY)
        at_low, at_high = (np.exp(-0.5 * end**2) / math.sqrt(2 * math.pi) / likelihood for end in (low, high))
        of_cuts = np.bincount(grades, at_high, classes)[:-1] - np.bincount(grades, at_low, classes)[1:]
        gradient = np.r_[of_cuts, severity @ (at_low - at_high)]
        return -float(np.log(likelihood).mean()), -gradient / len(rows)

    start = np.r_[np.arange(classes - 1) + 0.5, 1.0]
    bounds = [(None, None)] * (classes - 1) + [(1 / TEMPERATURES[1], 1 / TEMPERATURES[0])]
    found = minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"ftol": 1e-12, "gtol": 1e-7})
    return np.maximum.accumulate(found.x[:-1]) / found.x[-1], float(1 / found.x[-1])


def _of(probabilities: np.ndarray, grades: np.ndarray) -> np.ndarray:
    return probabilities[np.arange(len(grades)), grades]


def operating_point(risk: np.ndarray, referable: np.ndarray, sensitivity: float) -> float:
    """The largest cut on float (n,) ``risk`` that finds the share ``sensitivity`` of those that are bool ``referable``.

    It lies halfway to the next lower risk; it is 1/2 where nothing is referable.
    """
    positive = np.sort(risk[referable])[::-1]
    if not len(positive):
        return 0.5
    # Rounded first, so that 0.9 * 10 photographs, 9.000000000000002 for some shares, stay nine.
    needed = max(1, math.ceil(round(sensitivity * len(positive), 6)))
    cut = positive[needed - 1]
    lower = risk[risk < cut]
    return float((cut + lower.max()) / 2) if len(lower) else 0.0


# Files --------------------------------------------------------------------------------------------------------------


def write_decision_rule(path: str | os.PathLike[str], decision: DecisionRule) -> None:
    """Write ``decision`` as JSON."""
    write_json(path, decision._asdict())


def read_decision_rule(path: str | os.PathLike[str]) -> DecisionRule:
    """Read what ``write_decision_rule`` wrote.

    Raises ``RetinaflowError`` if the file cannot be read or is no such decision.
    """
    again = "Delete it and grade the system again."
    content = read_document(path, SCHEMA, kind="a decision rule", again=again)
    decision = DecisionRule(**content)
    k = len(decision.grade_names)
    for name, values in (("thresholds", decision.thresholds), ("cutpoints", decision.cutpoints or [0.0] * (k - 1))):
        if len(values) != k - 1 or not all(math.isfinite(value) for value in values) or sorted(values) != values:
            raise RetinaflowError(f"{path}: {name} are {values}, expected {k - 1} ascending numbers. {again}")
    if decision.referable_grade >= k or (decision.cutpoints is None) == (decision.objective == "regression"):
        raise RetinaflowError(
            f"{path}: referable_grade {decision.referable_grade} and cutpoints {decision.cutpoints} of "
            f"{decision.objective} for {k} classes; expected a grade below {k}, and "
            f"cutpoints of a regression alone. {again}"
        )
    return decision
