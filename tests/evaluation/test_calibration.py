"""Calibration: bins and errors computed by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retinaflow.evaluation.calibration import BINS, reliability


def sure(confidence: list[float]) -> np.ndarray:
    """Return probabilities of two grades. The second has the ``confidence``, at least 1/2."""
    return np.array([[1 - value, value] for value in confidence])


def test_error_by_hand() -> None:
    # Ten bins. 0.95, 0.95: one right, |0.95 - 0.5| = 0.45 of two; 0.75: right, 0.25 of one; 0.65: wrong, 0.65 of one.
    found = reliability(np.array([1, 0, 1, 0]), sure([0.95, 0.95, 0.75, 0.65]), 10)
    assert found.images.tolist() == [0, 0, 0, 0, 0, 0, 1, 1, 0, 2]
    assert found.confidence[[6, 7, 9]] == pytest.approx([0.65, 0.75, 0.95])
    assert found.accuracy[[6, 7, 9]].tolist() == [0, 1, 0.5]
    assert np.isnan(found.confidence[:6]).all()
    assert np.isnan(found.accuracy[8])
    assert found.expected_calibration_error == pytest.approx((2 * 0.45 + 0.25 + 0.65) / 4)


def test_mistakes_within_a_bin_cancel() -> None:
    # Three of four images with a confidence of 0.75 are correct, so the error is 0.
    assert reliability(np.array([1, 1, 1, 0]), sure([0.75] * 4)).expected_calibration_error == 0


def test_bin_includes_its_upper_edge() -> None:
    # 0.6 is 9/15, the upper edge of the ninth bin of 15; a probability of 1 is in the last one.
    found = reliability(np.array([1, 1, 1]), sure([0.6, 0.6001, 1.0]))
    assert BINS == 15
    assert np.flatnonzero(found.images).tolist() == [8, 9, 14]


@settings(max_examples=50, deadline=None)
@given(st.data())
def test_error_equals_its_definition(data: st.DataObject) -> None:
    k, n = data.draw(st.integers(2, 5)), data.draw(st.integers(1, 30))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    actual, probabilities = rng.integers(0, k, n), rng.dirichlet(np.full(k, 0.5), n)
    expected, top = 0.0, probabilities.max(axis=1)
    for number in range(15):
        inside = (top > number / 15) & (top <= (number + 1) / 15)
        if inside.any():
            right = (probabilities.argmax(axis=1) == actual)[inside]
            expected += inside.sum() / n * abs(right.mean() - top[inside].mean())
    assert reliability(actual, probabilities).expected_calibration_error == pytest.approx(expected, abs=1e-12)
