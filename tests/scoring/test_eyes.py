"""Values of fellow eyes: whose they are, and what becomes of photographs without one."""

import numpy as np

from retinaflow.scoring.eyes import blend, both_eyes, fellows, paired

PATIENTS = ["a", "b", "a", "c", "d", "d", "d", "e", "e"]
EYES = ["left", "left", "right", "right", "left", "right", "right", "", ""]


def test_each_photograph_gets_those_of_its_patients_other_eye() -> None:
    values = np.arange(9.0)[:, np.newaxis]
    weights = fellows(PATIENTS, EYES)
    # b and c have one eye, d two photographs of the right one, and of e nobody knows which eye is which.
    assert (weights @ values)[:, 0].tolist() == [2, 0, 0, 0, 5.5, 4, 4, 0, 0]
    assert paired(weights).tolist() == [True, False, True, False, True, True, True, False, False]


def test_blend_by_hand() -> None:
    outputs = np.array([[0.8, 0.2], [0.6, 0.4], [0.2, 0.8]])
    blended = blend(outputs, ["a", "b", "a"], ["left", "left", "right"], 0.25)
    np.testing.assert_allclose(blended, [[0.65, 0.35], [0.6, 0.4], [0.35, 0.65]], rtol=1e-12)
    np.testing.assert_array_equal(blend(outputs, ["a", "b", "a"], ["left", "left", "right"], 0.0), outputs)


def test_half_of_each_gives_both_eyes_one_answer_and_fewer_errors() -> None:
    rng = np.random.default_rng(0)
    truth = np.repeat(rng.normal(size=500), 2)
    outputs = (truth + rng.normal(size=1000))[:, np.newaxis]
    patients, eyes = [str(number // 2) for number in range(1000)], ["left", "right"] * 500
    blended = blend(outputs, patients, eyes, 0.5)[:, 0]
    np.testing.assert_allclose(blended[::2], blended[1::2], rtol=1e-12)
    # The mean of two independent errors of variance 1.
    assert 0.4 < np.mean((blended - truth) ** 2) < 0.6


def test_both_eyes_by_hand() -> None:
    features = np.array([[1, 2], [3, 4], [5, 8]], np.float16)
    both = both_eyes(features, ["a", "b", "a"], ["left", "left", "right"])
    assert both.dtype == np.float32
    np.testing.assert_array_equal(both, [[1, 2, 5, 8, 1], [3, 4, 3, 4, 0], [5, 8, 1, 2, 1]])


def test_the_order_of_photographs_does_not_matter() -> None:
    rng = np.random.default_rng(1)
    features, order = rng.normal(size=(9, 3)), rng.permutation(9)
    shuffled = [PATIENTS[place] for place in order], [EYES[place] for place in order]
    np.testing.assert_array_equal(both_eyes(features[order], *shuffled), both_eyes(features, PATIENTS, EYES)[order])
