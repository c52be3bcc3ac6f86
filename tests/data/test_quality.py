"""Quality of images: each measure falls with its own fault, and hardly with others."""

import itertools
from pathlib import Path

import cv2
import numpy as np
import pytest

from retinaflow.data.inventory import INVENTORY_COLUMNS
from retinaflow.data.quality import Quality, assess
from retinaflow.scoring.predictions import read_quality
from retinaflow.storage.tables import write_table


def retina(size: int, brightness: float = 110) -> np.ndarray:
    """A disc with vessels, on black, with a margin."""
    image = np.zeros((size, round(1.3 * size)), np.uint8)
    middle = (image.shape[1] // 2, size // 2)
    cv2.circle(image, middle, round(0.48 * size), int(brightness), -1, cv2.LINE_AA)
    rng = np.random.default_rng(3)
    for angle in rng.uniform(0, 2 * np.pi, 24):
        end = tuple(
            int(at + 0.44 * size * part) for at, part in zip(middle, (np.cos(angle), np.sin(angle)), strict=True)
        )
        cv2.line(image, middle, end, int(0.6 * brightness), max(1, size // 64), cv2.LINE_AA)
    return image


@pytest.mark.parametrize("size", [300, 1200])
def test_blur_lowers_focus_alone(size: int) -> None:
    sharp = retina(size)
    found = [assess(sharp), *(assess(cv2.GaussianBlur(sharp, (0, 0), share * size)) for share in (0.006, 0.012, 0.025))]
    assert all(b.focus < 0.95 * a.focus for a, b in itertools.pairwise(found))
    assert found[-1].exposure == pytest.approx(found[0].exposure, abs=0.05)
    assert found[-1].field == pytest.approx(found[0].field, abs=0.05)


def test_too_dark_and_too_bright_lower_exposure() -> None:
    found = [assess(retina(400, brightness)).exposure for brightness in (20, 50, 110)]
    assert found == sorted(found)
    image = retina(400).astype(np.float64)
    bright = [assess(np.clip(image * gain, 0, 255).astype(np.uint8)).exposure for gain in (1, 1.8, 2.5)]
    assert bright == sorted(bright, reverse=True)
    assert bright[-1] < 0.3


def test_hidden_and_unevenly_lit_parts_lower_field() -> None:
    whole = retina(400)
    cut = whole.copy()
    cut[:150] = 0
    shadow = whole.copy()
    shadow[:, :220] //= 3
    assert assess(cut).field < 0.8 * assess(whole).field
    assert assess(shadow).field < 0.8 * assess(whole).field


def test_size_and_border_make_little_difference() -> None:
    large = retina(1500)
    small = cv2.resize(large, None, fx=0.3, fy=0.3, interpolation=cv2.INTER_AREA)
    bordered = cv2.copyMakeBorder(small, 60, 90, 30, 10, cv2.BORDER_CONSTANT)
    for other in (small, bordered):
        assert assess(other) == pytest.approx(assess(large), abs=0.04)


def test_overall_quality_is_the_geometric_mean_of_shares() -> None:
    rng = np.random.default_rng(5)
    for shape in ((1, 1), (3, 700), (40, 40), (256, 256)):
        found = assess(rng.integers(0, 256, shape, dtype=np.uint8))
        assert all(0 <= figure <= 1 for figure in found)
        assert found.overall == pytest.approx((found.focus * found.exposure * found.field) ** (1 / 3))


@pytest.mark.parametrize("value", [0, 5])
def test_black_image_has_no_quality(value: int) -> None:
    assert assess(np.full((300, 400), value, np.uint8)) == Quality(0, 0, 0, 0)


def test_quality_is_found_by_image(tmp_path: Path) -> None:
    blank = dict.fromkeys(INVENTORY_COLUMNS, "")
    write_table(tmp_path / "train.csv", INVENTORY_COLUMNS, [{**blank, "image": "a", "quality": "0.25"}])
    write_table(
        tmp_path / "test.csv",
        INVENTORY_COLUMNS,
        [{**blank, "image": "b", "problem": "truncated"}, {**blank, "image": "c", "quality": "1"}],
    )
    found = read_quality([tmp_path / "train.csv", tmp_path / "test.csv"], ["c", "b", "a", "d"])
    np.testing.assert_array_equal(found, [1, np.nan, 0.25, np.nan])
