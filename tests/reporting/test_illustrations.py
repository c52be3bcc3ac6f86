"""Figures of the report: whole PNG files, the same bytes every time, also of unusual data."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common import CLASSES, drawn, pixels_of_figure
from retinaflow.evaluation.calibration import reliability
from retinaflow.reporting.illustrations import (
    MOST_CURVES,
    ModelCurve,
    captioned_figure,
    grades_figure,
    model_curves,
    operating_curves,
    quality_figure,
    reliability_diagram,
    samples_figure,
    shortened,
)

RNG = np.random.default_rng(7)
RISK = RNG.random(200)
POSITIVE = RISK + RNG.normal(0, 0.3, 200) > 0.7
LEVELS = RNG.integers(0, 5, 200)
PROBABILITIES = RNG.dirichlet(np.ones(5), 200)
PIXELS = RNG.integers(0, 256, (40, 40, 3), dtype=np.uint8)
# Rows and columns of a screen without the frame of a browser.
SCREEN = (1000, 2300)


@pytest.fixture(autouse=True)
def _no_warnings() -> object:
    """A layout that does not fit and a value that cannot be drawn are warnings in matplotlib."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def thirds(**override: Any) -> list[dict[str, Any]]:
    scores = {"images": 11, "accuracy": 0.7, "quadratic_weighted_kappa": -0.2, "sensitivity": 1.0, "specificity": 0.9}
    return [{"third": third, **scores, **override} for third in ("lowest", "middle", "highest")]


def curves(positive: np.ndarray, referred: np.ndarray) -> Callable[[Path], None]:
    return lambda path: operating_curves(path, positive, RISK, referred=referred, title="VGG16 on test")


def diagram(before: bool) -> Callable[[Path], None]:
    flat = np.full((200, 5), 0.2)
    after, other = reliability(LEVELS, PROBABILITIES), reliability(LEVELS, flat) if before else None
    return lambda path: reliability_diagram(path, after, before=other, title="VGG16 on test")


def grades(parts: int, weightings: int, classes: list[str]) -> Callable[[Path], None]:
    k = len(classes)
    counts = {f"fold-{number}": np.arange(k) * 1234 for number in range(parts - 1)}
    weights = {f"InceptionResNetV{number}": [0.3, *[2.0] * (k - 1)] for number in range(weightings)}
    return lambda path: grades_figure(
        path, {**counts, "test": np.zeros(k, np.int64)}, weights=weights, grade_names=classes
    )


def mistakes(number: int) -> Callable[[Path], None]:
    one = (PIXELS, "a.png\nactual 4\npredicted 0, 97%")
    return lambda path: captioned_figure(path, [one] * number, title="VGG16 on test", empty="no mistake")


DRAWINGS: dict[str, Callable[[Path], None]] = {
    "curves": curves(POSITIVE, RISK > 0.6),
    "nobody referred": curves(POSITIVE, RISK > 2),
    "none positive": curves(POSITIVE & False, RISK > 0.6),
    "all positive": curves(POSITIVE | True, RISK > 0.6),
    "calibrated": diagram(True),
    "regression": diagram(False),
    "quality": lambda path: quality_figure(path, thirds(), "VGG16 on test"),
    "undefined": lambda path: quality_figure(path, thirds(sensitivity=None, quadratic_weighted_kappa=None), "VGG16"),
    "no quality": lambda path: quality_figure(path, None, "VGG16 on test"),
    "1 mistake": mistakes(1),
    "12 mistakes": mistakes(12),
    "no mistake": mistakes(0),
    "odd name": lambda path: captioned_figure(
        path, [(PIXELS, "a$b$^ \udcff.png")], title="VGG16 on test", empty="no mistake"
    ),
    "split": grades(3, 1, CLASSES),
    "folds": grades(6, 3, CLASSES),
    "2 classes": grades(3, 1, ["none", "a class with rather a long name"]),
    "samples": lambda path: samples_figure(
        path,
        {name: [(PIXELS[:20], PIXELS)] * min(3, level) for level, name in enumerate(CLASSES)},
        columns=3,
        title="train",
    ),
}


@pytest.mark.parametrize("name", DRAWINGS)
def test_figure_fits_a_screen_and_is_reproducible(tmp_path: Path, name: str) -> None:
    assert (np.array(drawn(DRAWINGS[name], tmp_path).shape[:2]) <= SCREEN).all()


def test_lines_differ_by_more_than_colour(tmp_path: Path) -> None:
    """They differ in place, marker or stroke, also in grey."""
    quality_figure(tmp_path / "four.png", thirds(), "x")
    quality_figure(tmp_path / "three.png", thirds(specificity=None), "x")
    four, three = (pixels_of_figure(tmp_path / f"{name}.png").mean(axis=2) for name in ("four", "three"))
    panel = slice(0, four.shape[1] * 6 // 10)
    assert four.shape == three.shape
    assert (np.abs(four - three)[:, panel] > 60).sum() > 100


def test_operating_point_moves_with_the_referral(tmp_path: Path) -> None:
    drawn = []
    for bound in (0.3, 0.8):
        operating_curves(tmp_path / "f.png", POSITIVE, RISK, referred=bound < RISK, title="x")
        drawn.append(pixels_of_figure(tmp_path / "f.png"))
    orange = [np.argwhere(np.abs(one.astype(int) - (0xE6, 0x9F, 0x00)).sum(axis=2) < 10) for one in drawn]
    half = drawn[0].shape[1] // 2
    # The legend, below, has a diamond, too: the highest ones are the points. More are referred: higher, to the right.
    low, high = (places[places[:, 1] < half][0] for places in (orange[1], orange[0]))
    assert high[0] < low[0]
    assert high[1] > low[1]


def test_long_names_lose_their_middle() -> None:
    assert shortened("class0") == "class0"
    assert shortened("a" * 24) == "a" * 24
    assert len(shortened("a" * 15 + "b" * 15)) == 24
    assert shortened("abcdefghij", 5) == "ab…ij"


def models(count: int, length: int = 8) -> list[ModelCurve]:
    risks = np.random.default_rng(3).random((count, 200))
    return [ModelCurve(f"{number}{'m' * length}", risk, "0.5 [0.4, 0.6]", True) for number, risk in enumerate(risks)]


@pytest.mark.parametrize("positive", [POSITIVE, np.zeros(200, bool)])
def test_curves_of_models_fit_a_screen(tmp_path: Path, positive: np.ndarray) -> None:
    found = drawn(lambda path: model_curves(path, positive, models(30, 70), "Referable on test"), tmp_path)
    assert found.shape[0] <= SCREEN[0]
    assert found.shape[1] <= SCREEN[1]


def test_curves_beyond_the_best_and_repeats_are_grey(tmp_path: Path) -> None:
    """A repeat, or a model after the best ones, changes no pixel but light grey ones."""
    best = models(MOST_CURVES)
    more = [best[0], best[0]._replace(risk=best[1].risk, first=False), *best[1:], models(MOST_CURVES + 1)[-1]]
    shown = [
        drawn(lambda path, of=of: model_curves(path, POSITIVE, of, "test"), tmp_path / name)
        for name, of in (("a", best), ("b", more))
    ]
    legend = [int((found[:, 1000:] < 150).any(axis=2).sum()) for found in shown]
    dark = [int((found[:, :900] < 150).any(axis=2).sum()) for found in shown]
    assert abs(dark[0] - dark[1]) < 0.02 * dark[0]
    assert legend[1] > legend[0]
