import numpy as np
import pytest
from sklearn.metrics import cohen_kappa_score

from retinaflow.evaluation.agreement import MAJORITY, NOT_GRADED, compare_readers, majority


def test_majority_by_hand():
    grades = [np.array([0, 1, 2, -1]), np.array([0, 2, 1, -1]), np.array([1, 2, -1, -1])]
    # The third image has one vote each for grades 2 and 1: the higher one.
    assert majority(grades, 3).tolist() == [0, 2, 2, NOT_GRADED]


def test_kappa_is_that_of_images_both_have_graded():
    rng = np.random.default_rng(7)
    truth = rng.integers(0, 5, 200)
    one, other, model = (np.clip(truth + rng.integers(-1, 2, 200), 0, 4) for _ in range(3))
    other[:50] = NOT_GRADED
    found = compare_readers(
        {"one": one, "other": other},
        ("model", model),
        grade_count=5,
        patients=[str(number // 2) for number in range(200)],
        samples=200,
        seed=1,
    )
    assert [(row.reader, row.other_reader) for row in found] == [
        ("one", "other"),
        ("one", "model"),
        ("other", "model"),
        (MAJORITY, "model"),
    ]
    assert (found[0].images, found[0].patients) == (150, 75)
    assert found[0].kappa.value == pytest.approx(cohen_kappa_score(one[50:], other[50:], weights="quadratic"))
    assert found[0].kappa.low < found[0].kappa.value < found[0].kappa.high


def test_readers_without_common_images_have_no_kappa():
    one, other = np.array([0, NOT_GRADED]), np.array([NOT_GRADED, 1])
    found = compare_readers(
        {"one": one, "other": other}, ("model", one), grade_count=2, patients=["a", "b"], samples=10, seed=1
    )
    assert found[0].kappa.value is None
