"""Balanced epochs against hand calculations."""

import numpy as np
import pytest

from retinaflow.preprocessing.sampling import balance_at, sample_epoch

# The 35,126 labels of the Kaggle training set.
EYEPACS = np.repeat(np.arange(5), [25810, 2443, 5292, 873, 708])


@pytest.mark.parametrize(
    ("share", "epochs", "expected"),
    [(1, 0, [1, 1, 1, 1]), (0.8, 4, [0.8, 0.6, 0.4, 0.2]), (1, 2, [1, 0.5, 0, 0]), (0, 2, [0, 0, 0, 0])],
)
def test_balance_falls_to_zero_in_equal_steps(share, epochs, expected):
    assert [balance_at(epoch, share, epochs) for epoch in range(4)] == pytest.approx(expected)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_grades_are_drawn_by_their_share(share):
    """Each grade has its share of the epoch. Images of a grade occur equally often, to one."""
    grades = np.repeat([0, 1, 3], [70, 20, 10])  # no image of grade 2
    drawn, before = sample_epoch(grades, share, np.random.default_rng(1))
    assert len(drawn) == 100
    expected = (1 - share) * np.array([70, 20, 0, 10]) + share * np.array([1, 1, 0, 1]) * 100 / 3
    assert np.abs(np.bincount(grades[drawn]) - expected).max() < 1
    often = np.bincount(drawn, minlength=100)
    for grade in (0, 1, 3):
        assert np.ptp(often[grades == grade]) <= 1
    for image in range(100):
        assert before[drawn == image].tolist() == list(range(often[image]))


def test_images_of_a_grade_are_equally_likely():
    grades = np.repeat([0, 1, 2], [24, 5, 1])
    epochs = [sample_epoch(grades, 0.5, np.random.default_rng(seed))[0] for seed in range(1500)]
    often = np.mean([np.bincount(drawn, minlength=30) for drawn in epochs], axis=0)
    assert often == pytest.approx(0.5 + 0.5 * 30 / (3 * np.array([24, 5, 1]))[grades], abs=0.06)
    # An image of any grade is equally likely at each place of the epoch.
    assert np.mean([np.flatnonzero(drawn == 29).mean() for drawn in epochs]) == pytest.approx(14.5, abs=0.5)
    assert np.array_equal(epochs[7], sample_epoch(grades, 0.5, np.random.default_rng(7))[0])


def test_epoch_without_balance_is_a_permutation():
    grades = np.repeat([0, 1], [9, 1])
    drawn, before = sample_epoch(grades, 0, np.random.default_rng((5, 3)))
    assert drawn.tolist() == np.random.default_rng((5, 3)).permutation(10).tolist()
    assert not before.any()


def test_rare_images_are_repeated():
    drawn, before = sample_epoch(EYEPACS, 1, np.random.default_rng(1))
    assert np.bincount(EYEPACS[drawn]) == pytest.approx([35_126 / 5] * 5, abs=1)
    assert before.max() == 9  # 7025 places for 708 images
