"""The warp against Keras's ImageDataGenerator, which the article used."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras.src.legacy.preprocessing.image import ImageDataGenerator

from retinaflow.augment import Transform, apply, draw, sampling_matrix

ARTICLE = {"flip_horizontal": True, "flip_vertical": True, "shift": 0.1, "zoom": [0.8, 1.2], "rotation": 20}
SIZE = 64
TRANSFORMS = st.builds(
    Transform,
    st.floats(-180, 180),
    st.floats(-20, 20),
    st.floats(-20, 20),
    st.floats(0.5, 2),
    st.floats(0.5, 2),
    st.booleans(),
    st.booleans(),
)


def photograph(size=SIZE):
    """Smooth, different in each channel and without any symmetry."""
    noise = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    return cv2.GaussianBlur(noise, (0, 0), 4)


def warped(transform, image):
    out = np.empty_like(image)
    apply(image, transform, out)
    return out


def by_keras(transform, image):
    generator = ImageDataGenerator(fill_mode="nearest", interpolation_order=1, data_format="channels_last")
    return generator.apply_transform(image.astype("float32"), transform._asdict())


@settings(max_examples=60, deadline=None)
@given(TRANSFORMS)
def test_the_same_parameters_give_the_image_of_keras(transform):
    image = photograph()
    difference = np.abs(warped(transform, image).astype(float) - by_keras(transform, image))
    # OpenCV interpolates at 1/32 pixel and rounds to whole values.
    assert difference.max() <= 3
    assert difference.mean() < 0.6


@given(TRANSFORMS, st.integers(1, 600))
def test_the_matrix_is_the_product_of_its_steps(transform, size):
    angle = np.deg2rad(transform.theta)
    middle = (size - 1) / 2
    steps = [
        [[1, 0, middle], [0, 1, middle], [0, 0, 1]],
        [[np.cos(angle), -np.sin(angle), 0], [np.sin(angle), np.cos(angle), 0], [0, 0, 1]],
        [[1, 0, transform.tx], [0, 1, transform.ty], [0, 0, 1]],
        np.diag([transform.zx, transform.zy, 1.0]),
        np.diag([-1.0 if transform.flip_horizontal else 1.0, -1.0 if transform.flip_vertical else 1.0, 1.0]),
        [[1, 0, -middle], [0, 1, -middle], [0, 0, 1]],
    ]
    assert np.allclose(sampling_matrix(transform, size), np.linalg.multi_dot(steps)[:2], rtol=0, atol=1e-9)


def test_a_wrong_sign_would_be_seen():
    image = photograph()
    for transform in (Transform(20), Transform(tx=6), Transform(ty=6), Transform(zx=1.2), Transform(zy=0.8)):
        reversed_ = Transform(
            -transform.theta, -transform.tx, -transform.ty, 1 / transform.zx, 1 / transform.zy, False, False
        )
        assert np.abs(warped(reversed_, image).astype(float) - by_keras(transform, image)).mean() > 2


def test_nothing_changes_nothing():
    image = photograph()
    assert np.array_equal(warped(Transform(), image), image)
    assert np.array_equal(warped(Transform(flip_horizontal=True), image), image[:, ::-1])
    assert np.array_equal(warped(Transform(flip_vertical=True), image), image[::-1])


def test_draws_fill_their_ranges():
    rng = np.random.default_rng(1)
    drawn = np.array([draw(ARTICLE, 100, rng) for _ in range(4000)], dtype=float)
    for column, (low, high) in enumerate([(-20, 20), (-10, 10), (-10, 10), (0.8, 1.2), (0.8, 1.2)]):
        values = drawn[:, column]
        assert low <= values.min() < low + 0.02 * (high - low)
        assert high - 0.02 * (high - low) < values.max() <= high
        assert values.mean() == pytest.approx((low + high) / 2, abs=0.03 * (high - low))
    assert drawn[:, 5:].mean(axis=0) == pytest.approx([0.5, 0.5], abs=0.04)
    # Every range is drawn on its own.
    assert np.abs(np.corrcoef(drawn.T) - np.eye(7)).max() < 0.06


def test_ranges_of_nothing_leave_the_photograph():
    none = {"flip_horizontal": False, "flip_vertical": False, "shift": 0, "zoom": [1, 1], "rotation": 0}
    assert draw(none, 100, np.random.default_rng(0)) == Transform()
