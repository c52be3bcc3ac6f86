import numpy as np
import pytest
from scipy.special import expit, logit
from sklearn.linear_model import LogisticRegression

from retinaflow.evaluation.accuracy import Sampling
from retinaflow.evaluation.binary_calibration import brier, calibration_line, line_band, net_benefit, risk_bins


def simulated(slope=1.0, shift=0.0, patients=2000, seed=5):
    """Risks of two eyes of each patient, whose truth is drawn by a calibration line."""
    rng = np.random.default_rng(seed)
    members = np.repeat(np.arange(patients), 2)
    risk = expit(rng.normal(-1, 1.2, 2 * patients))
    return rng.random(2 * patients) < expit(shift + slope * logit(risk)), risk, members


def test_line_finds_planted_miscalibration():
    positive, risk, members = simulated(slope=0.6, shift=-0.5)
    line = calibration_line(positive, risk, members)
    assert line.slope.low < 0.6 < line.slope.high < 1
    assert line.intercept.low < -0.5 < line.intercept.high < 0
    assert line.in_the_large.high < 0


def test_line_agrees_with_scikit_learn():
    positive, risk, members = simulated(patients=200)
    line = calibration_line(positive, risk, members)
    fitted = LogisticRegression(C=np.inf, tol=1e-10, max_iter=1000).fit(logit(risk)[:, None], positive)
    assert [line.intercept.value, line.slope.value] == pytest.approx(
        [fitted.intercept_[0], fitted.coef_[0, 0]], rel=1e-4
    )


def test_intervals_of_lines_cover_the_truth():
    covered = 0
    for seed in range(200):
        line = calibration_line(*simulated(patients=150, seed=seed))
        covered += line.slope.low <= 1 <= line.slope.high
    assert 0.91 <= covered / 200 <= 0.99


@pytest.mark.parametrize("risk", [np.array([0.1, 0.2, 0.8, 0.9]), np.full(4, 0.5)])
def test_separated_or_constant_risks_have_no_line(risk):
    line = calibration_line(np.array([0, 0, 1, 1], bool), risk, np.arange(4))
    assert line.slope.value is None
    assert line_band(line, risk) is None


def test_brier_parts_by_hand():
    # Two bins: risk 0.2 with 0 of 2, risk 0.7 with 1 of 2 positive.
    found = brier(np.array([0, 0, 1, 0], bool), np.array([0.2, 0.2, 0.7, 0.7]), bins=2)
    assert found.score == pytest.approx((0.04 + 0.04 + 0.09 + 0.49) / 4)
    assert found.reliability == pytest.approx((0.2**2 + 0.2**2) / 2)
    assert found.resolution == pytest.approx(0.25**2)
    assert found.uncertainty == 0.1875
    assert found.within_bins == pytest.approx(0)


def test_bins_have_intervals_and_all_units():
    positive, risk, members = simulated(patients=300)
    bins = risk_bins(positive, risk, members)
    assert sum(one.positive.units for one in bins) == 600
    inside = [one.positive.low <= one.risk <= one.positive.high for one in bins]
    assert np.mean(inside) >= 0.8


def test_net_benefit_by_hand():
    positive, risk = np.array([1, 1, 0, 0, 0], bool), np.array([0.9, 0.1, 0.6, 0.3, 0.1])
    curve, everybody = net_benefit(positive, risk, Sampling(np.arange(5), 100, 1), thresholds=np.array([0.2, 0.5]))
    assert [one.value for one in curve] == pytest.approx([1 / 5 - 2 / 5 * 0.25, 1 / 5 - 1 / 5])
    assert everybody == pytest.approx([0.4 - 0.6 * 0.25, 0.4 - 0.6])
    assert curve[0].low <= curve[0].value <= curve[0].high
