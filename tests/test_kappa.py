import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from retinaflow.kappa import QuadraticWeightedKappa


def measured(actual, predicted, classes=5, batch=3):
    metric = QuadraticWeightedKappa(classes)
    for start in range(0, len(actual), batch):
        metric.update_state(*(np.eye(classes)[each[start : start + batch]] for each in (actual, predicted)))
    return float(metric.result())


@settings(max_examples=30, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=30))
def test_equals_scikit_learn_over_batches(pairs):
    actual, predicted = map(list, zip(*pairs, strict=True))
    if len(set(actual + predicted)) == 1:
        assert measured(actual, predicted) == 0
    else:
        expected = cohen_kappa_score(actual, predicted, weights="quadratic", labels=range(5))
        assert measured(actual, predicted) == pytest.approx(expected, abs=1e-5)


def test_always_zero_is_worth_nothing():
    assert measured([0, 0, 0, 4, 2], [0] * 5) == pytest.approx(0, abs=1e-6)


def test_sample_weights_do_not_count():
    metric = QuadraticWeightedKappa(3)
    metric.update_state(np.eye(3)[[0, 2]], np.eye(3)[[0, 2]], sample_weight=[0.0, 9.0])
    assert float(metric.result()) == pytest.approx(1)
