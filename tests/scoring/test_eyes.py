"""Values of fellow eyes, and of images without one."""

import numpy as np

from retinaflow.scoring.eyes import average_eyes, both_eyes, fellow_eye_weights, have_fellow_eye

PATIENTS = ["a", "b", "a", "c", "d", "d", "d", "e", "e"]
EYES = ["left", "left", "right", "right", "left", "right", "right", "", ""]


def test_each_image_gets_the_values_of_its_fellow_eye() -> None:
    values = np.arange(9.0)[:, np.newaxis]
    weights = fellow_eye_weights(PATIENTS, EYES)
    # b and c have one eye, d has two images of the right eye, and the eyes of e are not known.
    assert (weights @ values)[:, 0].tolist() == [2, 0, 0, 0, 5.5, 4, 4, 0, 0]
    assert have_fellow_eye(weights).tolist() == [True, False, True, False, True, True, True, False, False]


def test_average_of_both_eyes_by_hand() -> None:
    outputs = np.array([[0.8, 0.2], [0.6, 0.4], [0.2, 0.8]])
    averaged = average_eyes(outputs, ["a", "b", "a"], eyes=["left", "left", "right"], fellow_eye_weight=0.25)
    np.testing.assert_allclose(averaged, [[0.65, 0.35], [0.6, 0.4], [0.35, 0.65]], rtol=1e-12)
    np.testing.assert_array_equal(
        average_eyes(outputs, ["a", "b", "a"], eyes=["left", "left", "right"], fellow_eye_weight=0.0), outputs
    )


def test_equal_weights_give_equal_outputs_with_less_error() -> None:
    rng = np.random.default_rng(0)
    truth = np.repeat(rng.normal(size=500), 2)
    outputs = (truth + rng.normal(size=1000))[:, np.newaxis]
    patients, eyes = [str(number // 2) for number in range(1000)], ["left", "right"] * 500
    averaged = average_eyes(outputs, patients, eyes=eyes, fellow_eye_weight=0.5)[:, 0]
    np.testing.assert_allclose(averaged[::2], averaged[1::2], rtol=1e-12)
    # The mean of two independent errors of variance 1 has variance 1/2.
    assert 0.4 < np.mean((averaged - truth) ** 2) < 0.6


def test_both_eyes_by_hand() -> None:
    features = np.array([[1, 2], [3, 4], [5, 8]], np.float16)
    both = both_eyes(features, ["a", "b", "a"], ["left", "left", "right"])
    assert both.dtype == np.float32
    np.testing.assert_array_equal(both, [[1, 2, 5, 8, 1], [3, 4, 3, 4, 0], [5, 8, 1, 2, 1]])


def test_order_of_images_does_not_matter() -> None:
    rng = np.random.default_rng(1)
    features, order = rng.normal(size=(9, 3)), rng.permutation(9)
    shuffled = [PATIENTS[place] for place in order], [EYES[place] for place in order]
    np.testing.assert_array_equal(both_eyes(features[order], *shuffled), both_eyes(features, PATIENTS, EYES)[order])
