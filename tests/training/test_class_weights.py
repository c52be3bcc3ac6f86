"""Class weights against hand counts."""

import numpy as np
import pytest

from common import CLASSES
from retinaflow.training.class_weights import class_weights

THREE = ["none", "mild", "severe"]
# The 35,126 labels of the Kaggle training set.
EYEPACS = np.repeat(np.arange(5), [25810, 2443, 5292, 873, 708])


def test_class_weights_equal_a_hand_calculation():
    grades = np.array([0] * 6 + [1] * 3 + [2])
    assert class_weights("none", grades, THREE) is None
    assert class_weights("inverse", grades, THREE) == pytest.approx({0: 10 / 18, 1: 10 / 9, 2: 10 / 3})
    # Weights 1/sqrt(6), 1/sqrt(3) and 1 add up to sqrt(6) + sqrt(3) + 1 over all ten images.
    scale = 10 / (6**0.5 + 3**0.5 + 1)
    expected = {0: scale / 6**0.5, 1: scale / 3**0.5, 2: scale}
    assert class_weights("sqrt_inverse", grades, THREE) == pytest.approx(expected)
    assert class_weights([1, 2.5, 0], grades, THREE) == {0: 1.0, 1: 2.5, 2: 0.0}


@pytest.mark.parametrize(
    ("kind", "ratios"),
    [
        ("inverse", [1, 10.6, 4.9, 29.6, 36.5]),
        ("sqrt_inverse", [1, 3.3, 2.2, 5.4, 6.0]),
        ("effective_number", [1, 4.3, 2.2, 11.1, 13.5]),
    ],
)
def test_class_weights_of_eyepacs_have_the_documented_ratios(kind, ratios):
    weights = class_weights(kind, EYEPACS, CLASSES)
    values = np.array([weights[grade] for grade in range(5)])
    assert values / values[0] == pytest.approx(ratios, abs=0.06)
    assert values[EYEPACS].mean() == pytest.approx(1)
