"""Metrics during training against scikit-learn."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from retinaflow.networks import objectives
from retinaflow.networks.kappa import Accuracy, QuadraticWeightedKappa, argmax_tensor


def measured(actual, predicted, grade_count=5, batch=3, objective="softmax", metric=QuadraticWeightedKappa):
    metric = metric(grade_count, objective)
    for start in range(0, len(actual), batch):
        batches = (np.array(each[start : start + batch]) for each in (actual, predicted))
        metric.update_state(*(objectives.targets(objective, each, grade_count) for each in batches))
    return float(metric.result())


@pytest.mark.parametrize("objective", ["softmax", "regression", "ordinal"])
@settings(max_examples=10, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=2, max_size=30))
def test_metrics_over_batches_equal_scikit_learn(objective, pairs):
    actual, predicted = map(list, zip(*pairs, strict=True))
    found = measured(actual, predicted, objective=objective)
    if len(set(actual + predicted)) == 1:
        assert found == 0
    else:
        expected = cohen_kappa_score(actual, predicted, weights="quadratic", labels=range(5))
        assert found == pytest.approx(expected, abs=1e-5)
    hits = measured(actual, predicted, objective=objective, metric=Accuracy)
    assert hits == pytest.approx(np.mean(np.equal(actual, predicted)), abs=1e-6)


@pytest.mark.parametrize("objective", ["softmax", "regression", "ordinal"])
def test_grades_equal_those_without_keras(objective):
    outputs = np.random.default_rng(0).normal(0.5, 0.4, (300, objectives.width(objective, 5)))
    outputs = np.round(outputs * (5 if objective == "regression" else 1), 1).astype(np.float32)  # with halves and ties
    assert np.array_equal(argmax_tensor(objective, outputs, 5), objectives.argmax_grades(objective, outputs, 5))


def test_kappa_of_always_zero_is_zero():
    assert measured([0, 0, 0, 4, 2], [0] * 5) == pytest.approx(0, abs=1e-6)


def test_sample_weights_are_ignored():
    metric = QuadraticWeightedKappa(3)
    metric.update_state(np.eye(3)[[0, 2]], np.eye(3)[[0, 2]], sample_weight=[0.0, 9.0])
    assert float(metric.result()) == pytest.approx(1)
