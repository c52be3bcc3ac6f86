"""Proportions of clustered data: Wilson intervals with the design effect, tests against a target, and study size.

A patient with two eyes counts less than two patients. The design effect is the factor by which the variance of a
proportion is larger than that of independent units. Divided by it, the number of units is the effective number, which
replaces n in formulas for independent units: Rao, J. N. K. and Scott, A. J. (1992), A simple method for the
analysis of clustered binary data, Biometrics 48(2), 577-585.
"""

import math
from typing import NamedTuple

import numpy as np
from scipy.stats import norm

from retinaflow.evaluation.bootstrap import CONFIDENCE


class Proportion(NamedTuple):
    """A share of units, with its 95 % interval.

    Attributes:
        hits: Number of units that count.
        units: Number of units.
        patients: Number of patients with such units.
        value: ``hits / units``; None without units.
        low: Lower end of the Wilson interval; None without units.
        high: Upper end of the Wilson interval; None without units.
        effective: Effective number of units.
    """

    hits: int
    units: int
    patients: int
    value: float | None
    low: float | None
    high: float | None
    effective: float

    @property
    def design_effect(self) -> float | None:
        """Number of units divided by the effective number; None without units."""
        return self.units / self.effective if self.effective else None


def proportion(hit: np.ndarray, members: np.ndarray) -> Proportion:
    """Estimate the share of units that ``hit``, bool (n,), selects. ``members``: patient of each unit, int (n,)."""
    units = len(hit)
    if not units:
        return Proportion(0, 0, 0, None, None, None, 0.0)
    _, patient = np.unique(members, return_inverse=True)
    totals = np.bincount(patient).astype(np.float64)
    effective = effective_units(np.bincount(patient, hit), totals)
    value = float(hit.mean())
    low, high = wilson(value, effective)
    return Proportion(int(hit.sum()), units, len(totals), value, low, high, effective)


def effective_units(hits: np.ndarray, totals: np.ndarray) -> float:
    """Return the effective number of units, from 1 to their number.

    The variance of the share is that of a ratio of sums over patients: Cochran, W. G. (1977), Sampling Techniques,
    section 3.12. A design effect below 1 is chance and counts as 1. If all units agree, the variance says nothing, and
    the number of patients is used.

    Args:
        hits: Units that count, of each patient, float (patients,).
        totals: Units of each patient, float (patients,), above 0.
    """
    patients, units = len(totals), float(totals.sum())
    share = hits.sum() / units
    if patients < 2 or share in (0, 1):
        return float(patients)
    variance = patients / (patients - 1) * float(((hits - share * totals) ** 2).sum()) / units**2
    independent = share * (1 - share) / units
    return float(units / max(1.0, variance / independent))


def wilson(value: float, effective: float, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return the score interval of a proportion.

    Wilson, E. B. (1927), Probable inference, the law of succession, and statistical inference, Journal of the American
    Statistical Association 22, 209-212.

    Args:
        value: The proportion, 0 to 1.
        effective: Effective number of units, above 0.
        confidence: Probability that the interval contains the true proportion.
    """
    z = float(norm.ppf((1 + confidence) / 2))
    middle = (value + z**2 / (2 * effective)) / (1 + z**2 / effective)
    half = z / (1 + z**2 / effective) * math.sqrt(value * (1 - value) / effective + z**2 / (4 * effective**2))
    # Exact at the ends, where rounding would leave a small distance.
    return 0.0 if value == 0 else max(0.0, middle - half), 1.0 if value == 1 else min(1.0, middle + half)


def p_value_above(estimate: Proportion, reference: float) -> float | None:
    """Return the one-sided p value of the hypothesis that the true proportion is at most ``reference``, 0 to 1.

    It is the score test, which agrees with the Wilson interval: the p value is below 0.025 exactly if the 95 % interval
    lies above the reference. None without units, or for a reference of 0 or 1.
    """
    if estimate.value is None or not 0 < reference < 1:
        return None
    deviation = math.sqrt(reference * (1 - reference) / estimate.effective)
    return float(norm.sf((estimate.value - reference) / deviation))


def units_for_width(value: float, width: float) -> int:
    """Return the least number of independent units whose Wilson interval is at most ``width`` wide, 0 to 1."""
    low, high = 1, 2
    while _width(value, high) > width:
        low, high = high, 2 * high
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if _width(value, middle) <= width else (middle + 1, high)
    return low


def _width(value: float, units: int) -> float:
    low, high = wilson(value, units)
    return high - low


def units_for_power(value: float, reference: float, power: float, error: float = (1 - CONFIDENCE) / 2) -> int | None:
    """Return the number of independent units with which the test of ``p_value_above`` succeeds often enough.

    Fleiss, J. L., Levin, B. and Paik, M. C. (2003), Statistical Methods for Rates and Proportions, section 2.6.

    Args:
        value: Expected proportion.
        reference: Proportion to exceed.
        power: Probability of a p value below ``error``.
        error: One-sided level of the test.

    Returns:
        None if the expected proportion is not above the reference.
    """
    if value <= reference:
        return None
    under, above = (math.sqrt(share * (1 - share)) for share in (reference, value))
    root = (norm.isf(error) * under + norm.ppf(power) * above) / (value - reference)
    return math.ceil(root**2)
