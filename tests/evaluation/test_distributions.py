"""Distance of two samples: values by hand, and the same as in SciPy."""

import numpy as np
import pytest
from scipy.stats import ks_2samp, kstwobign

from retinaflow.evaluation.distributions import detectable_distance, largest_distance, p_value_of_distance
from retinaflow.evaluation.multiple_tests import holm


def test_distance_by_hand():
    # Below 2.5, three of four values of the first sample, and none of the other.
    assert largest_distance(np.array([1.0, 2.0, 2.0, 5.0]), np.array([3.0, 4.0, 6.0])) == 0.75
    assert largest_distance(np.array([1.0, 1.0]), np.array([1.0])) == 0
    assert largest_distance(np.array([1.0]), np.array([2.0])) == 1


@pytest.mark.parametrize("ties", [False, True])
def test_distance_is_that_of_scipy(ties):
    rng = np.random.default_rng(1)
    for _ in range(20):
        one, other = rng.normal(0, 1, 40), rng.normal(0.3, 1, 70)
        if ties:
            one, other = np.round(one), np.round(other)
        assert largest_distance(one, other) == pytest.approx(ks_2samp(one, other).statistic, abs=1e-12)


def test_p_values_are_close_to_exact_ones():
    rng = np.random.default_rng(2)
    for sizes in ((20, 30), (100, 257), (400, 400)):
        for shift in (0, 0.2, 0.4):
            one, other = rng.normal(0, 1, sizes[0]), rng.normal(shift, 1, sizes[1])
            exact = ks_2samp(one, other, method="exact")
            assert p_value_of_distance(exact.statistic, *sizes) == pytest.approx(exact.pvalue, abs=0.03)
    for scaled in (0.31, 0.5, 1, 2):
        root = np.sqrt(5e8)
        assert p_value_of_distance(scaled / root, 10**9, 10**9) == pytest.approx(kstwobign.sf(scaled), abs=1e-4)
    assert p_value_of_distance(0, 5, 5) == 1


def test_detectable_distance_has_the_p_value_of_its_level():
    for level in (0.05, 0.01, 0.001):
        distance = detectable_distance(level, 200, 1000)
        assert p_value_of_distance(distance, 200, 1000) == pytest.approx(level, rel=0.001)
    assert detectable_distance(0.01, 1, 1) == 1


def test_holm_by_hand():
    p_values = np.array([0.01, 0.04, np.nan, 0.03])
    assert holm(p_values) == pytest.approx([0.03, 0.06, np.nan, 0.06], nan_ok=True)
