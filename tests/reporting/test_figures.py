"""Figures: whole PNG files of the right size, the same bytes every time, and clear errors."""

import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from common import drawn, pixels_of_figure
from retinaflow.errors import RetinaflowError
from retinaflow.reporting.figures import MOST_BARS, comparison_figure, confusion_matrix_figure, learning_curves
from retinaflow.storage.tables import Row


@pytest.fixture(autouse=True)
def _no_warnings() -> object:
    """A layout that does not fit and a value that cannot be drawn are warnings in matplotlib."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


def history(epochs: int, **override: str) -> list[Row]:
    return [
        {
            "epoch": str(epoch),
            "loss": str(1 / epoch),
            "accuracy": str(1 - 0.3 / epoch),
            "quadratic_weighted_kappa": str(0.8 - 0.8 / epoch),
            "val_loss": str(0.5 + (epoch - 3) ** 2 / 50),
            "val_accuracy": "0.7",
            "val_quadratic_weighted_kappa": "0.5",
            "learning_rate": "0.0001",
            "seconds": "12.5",
            **override,
        }
        for epoch in range(1, epochs + 1)
    ]


def bar(run: str, part: str, kappa: float | None, width: float | None = None) -> dict[str, object]:
    """A row of a comparison, with intervals of that half width."""
    low, high = (None, None) if width is None or kappa is None else (kappa - width, kappa + width)
    return {
        "model": run,
        "split": part,
        "quadratic_weighted_kappa": kappa,
        "quadratic_weighted_kappa_low": low,
        "quadratic_weighted_kappa_high": high,
        "argmax_quadratic_weighted_kappa": None if kappa is None else kappa - 0.05,
        "fellow_eye_quadratic_weighted_kappa": 0.855 if part == "test" else None,
        "accuracy": 0.72,
        "accuracy_low": None if width is None else 0.72 - width,
        "accuracy_high": None if width is None else 0.72 + width,
        "baseline_grade_name": "class0",
        "baseline_accuracy": 0.735,
    }


def confusion(k: int) -> Callable[[Path], None]:
    matrix = np.arange(k * k).reshape(k, k) * 12_345
    matrix[-1] = 0
    return lambda path: confusion_matrix_figure(path, matrix, [f"a rather long class {i}" for i in range(k)], "VGG16")


DRAWINGS: dict[str, Callable[[Path], None]] = {
    "2 classes": confusion(2),
    "12 classes": confusion(12),
    "1 epoch": lambda path: learning_curves(path, history(1), 1, "VGG16/fold-1"),
    "30 epochs": lambda path: learning_curves(path, history(30), 20, "VGG16"),
    "gaps": lambda path: learning_curves(
        path, [*history(2), *history(1, epoch="3", loss="inf", val_loss="nan")], 2, "x"
    ),
    "no validation loss": lambda path: learning_curves(path, history(3, val_loss="nan"), 3, "x"),
    "1 backbone": lambda path: comparison_figure(path, [bar("VGG16", "validation", 0.7)]),
    "9 backbones": lambda path: comparison_figure(
        path, [bar(f"InceptionResNetV{i}", part, 0.9 - i / 10) for i in range(9) for part in ("validation", "test")]
    ),
    "intervals": lambda path: comparison_figure(
        path, [bar("A", "out-of-fold", 0.98, 0.02), bar("A", "test", 1.0, 0.0), bar("B", "out-of-fold", -0.3, 0.1)]
    ),
    "undefined": lambda path: comparison_figure(path, [bar("A", "validation", 0.1), bar("B", "validation", None)]),
}


@pytest.mark.parametrize("name", DRAWINGS)
def test_figure_is_complete_and_reproducible(tmp_path: Path, name: str) -> None:
    drawn(DRAWINGS[name], tmp_path)


def test_confusion_matrix_colours_shares_of_the_actual_class(tmp_path: Path) -> None:
    # Nearly all of the large class 0 is called 1, all of the small class 1 rightly 1: rows, not counts, set the colour.
    confusion_matrix_figure(tmp_path / "f.png", np.array([[100, 9_900], [0, 3]]), ["a", "b"], "t")
    grey = pixels_of_figure(tmp_path / "f.png").astype(int).sum(axis=2)
    dark_columns = (grey < 350).mean(axis=0) > 0.5
    left, right = np.array_split(dark_columns, 2)
    # Two dark cells above each other are one dark band in the right half; in the left there is just the frame.
    assert right.sum() > 100
    assert left.sum() < 10


def test_confusion_matrix_grows_with_the_classes(tmp_path: Path) -> None:
    sizes = []
    for k in (2, 5):
        confusion_matrix_figure(tmp_path / "f.png", np.eye(k, dtype=int), [str(i) for i in range(k)], "t")
        sizes.append(pixels_of_figure(tmp_path / "f.png").shape[0])
    # 0.9 inches a class.
    assert sizes[1] - sizes[0] == pytest.approx(3 * 0.9 * 150, abs=3)


def test_learning_curves_mark_the_best_epoch(tmp_path: Path) -> None:
    learning_curves(tmp_path / "third.png", history(4), 3, "x")
    learning_curves(tmp_path / "first.png", history(4), 1, "x")
    # Of the accuracy panel (right half, top), only the mark can have moved.
    third, first = (pixels_of_figure(tmp_path / f"{name}.png") for name in ("third", "first"))
    assert third.shape == first.shape
    panel = (slice(60, third.shape[0] // 2), slice(third.shape[1] // 2 + 60, None))
    change = (third[panel].astype(int) - first[panel]).sum(axis=(0, 2))
    moved = np.flatnonzero(change)
    assert 0 < len(moved) < 30
    # The mark of the first epoch darkens the left end of what changed, that of the third the right end.
    assert change[moved[0]] > 0 > change[moved[-1]]


def test_mismatched_matrix_is_named(tmp_path: Path) -> None:
    with pytest.raises(RetinaflowError, match=r"f\.png: .*\(2, 2\), expected \(3, 3\)"):
        confusion_matrix_figure(tmp_path / "f.png", np.eye(2, dtype=int), ["a", "b", "c"], "t")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "without epochs"),
        ([{"epoch": "1", "loss": "2"}], "column 'accuracy' .* is missing; found epoch, loss"),
        (history(2, val_loss="much"), "column 'val_loss' .*'much'"),
        (history(2, learning_rate=""), "column 'learning_rate'"),
    ],
)
def test_bad_history_is_named(tmp_path: Path, rows: list[Row], message: str) -> None:
    with pytest.raises(RetinaflowError, match=message):
        learning_curves(tmp_path / "f.png", rows, 1, "t")
    assert not list(tmp_path.iterdir())


def test_each_interval_and_mark_is_drawn(tmp_path: Path) -> None:
    """A value of kappa or accuracy changes only its own panel."""
    usual = bar("A", "validation", 0.6, 0.1)
    comparison_figure(tmp_path / "usual.png", [usual])
    before = pixels_of_figure(tmp_path / "usual.png")
    # The legend below the panels stays the same.
    half, above = before.shape[1] // 2, slice(0, before.shape[0] * 2 // 3)
    for name, value, left in (
        ("quadratic_weighted_kappa_low", 0.4, True),
        ("quadratic_weighted_kappa_high", 0.65, True),
        ("argmax_quadratic_weighted_kappa", 0.3, True),
        ("accuracy_low", 0.5, False),
        ("baseline_accuracy", 0.4, False),
    ):
        comparison_figure(tmp_path / "changed.png", [{**usual, name: value}])
        changed = (pixels_of_figure(tmp_path / "changed.png") != before).any(axis=2)[above]
        assert changed[:, :half].any() == left, name
        assert changed[:, half:].any() != left, name


def test_comparison_of_many_models_stays_short(tmp_path: Path) -> None:
    heights = []
    for count in (MOST_BARS // 2, MOST_BARS):
        rows = [bar(f"model {number}", split, 0.5) for number in range(count) for split in ("validation", "test")]
        comparison_figure(tmp_path / "f.png", rows)
        heights.append(pixels_of_figure(tmp_path / "f.png").shape[0])
    assert heights[1] == heights[0]


def test_repeats_have_no_bars_of_their_own(tmp_path: Path) -> None:
    first = {**bar("A", "validation", 0.5), "repeat_of": "A"}
    comparison_figure(tmp_path / "one.png", [first])
    comparison_figure(tmp_path / "two.png", [first, {**bar("A-repeat-2", "validation", 0.4), "repeat_of": "A"}])
    comparison_figure(tmp_path / "others.png", [first, bar("B", "validation", 0.4)])
    heights = [pixels_of_figure(tmp_path / f"{name}.png").shape[0] for name in ("one", "two", "others")]
    assert heights[0] == heights[1] < heights[2]


def test_nothing_to_compare_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(RetinaflowError, match="no scores"):
        comparison_figure(tmp_path / "f.png", [])
