"""Correction of p values for their number. NumPy alone."""

import numpy as np


def holm(p_values: np.ndarray) -> np.ndarray:
    """Correct p values, float (m,), for their number. NaN stay NaN and do not count.

    Holm, S. (1979), A simple sequentially rejective multiple test procedure, Scandinavian Journal of Statistics 6,
    65-70. The probability of any false finding is at most the level, whatever the dependence of the tests.
    """
    corrected = np.full(len(p_values), np.nan)
    known = np.flatnonzero(np.isfinite(p_values))
    order = known[np.argsort(p_values[known], kind="stable")]
    factors = np.arange(len(order), 0, -1)
    corrected[order] = np.minimum(1, np.maximum.accumulate(factors * p_values[order]))
    return corrected
