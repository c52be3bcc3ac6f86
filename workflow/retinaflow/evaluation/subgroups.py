"""Subgroups: metrics of each group of patients or images, and their difference to all others."""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from scipy.stats import norm

from retinaflow.evaluation.accuracy import Estimate, Sampling, estimate, rates, sampled
from retinaflow.evaluation.bootstrap import weighted_auc
from retinaflow.evaluation.multiple_tests import holm

GROUP_METRICS = ("sensitivity", "specificity", "ppv", "npv", "auc")
# A column of numbers with more values than this is cut into bands.
MOST_GROUPS = 6
NO_VALUE = "unknown"


class Guard(NamedTuple):
    """Smallest group that has metrics: its ``patients``, and its ``events``, the units that a metric counts."""

    patients: int
    events: int


class GroupMetric(NamedTuple):
    """A metric of a subgroup.

    Attributes:
        group: Name of the group.
        metric: One of ``GROUP_METRICS``.
        units: Number of units of the group.
        patients: Number of its patients.
        events: Units that the metric counts: positive ones for sensitivity, and the rarer kind for the area.
        inside: The metric in the group.
        difference: The metric in the group minus that of all others, on the same bootstrap samples.
        p_value: Two-sided, of no difference; NaN if unknown.
        corrected: The p value corrected for all comparisons of the table; NaN if unknown.
        guarded: Whether the group is too small for the metric. All values are undefined then.
    """

    group: str
    metric: str
    units: int
    patients: int
    events: int
    inside: Estimate
    difference: Estimate
    p_value: float
    corrected: float
    guarded: bool


class GroupedUnits(NamedTuple):
    """Units with a result.

    Attributes:
        positive: Truth, bool (n,).
        flagged: Result, bool (n,).
        score: Score, float64 (n,).
        groups: Name of the group of each unit (n,).
        strata: Stratum of each unit, int (n,). Only pairs within a stratum count for the area. None for one stratum.
    """

    positive: np.ndarray
    flagged: np.ndarray
    score: np.ndarray
    groups: Sequence[str]
    strata: np.ndarray | None = None


def compare_groups(units: GroupedUnits, sampling: Sampling, guard: Guard) -> list[GroupMetric]:
    """Estimate the metrics of each group, and compare each group with all other units.

    A patient may have units in several groups; the bootstrap keeps them together. The p value is that of a normal
    distribution with the standard deviation of the bootstrap, because the least bootstrap share is 1 / samples. Its
    correction is here that of a single column; ``correct_together`` corrects for those of all columns.

    Args:
        units: At least one unit.
        sampling: Patients of the units.
        guard: Smallest group.
    """
    names = np.array(units.groups, dtype=object)
    _, members = np.unique(sampling.members, return_inverse=True)
    found = []
    for name in sorted(set(units.groups), key=_order):
        inside = names == name
        # A guarded group has no interval.
        large = len(np.unique(members[inside])) >= guard.patients
        drawn = [_metrics(units, inside, members, draws) for draws in sampled(members, sampling)] if large else []
        once = _metrics(units, inside, members, np.ones((1, int(members.max()) + 1)))
        for metric in GROUP_METRICS:
            found.append(_group_metric(units, members, inside, (name, metric), (once, drawn, guard)))
    return correct_together(found)


def correct_together(metrics: Sequence[GroupMetric]) -> list[GroupMetric]:
    """Correct all p values for their number (``proportions.holm``)."""
    corrected = holm(np.array([metric.p_value for metric in metrics], dtype=np.float64))
    return [metric._replace(corrected=float(value)) for metric, value in zip(metrics, corrected, strict=True)]


_Pairs = Mapping[str, tuple[np.ndarray, np.ndarray]]


def _group_metric(
    units: GroupedUnits,
    members: np.ndarray,
    inside: np.ndarray,
    names: tuple[str, str],
    values: tuple[_Pairs, Sequence[_Pairs], Guard],
) -> GroupMetric:
    (once, drawn, guard), metric = values, names[1]
    events = _events(units, inside, metric)
    patients = len(np.unique(members[inside]))
    few = patients < guard.patients or events < guard.events
    others = ~inside
    alone = not others.any() or _events(units, others, metric) < guard.events
    value, rest = (float(one[0]) for one in once[metric])
    own = Estimate(None) if few else estimate(value, [block[metric][0] for block in drawn])
    gaps = [block[metric][0] - block[metric][1] for block in drawn]
    difference = Estimate(None) if few or alone else estimate(value - rest, gaps)
    p_value = np.nan
    if difference.low is not None and difference.value is not None:
        spread = float(np.nanstd(np.concatenate(gaps), ddof=1))
        p_value = float(2 * norm.sf(abs(difference.value) / spread)) if spread > 0 else np.nan
    return GroupMetric(*names, int(inside.sum()), patients, events, own, difference, p_value, np.nan, few)


def _events(units: GroupedUnits, inside: np.ndarray, metric: str) -> int:
    positive, flagged = units.positive[inside], units.flagged[inside]
    kinds = {
        "sensitivity": positive.sum(),
        "specificity": (~positive).sum(),
        "ppv": flagged.sum(),
        "npv": (~flagged).sum(),
        "auc": min(positive.sum(), (~positive).sum()),
    }
    return int(kinds[metric])


def _metrics(units: GroupedUnits, inside: np.ndarray, members: np.ndarray, draws: np.ndarray) -> _Pairs:
    """Metrics of a group and of all others in bootstrap samples: two float64 (r,) by name."""
    both = []
    for chosen in (inside, ~inside):
        positive, flagged, score = (values[chosen] for values in units[:3])
        strata = None if units.strata is None else units.strata[chosen]
        weights = draws[:, members[chosen]]
        cells = [
            [weights @ (truth & result).astype(np.float64) for result in (~flagged, flagged)]
            for truth in (~positive, positive)
        ]
        confusion = np.moveaxis(np.array(cells), 2, 0)
        both.append({**rates(confusion), "auc": weighted_auc(positive, score, strata)(weights)})
    return {metric: (both[0][metric], both[1][metric]) for metric in GROUP_METRICS}


def bands(values: Sequence[str], edges: Sequence[float] | None = None) -> list[str]:
    """Return the group of each value of a column: the value itself, or a band of numbers.

    Args:
        values: Values of the column as text (n,). An empty one is unknown.
        edges: Ascending lower ends of the bands after the first. Without them, a column of more than ``MOST_GROUPS``
            different numbers is cut at its thirds.
    """
    numbers = {value: _number(value) for value in set(values) if value}
    if any(number is None for number in numbers.values()) or (edges is None and len(numbers) <= MOST_GROUPS):
        return [value or NO_VALUE for value in values]
    if edges is None:
        known = np.array([number for value in values if (number := numbers.get(value)) is not None])
        edges = sorted({float(f"{edge:.3g}") for edge in np.quantile(known, [1 / 3, 2 / 3])})
    return [NO_VALUE if (number := numbers.get(value)) is None else _band(number, edges) for value in values]


def _order(name: str) -> tuple[float, str]:
    """Key that sorts bands by their numbers, and other names by the alphabet."""
    if name.startswith("below "):
        return -np.inf, name
    number = _number(name.split(" ")[0])
    return (np.inf if number is None else number), name


def _number(value: str) -> float | None:
    try:
        number = float(value)
    except ValueError:
        return None
    return number if np.isfinite(number) else None


def _band(number: float, edges: Sequence[float]) -> str:
    place = int(np.searchsorted(edges, number, side="right"))
    if place == 0:
        return f"below {edges[0]:g}"
    return f"{edges[-1]:g} and above" if place == len(edges) else f"{edges[place - 1]:g} to below {edges[place]:g}"
