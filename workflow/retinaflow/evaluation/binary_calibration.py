"""Calibration of the risk of one endpoint, and its net benefit.

Van Calster, B. et al. (2019), Calibration: the Achilles heel of predictive analytics, BMC Medicine 17, 230. Standard
errors are robust against the similarity of the units of a patient: Liang, K.-Y. and Zeger, S. L. (1986), Longitudinal
data analysis using generalized linear models, Biometrika 73(1), 13-22.
"""

from typing import NamedTuple

import numpy as np
from scipy.special import expit, logit
from scipy.stats import norm

from retinaflow.evaluation.accuracy import Estimate, Sampling, estimate, sampled
from retinaflow.evaluation.bootstrap import CONFIDENCE
from retinaflow.evaluation.proportions import Proportion, proportion

# Risks of exactly 0 and 1 have no logit.
CLIP = 1e-6
ITERATIONS = 100
# A line as steep as this separates the units: the fit has no maximum.
STEEPEST = 1e3
RELIABILITY_BINS = 10


class CalibrationLine(NamedTuple):
    """Logistic calibration of n units: logit(share of positive units) = intercept + slope * logit(risk).

    Attributes:
        slope: 1 is right; below 1, risks are too extreme.
        intercept: Intercept of this line; 0 is right.
        in_the_large: Intercept with a slope of 1; above 0, risks are too low on average.
        covariance: Robust covariance of intercept and slope, float64 (2, 2); None if the line is undefined.
    """

    slope: Estimate
    intercept: Estimate
    in_the_large: Estimate
    covariance: np.ndarray | None


class Brier(NamedTuple):
    """Brier score and its parts over bins of the risk: score = reliability - resolution + uncertainty + within bins.

    Murphy, A. H. (1973), A new vector partition of the probability score, Journal of Applied Meteorology 12, 595-600.

    Attributes:
        score: Mean squared distance of risk and truth, 0 is best.
        reliability: Mean squared distance of risk and share of positive units in the bins, 0 is best.
        resolution: Mean squared distance of this share from the prevalence, larger is better.
        uncertainty: Variance of the truth.
        within_bins: Rest, because risks in a bin differ.
        skill: 1 - score / uncertainty, 1 is best; None if all units agree.
    """

    score: float
    reliability: float
    resolution: float
    uncertainty: float
    within_bins: float
    skill: float | None


class RiskBin(NamedTuple):
    """Units of similar risk: their mean ``risk`` and their share of positive units."""

    risk: float
    positive: Proportion


def calibration_line(positive: np.ndarray, risk: np.ndarray, members: np.ndarray) -> CalibrationLine:
    """Fit the calibration line of risks.

    Cox, D. R. (1958), Two further applications of a model for binary regression, Biometrika 45, 562-565.

    Args:
        positive: Truth of each unit, bool (n,).
        risk: Its risk, float64 (n,), 0 to 1.
        members: Its patient, int (n,).

    Returns:
        The line; undefined without both kinds of units, with a single risk, or if the risk separates them.
    """
    x = logit(np.clip(risk, CLIP, 1 - CLIP))
    ones = np.ones((len(x), 1))
    both = 0 < positive.sum() < len(positive)
    large = _logistic(ones, positive, x, members) if both else None
    line = None
    if both and np.ptp(x) > 0:
        line = _logistic(np.column_stack([ones, x]), positive, 0 * x, members)
    return CalibrationLine(
        slope=_wald(line, 1),
        intercept=_wald(line, 0),
        in_the_large=_wald(large, 0),
        covariance=None if line is None else line[1],
    )


def _logistic(
    design: np.ndarray, positive: np.ndarray, offset: np.ndarray, members: np.ndarray
) -> tuple[np.ndarray, np.ndarray] | None:
    """Fit a logistic regression by Newton's method. Return coefficients and robust covariance; None without maximum."""
    coefficients = np.zeros(design.shape[1])
    for _ in range(ITERATIONS):
        fitted = expit(design @ coefficients + offset)
        weights = fitted * (1 - fitted)
        information = design.T @ (weights[:, np.newaxis] * design)
        try:
            step = np.linalg.solve(information, design.T @ (positive - fitted))
        except np.linalg.LinAlgError:
            return None
        # Shortened, because a full step from far away may overshoot.
        coefficients = coefficients + step * min(1.0, 5 / max(np.abs(step).max(), 1e-300))
        if np.abs(coefficients).max() > STEEPEST:
            return None
        if np.abs(step).max() < 1e-9:
            break
    else:
        return None
    scores = design * (positive - expit(design @ coefficients + offset))[:, np.newaxis]
    patients = int(members.max()) + 1
    by_patient = np.column_stack([np.bincount(members, column, patients) for column in scores.T])
    bread = np.linalg.inv(information)
    count = len(np.unique(members))
    # The usual factor for few patients.
    return coefficients, bread @ (by_patient.T @ by_patient) @ bread * count / max(1, count - 1)


def _wald(fit: tuple[np.ndarray, np.ndarray] | None, place: int) -> Estimate:
    if fit is None:
        return Estimate(None)
    half = float(norm.ppf((1 + CONFIDENCE) / 2) * np.sqrt(fit[1][place, place]))
    value = float(fit[0][place])
    return Estimate(value, value - half, value + half)


def line_band(line: CalibrationLine, risk: np.ndarray) -> np.ndarray | None:
    """Return the share of positive units by the line at each ``risk``, with its 95 % band: float64 (3, n).

    None if the line is undefined.
    """
    if line.covariance is None or line.slope.value is None or line.intercept.value is None:
        return None
    x = logit(np.clip(risk, CLIP, 1 - CLIP))
    design = np.column_stack([np.ones(len(x)), x])
    middle = line.intercept.value + line.slope.value * x
    half = norm.ppf((1 + CONFIDENCE) / 2) * np.sqrt(np.einsum("ni,ij,nj->n", design, line.covariance, design))
    return expit(np.stack([middle, middle - half, middle + half]))


def _bins(risk: np.ndarray, bins: int) -> list[np.ndarray]:
    """Units of each bin. Bins have about equal numbers of units; equal risks are in one bin."""
    edges = np.unique(np.quantile(risk, np.linspace(0, 1, bins + 1)[1:-1]))
    of_bin = np.searchsorted(edges, risk, side="left")
    return [np.flatnonzero(of_bin == number) for number in np.unique(of_bin)]


def brier(positive: np.ndarray, risk: np.ndarray, bins: int = RELIABILITY_BINS) -> Brier:
    """Compute the Brier score and its parts. ``positive``: bool (n,), n > 0; ``risk``: float64 (n,), 0 to 1."""
    prevalence = float(positive.mean())
    uncertainty = prevalence * (1 - prevalence)
    score = float(((risk - positive) ** 2).mean())
    reliability = resolution = 0.0
    for chosen in _bins(risk, bins):
        share, weight = float(positive[chosen].mean()), len(chosen) / len(risk)
        reliability += weight * (float(risk[chosen].mean()) - share) ** 2
        resolution += weight * (share - prevalence) ** 2
    rest = score - (reliability - resolution + uncertainty)
    return Brier(score, reliability, resolution, uncertainty, rest, 1 - score / uncertainty if uncertainty else None)


def risk_bins(
    positive: np.ndarray, risk: np.ndarray, members: np.ndarray, bins: int = RELIABILITY_BINS
) -> list[RiskBin]:
    """Return points of a reliability diagram, with Wilson intervals, in the order of the risk.

    Args:
        positive: Truth of each unit, bool (n,).
        risk: Its risk, float64 (n,), 0 to 1.
        members: Its patient, int (n,).
        bins: Number of bins of about equally many units.
    """
    return [
        RiskBin(float(risk[chosen].mean()), proportion(positive[chosen], members[chosen]))
        for chosen in _bins(risk, bins)
    ]


def net_benefit(
    positive: np.ndarray, risk: np.ndarray, sampling: Sampling, *, thresholds: np.ndarray
) -> tuple[list[Estimate], np.ndarray]:
    """Return the net benefit of referral by the risk at each threshold, and that of referral of all units.

    It is the share of true positives minus the share of false positives, weighted by the odds of the threshold:
    Vickers, A. J. and Elkin, E. B. (2006), Decision curve analysis, Medical Decision Making 26(6), 565-574. Referral
    of nobody has a net benefit of 0.

    Args:
        positive: Truth of each unit, bool (n,).
        risk: Its risk, float64 (n,), 0 to 1.
        sampling: Patients of the units.
        thresholds: Thresholds t, float64 (t,), above 0 and below 1.
    """
    odds = thresholds / (1 - thresholds)
    _, members = np.unique(sampling.members, return_inverse=True)
    flagged = risk[:, np.newaxis] >= thresholds
    gains = np.where(positive[:, np.newaxis], 1.0, -odds) * flagged
    count = int(members.max()) + 1
    by_patient = np.column_stack([np.bincount(members, column, count) for column in gains.T])
    units = np.bincount(members, minlength=count).astype(np.float64)
    drawn = [(draws @ by_patient) / (draws @ units)[:, np.newaxis] for draws in sampled(members, sampling)]
    values = gains.mean(axis=0)
    curve = [estimate(value, [block[:, place] for block in drawn]) for place, value in enumerate(values)]
    prevalence = float(positive.mean())
    return curve, prevalence - (1 - prevalence) * odds
