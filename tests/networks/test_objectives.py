"""Targets, severities and probabilities of each objective."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from retinaflow.networks.objectives import argmax_grades, grade_probabilities, impossible_rows, severity, targets, width

OBJECTIVES = ("softmax", "regression", "ordinal")


def ordinal(probabilities):
    """Return P(grade > j), (n, k - 1), of probabilities of the grades, (n, k)."""
    return 1 - np.cumsum(probabilities, axis=1)[:, :-1]


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        ("softmax", [[1, 0, 0], [0, 0, 1], [0, 1, 0]]),
        ("regression", [[0], [2], [1]]),
        ("ordinal", [[0, 0], [1, 1], [1, 0]]),
    ],
)
def test_targets_equal_a_hand_calculation(objective, expected):
    found = targets(objective, np.array([0, 2, 1]), 3)
    assert found.dtype == np.float32
    assert found.tolist() == expected
    assert found.shape[1] == width(objective, 3)


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("grade_count", [2, 5])
def test_outputs_equal_to_targets_predict_the_grades(objective, grade_count):
    grades = np.arange(grade_count)
    outputs = targets(objective, grades, grade_count)
    assert severity(objective, outputs, grade_count).tolist() == grades.tolist()
    assert argmax_grades(objective, outputs, grade_count).tolist() == grades.tolist()
    assert grade_probabilities(objective, outputs, grade_count, 0.1).argmax(axis=1).tolist() == grades.tolist()
    assert not impossible_rows(objective, outputs).any()


def test_smoothed_labels_spread_a_share_over_all_grades():
    assert targets("softmax", np.array([1]), 4, 0.2)[0] == pytest.approx([0.05, 0.85, 0.05, 0.05])


@given(st.lists(st.lists(st.integers(1, 2**20), min_size=5, max_size=5), min_size=1, max_size=8))
def test_softmax_and_ordinal_outputs_are_equivalent(counts):
    probabilities = np.array(counts, dtype=float)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    outputs = ordinal(probabilities)
    assert severity("ordinal", outputs, 5) == pytest.approx(severity("softmax", probabilities, 5))
    assert grade_probabilities("softmax", probabilities, 5, 1.0) == pytest.approx(probabilities)
    assert grade_probabilities("ordinal", outputs, 5, 1.0) == pytest.approx(probabilities, abs=1e-6)


def test_severity_stays_within_the_grades():
    assert severity("regression", np.array([[-3.0], [1.25], [9.0]], np.float32), 5).tolist() == [0, 1.25, 4]
    assert argmax_grades("regression", np.array([[-3.0], [1.25], [1.5], [2.5], [9.0]]), 5).tolist() == [0, 1, 2, 2, 4]


def test_ties_have_the_lower_grade():
    assert argmax_grades("softmax", np.array([[0.4, 0.4, 0.2]]), 3).tolist() == [0]
    assert argmax_grades("ordinal", np.array([[0.5, 0.5], [0.6, 0.5], [0.6, 0.51]]), 3).tolist() == [0, 1, 2]


def test_temperature_divides_logits():
    logits = np.array([[0.5, -1.0, 2.0]])
    softmax = np.exp(logits) / np.exp(logits).sum()
    softened = np.exp(logits / 2) / np.exp(logits / 2).sum()
    assert grade_probabilities("softmax", softmax, 3, 2.0) == pytest.approx(softened)
    falling = np.array([[2.0, -1.0]])
    found = grade_probabilities("ordinal", 1 / (1 + np.exp(-falling)), 3, 2.0)
    assert ordinal(found) == pytest.approx(1 / (1 + np.exp(-falling / 2)), abs=1e-6)


def test_regression_has_probabilities_of_a_normal_distribution():
    found = grade_probabilities("regression", np.array([[1.2]]), 3, 0.7, np.array([0.4, 1.6]))
    below = norm.cdf([0.4, 1.6], 1.2, 0.7)
    assert found[0] == pytest.approx([below[0], below[1] - below[0], 1 - below[1]])


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("temperature", [0.05, 1.0, 20.0])
def test_probabilities_of_extreme_outputs_are_finite(objective, temperature):
    outputs = np.array([[1.0] + [0.0] * (width(objective, 5) - 1)] * 2, np.float32)
    found = grade_probabilities(objective, outputs, 5, temperature)
    assert np.isfinite(found).all()
    assert (found >= 0).all()
    assert found.sum(axis=1) == pytest.approx([1, 1])


@pytest.mark.parametrize("objective", OBJECTIVES)
def test_impossible_outputs_are_found(objective):
    outputs = np.zeros((4, width(objective, 5)))
    outputs[:, 0] = [1.0, np.nan, np.inf, -0.5]
    assert impossible_rows(objective, outputs).tolist() == [False, True, True, objective != "regression"]
