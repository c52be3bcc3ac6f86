"""Comparison of two samples by the statistic of Kolmogorov and Smirnov. NumPy alone.

Smirnov, N. (1948), Table for estimating the goodness of fit of empirical distributions, Annals of Mathematical
Statistics 19, 279-281. The p value has the correction for small samples of Stephens, M. A. (1970), Use of the
Kolmogorov-Smirnov, Cramer-von Mises and related statistics without extensive tables, Journal of the Royal Statistical
Society B 32, 115-122.
"""

import math

import numpy as np

# Terms of the series of the distribution. Below ``LEAST``, it is 1 to nine digits and the series converges slowly.
TERMS, LEAST = 20, 0.3


def largest_distance(sample: np.ndarray, other: np.ndarray) -> float:
    """Return the largest distance between the distributions of two samples, each float (n,) with n above 0: 0 to 1."""
    places = np.concatenate([sample, other])
    shares = [
        np.searchsorted(np.sort(values), places, side="right") / len(values)
        for values in (np.asarray(sample, float), np.asarray(other, float))
    ]
    return float(np.abs(shares[0] - shares[1]).max())


def p_value_of_distance(distance: float, size: int, other_size: int) -> float:
    """Return the probability of at least this ``largest_distance`` of two samples of one distribution.

    Args:
        distance: The distance, 0 to 1.
        size: Number of independent values of a sample, above 0.
        other_size: Likewise of the other.
    """
    scaled = distance * _scale(size, other_size)
    if scaled < LEAST:
        return 1.0
    terms = [(-1) ** (term - 1) * math.exp(-2 * (term * scaled) ** 2) for term in range(1, TERMS + 1)]
    return min(1.0, max(0.0, 2 * sum(terms)))


def detectable_distance(level: float, size: int, other_size: int) -> float:
    """Return the least distance whose ``p_value_of_distance`` is below ``level``, at most 1.

    The first term of the series gives it, to three digits for levels below 0.1.
    """
    return min(1.0, math.sqrt(math.log(2 / level) / 2) / _scale(size, other_size))


def _scale(size: int, other_size: int) -> float:
    root = math.sqrt(size * other_size / (size + other_size))
    return root + 0.12 + 0.11 / root
