"""What several test files name. Not in conftest.py: tests/workflow has one too, and a new process would find either."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from retinaflow.evaluation.grades import Grades

ROOT = Path(__file__).resolve().parents[1]
# Option of snakemake: its own output, with everything about each job.
STANDARD = "--logger-retinaflow-standard"
DATA = Path(os.environ.get("RETINAFLOW_DATA", ROOT.parent / "shared" / "data"))
CLASSES = ["class0", "class1", "class2", "class3", "class4"]

# Index tables of a part, and its shards as (pixels, rows).
Part = tuple[list[Path], list[tuple[Path, Path]]]
# For the workflow: the first block of the smallest network is compiled in a quarter of the time that the whole takes.
SMALL = {"MobileNetV3Small": {"feature_layers": ["expanded_conv_project_bn"]}}


def watched(page: Any, own: tuple[str, ...]) -> list[str]:
    """What goes wrong on a page of Chromium: errors it tells, and requests to addresses that do not begin so."""
    wrong: list[str] = []
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda asked: None if asked.url.startswith(own) else wrong.append(asked.url))
    return wrong


def grades_of(probabilities: np.ndarray, referable_grade: int) -> Grades:
    """Grades (n,) by the most probable class of ``probabilities`` (n, k), as if there were no thresholds."""
    grade = probabilities.argmax(axis=1)
    return Grades(
        probabilities @ np.arange(probabilities.shape[1]), probabilities, grade, grade, grade >= referable_grade
    )


def pixels_of_figure(path: Path) -> np.ndarray:
    """A PNG file of 150 dots an inch that tells neither when nor by what it was made: uint8 RGB."""
    with Image.open(path) as image:
        assert image.format == "PNG"
        assert image.info["dpi"] == pytest.approx((150, 150), abs=0.1)
        assert not {"Software", "Creation Time", "date"} & set(image.info)
        return np.array(image.convert("RGB"))


def drawn(draw: Callable[[Path], object], folder: Path) -> np.ndarray:
    """Pixels of a figure that is whole, alone in its folder and the same bytes every time."""
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
