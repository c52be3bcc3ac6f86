"""Names and functions that several test files use. Two files are named conftest.py, so these are not in them."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from retinaflow.evaluation.grades import Grades
from retinaflow.networks.backbones import BACKBONES

ROOT = Path(__file__).resolve().parents[1]
# Option of snakemake that shows its own output, with all details of each job.
STANDARD = "--logger-retinaflow-standard"
DATA = Path(os.environ.get("RETINAFLOW_DATA", ROOT.parent / "shared" / "data"))
CLASSES = ["class0", "class1", "class2", "class3", "class4"]

# Index tables of a split, and its shards as (pixels, rows).
Part = tuple[list[Path], list[tuple[Path, Path]]]
# Model of workflow tests. Keras compiles the first block of the smallest network in a quarter of the time of the whole.
SMALL = {"MobileNetV3Small": {"feature_layers": ["expanded_conv_project_bn"]}}


# Backbones that quick tests build, at least one of each family.
QUICK_BACKBONES = {
    *("VGG16", "ResNet50", "ResNet50V2", "InceptionV3", "Xception", "MobileNet", "MobileNetV2", "NASNetMobile"),
    *("DenseNet121", "EfficientNetB0", "EfficientNetV2B0", "EfficientNetV2B1", "EfficientNetV2B2", "EfficientNetV2B3"),
    *("EfficientNetV2S", "MobileNetV3Small", "MobileNetV3Large", "ConvNeXtTiny"),
}


def backbones() -> list[Any]:
    """Names of all backbones, as parameters of a test. Those of a family that has a quick one are slow."""
    return [
        name if name in QUICK_BACKBONES else pytest.param(name, marks=pytest.mark.slow, id=name) for name in BACKBONES
    ]


def watched(page: Any, own: tuple[str, ...]) -> list[str]:
    """Errors of a page in Chromium, and its requests to addresses that begin otherwise."""
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda asked: None if asked.url.startswith(own) else wrong.append(asked.url))
    return wrong


def grades_of(probabilities: np.ndarray, referable_grade: int) -> Grades:
    """Grades (n,) of the most probable grade in ``probabilities`` (n, k), without thresholds."""
    grade = probabilities.argmax(axis=1)
    return Grades(
        probabilities @ np.arange(probabilities.shape[1]), probabilities, grade, grade, grade >= referable_grade
    )


def pixels_of_figure(path: Path) -> np.ndarray:
    """Pixels of a PNG file with 150 dots per inch and no date or program in it: uint8 RGB."""
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.info["dpi"] == pytest.approx((150, 150), abs=0.1)
        assert not {"Software", "Creation Time", "date"} & set(image.info)
        return np.array(image.convert("RGB"))


def drawn(draw: Callable[[Path], object], folder: Path) -> np.ndarray:
    """Draw a figure twice, check that bytes are equal and no part is cut off, and return its pixels."""
    for number in "12":
        draw(folder / number / "figure.png")
    first, second = (folder / number / "figure.png" for number in "12")
    assert first.read_bytes() == second.read_bytes()
    assert [path.name for path in first.parent.iterdir()] == ["figure.png"]
    found = pixels_of_figure(first)
    assert min(found.shape[:2]) > 150
    assert (found[[0, -1]] == 255).all(), "something is cut off at the top or bottom"
    assert (found[:, [0, -1]] == 255).all(), "something is cut off at a side"
    return found
