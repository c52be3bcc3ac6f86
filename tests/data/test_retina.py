"""The retina in an image: one function gives the results of both former formulas."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from retinaflow.data.demo import GRADES, draw_image
from retinaflow.data.quality import DISC_SHARE
from retinaflow.data.retina import BORDER_NOISE, SPECKS, find_retina
from retinaflow.preprocessing.preprocess import retina_box


def former_crop(grey: np.ndarray) -> tuple[slice, slice] | None:
    """Box of the retina by the formula that preprocessing had."""
    lit = cv2.threshold(grey, max(8, 0.1 * cv2.mean(grey)[0]), 1, cv2.THRESH_BINARY)[1]
    height, width = lit.shape
    rows = np.flatnonzero(cv2.reduce(lit, 1, cv2.REDUCE_SUM, dtype=cv2.CV_32S) > 0.02 * width)
    columns = np.flatnonzero(cv2.reduce(lit, 0, cv2.REDUCE_SUM, dtype=cv2.CV_32S) > 0.02 * height)
    if not len(rows) or not len(columns):
        return None
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def former_disc(grey: np.ndarray) -> tuple[np.ndarray, tuple[slice, slice] | None]:
    """Lit pixels and their box by the formula that the quality measures had."""
    lit = grey > max(8, 1 / 5 * grey.mean())
    rows, columns = np.flatnonzero(lit.mean(axis=1) > 0.02), np.flatnonzero(lit.mean(axis=0) > 0.02)
    if not len(rows) or not len(columns):
        return lit, None
    return lit, (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1))


def check_both(image: np.ndarray) -> None:
    """Compare both uses with the former formulas. The image is BGR."""
    grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    whole = slice(0, grey.shape[0]), slice(0, grey.shape[1])
    assert retina_box(image) == (former_crop(grey) or whole)
    lit, box = find_retina(grey, mean=grey.mean(), share=DISC_SHARE)
    former_lit, former_box = former_disc(grey)
    assert box == former_box
    assert lit.dtype == np.uint8
    np.testing.assert_array_equal(lit, former_lit)


@pytest.mark.parametrize("size", [64, 97, 400])
def test_drawn_images_have_the_former_boxes(size: int) -> None:
    for grade in range(GRADES):
        for gain in (0.1, 0.5, 1):
            image = draw_image(grade, "left", size=size, rng=np.random.default_rng(grade))
            check_both(cv2.cvtColor((image * gain).astype(np.uint8), cv2.COLOR_RGB2BGR))


@given(arrays(np.uint8, array_shapes(min_dims=2, max_dims=2, max_side=60), elements=st.integers(0, 60)))
def test_noise_has_the_former_boxes(grey: np.ndarray) -> None:
    check_both(cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR))


@pytest.mark.parametrize("folder", ["eyepacs-1024", "eyepacs-original", "aptos-224"])
def test_real_images_have_the_former_boxes(real_data: Path, folder: str) -> None:
    suffixes = {".jpeg", ".jpg", ".png"}
    paths = sorted(path for path in (real_data / folder).rglob("*") if path.suffix in suffixes)
    if not paths:
        pytest.skip(f"no images in {real_data / folder}")
    for path in paths[:: -(-len(paths) // 40)]:
        check_both(cv2.imread(str(path)))


def test_rows_with_few_lit_pixels_are_outside_at_any_size() -> None:
    """The share of lit pixels and their number give the same answer for every side."""
    for side in range(1, 20_000):
        count = np.arange(max(0, side // 50 - 1), side // 50 + 3)
        np.testing.assert_array_equal(count > SPECKS * side, count / side > SPECKS)


def test_box_is_missing_if_nothing_is_lit() -> None:
    lit, box = find_retina(np.full((30, 40), BORDER_NOISE, np.uint8), mean=BORDER_NOISE, share=0.1)
    assert box is None
    assert not lit.any()


def test_larger_share_leaves_out_a_halo() -> None:
    grey = np.zeros((100, 100), np.uint8)
    grey[5:96, 5:96] = 20
    grey[20:81, 20:81] = 255
    small, large = (find_retina(grey, mean=grey.mean(), share=share).box for share in (0.4, 0.1))
    assert small == (slice(20, 81), slice(20, 81))
    assert large == (slice(5, 96), slice(5, 96))
