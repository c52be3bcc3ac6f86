"""The warp against Keras's ImageDataGenerator, which the article used; colours, mixing and views."""

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras.src.legacy.preprocessing.image import ImageDataGenerator
from scipy.stats import beta, kstest

from retinaflow.preprocessing.augmentation import (
    MAX_VIEWS,
    Colour,
    Transform,
    augment,
    colour_matrix,
    cutmix,
    draw_box,
    draw_colour,
    draw_transform,
    mix,
    mix_values,
    mixup,
    recolour,
    sampling_matrix,
    warp,
    write_view,
)
from retinaflow.settings.augment import AugmentSettings

STILL = AugmentSettings(flip_horizontal=False, flip_vertical=False, shift=0, zoom=[1, 1], rotation=0)
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


def smooth(size=SIZE):
    """Return a smooth image without symmetry that differs between channels."""
    noise = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    return cv2.GaussianBlur(noise, (0, 0), 4)


def warped(transform, image):
    out = np.empty_like(image)
    warp(image, transform, out)
    return out


def by_keras(transform, image):
    generator = ImageDataGenerator(fill_mode="nearest", interpolation_order=1, data_format="channels_last")
    return generator.apply_transform(image.astype("float32"), transform._asdict())


@settings(max_examples=60, deadline=None)
@given(TRANSFORMS)
def test_warp_equals_the_one_of_keras(transform):
    image = smooth()
    difference = np.abs(warped(transform, image).astype(float) - by_keras(transform, image))
    # OpenCV interpolates at 1/32 pixel and rounds to whole values.
    assert difference.max() <= 3
    assert difference.mean() < 0.6


@given(TRANSFORMS, st.integers(1, 600))
def test_sampling_matrix_is_the_product_of_its_steps(transform, size):
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


def test_reversed_transforms_differ_from_keras():
    image = smooth()
    for transform in (Transform(20), Transform(tx=6), Transform(ty=6), Transform(zx=1.2), Transform(zy=0.8)):
        reversed_ = Transform(
            -transform.theta, -transform.tx, -transform.ty, 1 / transform.zx, 1 / transform.zy, False, False
        )
        assert np.abs(warped(reversed_, image).astype(float) - by_keras(transform, image)).mean() > 2


def test_identity_keeps_pixels_and_flips_mirror_them():
    image = smooth()
    assert np.array_equal(warped(Transform(), image), image)
    assert np.array_equal(warped(Transform(flip_horizontal=True), image), image[:, ::-1])
    assert np.array_equal(warped(Transform(flip_vertical=True), image), image[::-1])


def test_drawn_transforms_fill_their_ranges():
    rng = np.random.default_rng(1)
    drawn = np.array([draw_transform(AugmentSettings(), 100, rng) for _ in range(4000)], dtype=float)
    for column, (low, high) in enumerate([(-20, 20), (-10, 10), (-10, 10), (0.8, 1.2), (0.8, 1.2)]):
        values = drawn[:, column]
        assert low <= values.min() < low + 0.02 * (high - low)
        assert high - 0.02 * (high - low) < values.max() <= high
        assert values.mean() == pytest.approx((low + high) / 2, abs=0.03 * (high - low))
    assert drawn[:, 5:].mean(axis=0) == pytest.approx([0.5, 0.5], abs=0.04)
    # All draws are independent.
    assert np.abs(np.corrcoef(drawn.T) - np.eye(7)).max() < 0.06


def test_empty_ranges_keep_the_image():
    assert draw_transform(STILL, 100, np.random.default_rng(0)) == Transform()
    image, out = smooth(), np.empty((SIZE, SIZE, 3), np.uint8)
    augment(image, STILL, np.random.default_rng(0), out)
    assert np.array_equal(out, image)


# Crops --------------------------------------------------------------------------------------------------------------


def test_crop_lies_inside_with_its_share_of_the_area():
    rng = np.random.default_rng(0)
    shares, middles = [], []
    for _ in range(4000):
        transform = draw_transform(STILL.model_copy(update={"crop": 0.25}), 100, rng)
        # Places of the outer corners of the result. A pixel extends half a pixel around its centre.
        corners = sampling_matrix(transform, 100) @ np.array([[-0.5, 99.5], [-0.5, 99.5], [1, 1]]) + 0.5
        assert corners.min() > -1e-9
        assert corners.max() < 100 + 1e-9
        width, height = corners[:, 1] - corners[:, 0]
        assert width == pytest.approx(height)
        shares.append(width * height / 1e4)
        middles.append((corners.mean(axis=1) - width / 2) / (100 - width))
    assert 0.25 <= min(shares) < 0.26
    assert 0.99 < max(shares) <= 1
    assert np.mean(shares) == pytest.approx(0.625, abs=0.01)
    # All possible places of the crop are equally likely.
    assert np.histogram2d(*np.transpose(middles), bins=4, range=[(0, 1), (0, 1)])[0] == pytest.approx(
        np.full((4, 4), 250), abs=80
    )


def test_crop_is_a_window_of_the_transformed_image():
    """All other draws are the same with and without a crop."""
    for seed in range(20):
        settings = [AugmentSettings(rotation=180, crop=crop) for crop in (1, 0.3)]
        whole, part = (draw_transform(ranges, 100, np.random.default_rng(seed)) for ranges in settings)
        assert whole[0] == part[0]
        assert whole[5:] == part[5:]
        side = part.zx / whole.zx
        assert part.zy / whole.zy == pytest.approx(side)
        # This matrix maps places in the crop to places in the whole result. It has no rotation.
        whole, part = (np.vstack([sampling_matrix(transform, 100), [0, 0, 1]]) for transform in (whole, part))
        window = np.linalg.inv(whole) @ part
        assert window[:2, :2] == pytest.approx(side * np.eye(2))
        corners = window @ np.array([[-0.5, 99.5], [-0.5, 99.5], [1, 1]])
        assert corners[:2].min() > -0.5 - 1e-9
        assert corners[:2].max() < 99.5 + 1e-9


# Colours ------------------------------------------------------------------------------------------------------------


def recoloured(image, **colour):
    return recolour(image, Colour(**colour)).astype(float)


def luma(image):
    return image @ np.array([0.299, 0.587, 0.114])  # ITU-R BT.601


def muted():
    """Return an image with colours between black and white, so that none is clipped."""
    return np.random.default_rng(0).integers(90, 150, (SIZE, SIZE, 3), dtype=np.uint8)


def test_default_colour_keeps_the_image():
    image = smooth()
    assert np.array_equal(recoloured(image), image)
    assert colour_matrix(Colour(), 93.0) == pytest.approx(np.eye(3, 4), abs=1e-12)


def test_brightness_scales_colours_and_keeps_black():
    image = muted() + np.uint8(60)
    image[:5] = 0
    expected = np.minimum(1.6 * image, 255)
    found = recoloured(image, brightness=1.6)
    assert (expected == 255).any()
    # OpenCV rounds factors to 1/1024.
    assert np.abs(found - expected).max() < 0.8
    assert (found[:5] == 0).all()
    assert (recoloured(image, brightness=0) == 0).all()


def test_contrast_scales_the_distance_from_the_mean_luma():
    image = muted()
    mean = luma(image).mean()
    assert np.abs(recoloured(image, contrast=1.5) - (mean + 1.5 * (image - mean))).max() < 0.8
    assert np.abs(recoloured(image, contrast=0) - mean).max() < 0.8
    # Black cannot get darker.
    assert recoloured(np.zeros_like(image), contrast=1.5).max() == 0


def test_saturation_scales_the_distance_from_grey():
    image = muted()
    grey = np.repeat(luma(image)[..., None], 3, axis=2)
    assert np.abs(recoloured(image, saturation=0) - grey).max() < 0.8
    assert np.abs(recoloured(image, saturation=0) - cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None]).max() <= 1
    assert np.abs(recoloured(image, saturation=1.5) - (grey + 1.5 * (image - grey))).max() < 0.8


@pytest.mark.parametrize("hue", [20, -75, 180])
def test_hue_turns_colours_and_keeps_luma_and_grey(hue):
    image = muted()
    found = recoloured(image, hue=hue)
    assert np.abs(luma(found) - luma(image)).max() < 0.8
    assert np.abs(found - image).max() > 5
    grey = np.repeat(np.arange(0, 256, 4, dtype=np.uint8), 3 * 64).reshape(64, 64, 3)
    assert np.abs(recoloured(grey, hue=hue) - grey).max() <= 1
    assert np.abs(recoloured(recolour(image, Colour(hue=hue)), hue=-hue) - image).max() < 2.5


def test_hue_of_120_degrees_moves_colours_one_channel():
    image = muted()
    found, moved = recoloured(image, hue=120), np.roll(image.astype(float), 1, axis=2)
    assert np.abs(found - moved - (luma(image) - luma(moved))[..., None]).max() < 1


@given(st.builds(Colour, st.floats(0, 2), st.floats(0, 2), st.floats(0, 2), st.floats(-180, 180)))
def test_colour_matrix_is_the_product_of_four_steps(colour):
    mean = 80.0
    steps = [np.eye(4)]
    for change in ({"brightness": colour.brightness}, {"saturation": colour.saturation}, {"hue": colour.hue}):
        steps.append(np.vstack([colour_matrix(Colour(**change), mean), [0, 0, 0, 1]]))
    # Contrast scales distances from the mean after the change of brightness.
    steps.insert(
        2, np.vstack([colour_matrix(Colour(contrast=colour.contrast), colour.brightness * mean), [0, 0, 0, 1]])
    )
    expected = np.linalg.multi_dot(steps[::-1])[:3]
    assert colour_matrix(colour, mean) == pytest.approx(expected, abs=1e-9)


def test_drawn_colours_fill_their_ranges():
    rng = np.random.default_rng(1)
    ranges = {"brightness": 0.2, "contrast": 0.3, "saturation": 0.4, "hue": 30}
    drawn = np.array([draw_colour(AugmentSettings(**ranges), rng) for _ in range(4000)])
    for values, middle, reach in zip(drawn.T, (1, 1, 1, 0), ranges.values(), strict=True):
        assert -reach <= (values - middle).min() < -0.98 * reach
        assert 0.98 * reach < (values - middle).max() <= reach
        assert values.mean() == pytest.approx(middle, abs=0.03 * reach)
    assert np.abs(np.corrcoef(drawn.T) - np.eye(4)).max() < 0.06
    assert draw_colour(AugmentSettings(), rng) == Colour()


def test_colours_change_no_other_draw():
    image, uncoloured, coloured = smooth(), *np.empty((2, SIZE, SIZE, 3), np.uint8)
    augment(image, AugmentSettings(), np.random.default_rng(5), uncoloured)
    augment(image, AugmentSettings(brightness=0.5, hue=40), np.random.default_rng(5), coloured)
    assert np.array_equal(warped(draw_transform(AugmentSettings(), SIZE, np.random.default_rng(5)), image), uncoloured)
    # The same warp decides which places are dark or light.
    assert np.corrcoef(luma(uncoloured).ravel(), luma(coloured).ravel())[0, 1] > 0.99
    assert not np.array_equal(uncoloured, coloured)


# Mixing -------------------------------------------------------------------------------------------------------------


def flat(values, size=8):
    return np.broadcast_to(np.array(values, np.uint8)[:, None, None, None], (len(values), size, size, 3)).copy()


def test_mixup_is_a_weighted_mean_with_the_next_image():
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    shares = np.array([0.25, 1.0, 0.6])
    own = shares[:, None, None, None]
    expected = own * images + (1 - own) * images[[1, 2, 0]]
    mixup(images, shares)
    assert np.abs(images - expected).max() <= 0.5 + 1e-5


def test_cutmix_fills_a_box_and_returns_the_rest():
    images = flat([10, 20, 30])
    shares = cutmix(images, [(0, 4, 2, 8), (3, 3, 0, 8), (0, 8, 0, 8)])
    assert shares == pytest.approx([1 - 24 / 64, 1, 0])
    expected = flat([10, 20, 10])
    expected[0, :4, 2:] = 20
    assert np.array_equal(images, expected)


def test_targets_are_mixed_like_pixels():
    """The pixels of each image equal its target before and after mixing."""
    values = np.array([0.0, 100, 200, 40])
    for name in ("mixup", "cutmix"):
        images = flat(values, 16)
        rngs = [np.random.default_rng(number) for number in range(4)]
        shares = mix(images, AugmentSettings(**{name: 1.0}), rngs)
        assert len(set(shares)) == 4
        # MixUp rounds each pixel. CutMix copies pixels.
        assert images.mean(axis=(1, 2, 3)) == pytest.approx(mix_values(values, shares), abs=0.5)
    targets = np.eye(4, dtype=np.float32)
    mixed = mix_values(targets, np.array([1.0, 0.25, 0.5, 0]))
    assert mixed.dtype == np.float32
    assert mixed.tolist() == [[1, 0, 0, 0], [0, 0.25, 0.75, 0], [0, 0, 0.5, 0.5], [1, 0, 0, 0]]


def test_single_image_mixes_with_itself():
    images = flat([77])
    shares = mix(images, AugmentSettings(mixup=0.4), [np.random.default_rng(0)])
    assert np.array_equal(images, flat([77]))
    assert mix_values(np.array([[0.0, 1.0]]), shares).tolist() == [[0, 1]]


@pytest.mark.parametrize("alpha", [0.3, 1.0, 4.0])
def test_shares_have_the_beta_distribution(alpha):
    rngs = [np.random.default_rng(number) for number in range(3000)]
    shares = mix(np.zeros((3000, 1, 1, 3), np.uint8), AugmentSettings(mixup=alpha), rngs)
    assert kstest(shares, beta(alpha, alpha).cdf).pvalue > 0.01


def test_boxes_inside_have_their_area_at_any_place():
    rng = np.random.default_rng(0)
    boxes = np.array([draw_box(0.75, 100, rng) for _ in range(4000)])
    tops, bottoms, lefts, rights = boxes.T
    assert boxes.min() == 0
    assert boxes.max() == 100
    inside = (tops > 0) & (bottoms < 100) & (lefts > 0) & (rights < 100)
    assert set((bottoms - tops)[inside]) | set((rights - lefts)[inside]) == {50}
    # The middle of a box is any pixel. Half of the boxes fit in each direction, so a quarter fits in both.
    assert inside.mean() == pytest.approx(0.25, abs=0.03)
    top, bottom, left, right = draw_box(1.0, 100, rng)
    assert (bottom - top, right - left) == (0, 0)


# Views --------------------------------------------------------------------------------------------------------------


def viewed(image, number):
    out = np.empty_like(image)
    write_view(image, number, out)
    return out


@pytest.mark.parametrize("size", [5, 8])
def test_eight_views_are_the_symmetries_of_a_square(size):
    image = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    quarter_turns = [np.rot90(side, turns) for side in (image, image[:, ::-1]) for turns in range(4)]
    views = [viewed(image, number) for number in range(8)]
    assert {view.tobytes() for view in views} == {view.tobytes() for view in quarter_turns}
    assert len({view.tobytes() for view in views}) == 8
    assert np.array_equal(views[0], image)
    assert np.array_equal(views[1], image[:, ::-1])
    # The first two, four and eight views are groups: a view of a view is one of them.
    for count in (2, 4, 8):
        known = {view.tobytes() for view in views[:count]}
        assert {viewed(view, number).tobytes() for view in views[:count] for number in range(count)} == known


def test_further_views_are_turned_evenly():
    """The views show a dot off the middle in directions that are evenly spread."""
    size, middle = 101, 50
    image = np.zeros((size, size, 3), np.uint8)
    cv2.circle(image, (middle + 35, middle + 8), 2, (255, 255, 255), -1)
    for count in (8, 16, 32):
        angles = []
        for number in range(count):
            rows, columns = np.nonzero(viewed(image, number)[..., 0] > 60)
            assert np.hypot(rows.mean() - middle, columns.mean() - middle) == pytest.approx(np.hypot(35, 8), abs=0.5)
            angles.append(np.degrees(np.arctan2(rows.mean() - middle, columns.mean() - middle)) % 360)
        # The image and its mirror image have each direction once.
        own = np.degrees(np.arctan2(8, 35))
        step = 720 / count
        expected = sorted((sign * own + step * turn) % 360 for sign in (1, -1) for turn in range(count // 2))
        assert sorted(angles) == pytest.approx(expected, abs=1)
    assert MAX_VIEWS == 32
