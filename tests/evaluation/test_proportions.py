import numpy as np
import pytest
from scipy.stats import binomtest

from retinaflow.evaluation.proportions import (
    effective_units,
    p_value_above,
    proportion,
    units_for_power,
    units_for_width,
    wilson,
)


@pytest.mark.parametrize(("hits", "units"), [(0, 7), (3, 10), (87, 100), (20, 20)])
def test_wilson_agrees_with_scipy(hits, units):
    expected = binomtest(hits, units).proportion_ci(method="wilson")
    assert wilson(hits / units, units) == pytest.approx((expected.low, expected.high), abs=1e-12)


def test_identical_eyes_count_once():
    hit = np.repeat([True, False, True, True], 2)
    share = proportion(hit, np.repeat(np.arange(4), 2))
    # By hand: 4 patients with deviations of 0.5 * 2 from 3/4: variance 4/3 * (3 * 0.5**2 + 1.5**2) / 64.
    assert share.value == 0.75
    assert share.design_effect == pytest.approx(4 / 3 * 3 / 64 / (0.75 * 0.25 / 8))
    assert share.effective < 4


def test_agreeing_units_count_as_patients():
    share = proportion(np.ones(6, bool), np.repeat(np.arange(3), 2))
    assert (share.effective, share.high) == (3, 1)
    assert share.low == pytest.approx(wilson(1, 3)[0])


def test_independent_units_have_no_design_effect():
    rng = np.random.default_rng(1)
    effective = [effective_units((rng.random(500) < 0.3).astype(float), np.ones(500)) for _ in range(20)]
    assert np.mean(effective) == pytest.approx(500, rel=0.01)


def test_interval_covers_clustered_truth():
    rng = np.random.default_rng(2)
    covered = 0
    for _ in range(400):
        of_patient = rng.beta(4, 1, 150)  # mean 0.8, alike within a patient
        hit = (rng.random((150, 2)) < of_patient[:, np.newaxis]).ravel()
        share = proportion(hit, np.repeat(np.arange(150), 2))
        covered += share.low <= 0.8 <= share.high
    assert 0.92 <= covered / 400 <= 0.98


def test_p_value_agrees_with_interval():
    for hits in range(60, 100):
        share = proportion(np.arange(100) < hits, np.arange(100))
        assert (p_value_above(share, 0.8) < 0.025) == (share.low > 0.8)


def test_sizes_are_least():
    units = units_for_width(0.9, 0.1)
    widths = [high - low for low, high in (wilson(0.9, units), wilson(0.9, units - 1))]
    assert widths[0] <= 0.1 < widths[1]
    # By hand: ((1.96 * sqrt(0.85 * 0.15) + 0.8416 * sqrt(0.9 * 0.1)) / 0.05)^2 = 362.7.
    assert units_for_power(0.9, 0.85, 0.8) == 363
    assert units_for_power(0.8, 0.85, 0.8) is None


def test_size_has_its_power():
    units = units_for_power(0.92, 0.85, 0.8)
    hits = np.random.default_rng(3).binomial(units, 0.92, 4000)
    found = {
        hit: p_value_above(proportion(np.arange(units) < hit, np.arange(units)), 0.85) < 0.025
        for hit in set(hits.tolist())
    }
    power = np.mean([found[hit] for hit in hits.tolist()])
    assert power == pytest.approx(0.8, abs=0.05)
