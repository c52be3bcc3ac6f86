"""Diagnostic accuracy of a test with two results: rates, predictive values, likelihood ratios, areas; with intervals.

Intervals are of a bootstrap over patients (module ``bootstrap``). The definitions are those of Pepe, M. S. (2003), The
Statistical Evaluation of Medical Tests for Classification and Prediction, chapter 2.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

import numpy as np

from retinaflow.evaluation.bootstrap import (
    confusion_by_patient,
    draw_patients,
    drawn_confusion,
    interval,
    weighted_auc,
)

# Sensitivity or specificity below which an operating point refers nobody, or everybody, by and large.
DEGENERATE = 0.05
RATE_NAMES = ("sensitivity", "specificity", "ppv", "npv", "positive_likelihood_ratio", "negative_likelihood_ratio")


class Estimate(NamedTuple):
    """A value with its 95 % interval. None is undefined."""

    value: float | None
    low: float | None = None
    high: float | None = None


class Sampling(NamedTuple):
    """Bootstrap samples of the patients.

    Attributes:
        members: Index of the patient of each unit, int64 (n,).
        samples: Number of bootstrap samples, 0 for no intervals.
        seed: Seed of the draws.
    """

    members: np.ndarray
    samples: int
    seed: int


def rates(confusion: np.ndarray, prevalences: Sequence[float] = ()) -> dict[str, np.ndarray]:
    """Compute rates of many confusion matrices.

    Args:
        confusion: Counts (..., 2, 2), rows truth, columns result; negative first.
        prevalences: Shares of positive units for ``ppv_PREVALENCE`` and ``npv_PREVALENCE`` by Bayes' theorem.

    Returns:
        ``RATE_NAMES`` and the predictive values at the prevalences, each (...), NaN if undefined.
    """
    right, wrong = confusion[..., 1, 1], confusion[..., 0, 1]
    missed, spared = confusion[..., 1, 0], confusion[..., 0, 0]
    with np.errstate(invalid="ignore", divide="ignore"):
        sensitivity, specificity = right / (right + missed), spared / (spared + wrong)
        found = {
            "sensitivity": sensitivity,
            "specificity": specificity,
            "ppv": right / (right + wrong),
            "npv": spared / (spared + missed),
            "positive_likelihood_ratio": sensitivity / (1 - specificity),
            "negative_likelihood_ratio": (1 - sensitivity) / specificity,
        }
        for share in prevalences:
            true, false = sensitivity * share, (1 - specificity) * (1 - share)
            found[f"ppv_{share:g}"] = true / (true + false)
            true, false = specificity * (1 - share), (1 - sensitivity) * share
            found[f"npv_{share:g}"] = true / (true + false)
    return {name: np.where(np.isfinite(values), values, np.nan) for name, values in found.items()}


def assess_results(
    positive: np.ndarray, flagged: np.ndarray, sampling: Sampling, *, prevalences: Sequence[float] = ()
) -> dict[str, Estimate]:
    """Estimate ``rates`` of a result.

    Args:
        positive: Truth of each unit, bool (n,), at least one unit.
        flagged: Result of each unit, bool (n,).
        sampling: Patients of the units.
        prevalences: As for ``rates``.
    """
    members = _renumbered(sampling.members)
    tables = confusion_by_patient(members, positive.astype(np.int64), flagged.astype(np.int64), 2)
    whole = rates(tables.sum(axis=0).reshape(2, 2), prevalences)
    drawn = [rates(drawn_confusion(draws, tables), prevalences) for draws in sampled(members, sampling)]
    return {name: estimate(float(value), [block[name] for block in drawn]) for name, value in whole.items()}


def assess_scores(
    positive: np.ndarray, score: np.ndarray, sampling: Sampling, *, strata: np.ndarray | None = None
) -> dict[str, Estimate]:
    """Estimate the area under the ROC curve (``auc``) and the ``average_precision`` of a score.

    Args:
        positive: Truth of each unit, bool (n,).
        score: Score of each unit, float64 (n,), higher for positive ones.
        sampling: Patients of the units.
        strata: Stratum of each unit, int (n,). Only pairs within a stratum count for the area.
    """
    members = _renumbered(sampling.members)
    functions = {
        "auc": weighted_auc(positive, score, strata),
        "average_precision": weighted_average_precision(positive, score),
    }
    drawn: dict[str, list[np.ndarray]] = {name: [] for name in functions}
    for draws in sampled(members, sampling):
        weights = draws[:, members]
        for name, function in functions.items():
            drawn[name].append(function(weights))
    once = np.ones((1, len(positive)))
    return {name: estimate(function(once)[0], drawn[name]) for name, function in functions.items()}


def sampled(members: np.ndarray, sampling: Sampling) -> Iterator[np.ndarray]:
    """Yield how often each patient is in each bootstrap sample, as ``bootstrap.draw_patients``.

    With a single patient, all samples would be the same, and none is yielded.
    """
    if sampling.samples and members.max(initial=0) > 0:
        yield from draw_patients(members, sampling.samples, sampling.seed, len(members))


def estimate(value: float, drawn: Sequence[np.ndarray]) -> Estimate:
    """Return ``value`` with the interval of its values in blocks of bootstrap samples."""
    if not np.isfinite(value):
        return Estimate(None)
    low, high = (interval(np.concatenate(drawn)) if drawn else None) or (None, None)
    # If all samples agree, as with a sensitivity of 1, they say nothing about the uncertainty.
    if low == high:
        return Estimate(float(value))
    return Estimate(float(value), low, high)


def weighted_average_precision(positive: np.ndarray, score: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function from weights of units, float64 (r, n), to average precision, float64 (r,).

    It is the sum of the precision at each value of the score, weighted by the recall that this value adds, as in
    scikit-learn, which takes one set of weights. NaN without positive units.
    """
    order = np.argsort(-score, kind="stable")
    ends = np.flatnonzero(np.diff(score[order], append=np.nan) != 0)
    chosen = positive[order]

    def average_precision(weights: np.ndarray) -> np.ndarray:
        ordered = weights[:, order]
        all_found = np.cumsum(ordered, axis=1)[:, ends]
        right = np.cumsum(ordered * chosen, axis=1)[:, ends]
        with np.errstate(invalid="ignore"):
            precision = np.where(all_found > 0, right / all_found, 0)
            gained = np.diff(right, axis=1, prepend=0) / right[:, -1:]
        return (precision * gained).sum(axis=1)

    return average_precision


def _renumbered(members: np.ndarray) -> np.ndarray:
    """Number the patients that are there from 0."""
    return np.unique(members, return_inverse=True)[1]
