"""Figures of the report: what photographs there are, and how a system does on them. PNG, always the same bytes.

Apart from ``figures``, so that a change here does not score anything anew.
"""

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from retinaflow.evaluation.calibration import Reliability
from retinaflow.reporting.figures import DARK, LIGHT, save

# Panels side by side: a row of them fits a screen.
COLUMNS = 6
# Figures by quality, each with its line.
BY_QUALITY = {
    "quadratic_weighted_kappa": ("quadratic weighted kappa", DARK, "s-"),
    "accuracy": ("accuracy", LIGHT, "o-"),
    "sensitivity": ("sensitivity for referable", "black", "^--"),
    "specificity": ("specificity for referable", "0.5", "v:"),
}

PathLike = str | os.PathLike[str]


def operating_curves(path: PathLike, positive: np.ndarray, risk: np.ndarray, referred: np.ndarray, title: str) -> None:
    """Draw the ROC curve and the precision-recall curve of what is to be referred, and where the operating point is.

    ``positive``: bool (n,), photographs that are referable; ``risk``: float (n,), the probability that they are;
    ``referred``: bool (n,), those that the operating point refers. Where a curve is undefined, its panel says so.
    """
    figure = Figure(figsize=(9.6, 5.5), layout="constrained")
    roc, recalls = figure.subplots(1, 2)
    found, count = int((positive & referred).sum()), int(positive.sum())
    point: dict[str, Any] = {"color": LIGHT, "markeredgecolor": "black", "markersize": 9, "clip_on": False}
    below: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.15), "fontsize": 8, "frameon": False}
    if 0 < count < len(positive):
        false, true, _ = roc_curve(positive, risk, drop_intermediate=False)
        roc.plot(false, true, color=DARK, label=f"area under the curve {roc_auc_score(positive, risk):.3f}")
        roc.plot([0, 1], [0, 1], ":", color="0.35", label="by chance")
        at = float((~positive & referred).sum() / (~positive).sum()), found / count
        label = f"operating point: sensitivity {at[1]:.3f}, specificity {1 - at[0]:.3f}"
        roc.plot(*at, "D", **point, label=label)
        roc.legend(**below)
    else:
        _say(roc, f"undefined: {count:,} of {len(positive):,} photographs are referable")
    if count:
        precision, recall, _ = precision_recall_curve(positive, risk)
        average = average_precision_score(positive, risk)
        recalls.plot(recall, precision, color=DARK, drawstyle="steps-post", label=f"average precision {average:.3f}")
        prevalence = count / len(positive)
        recalls.axhline(prevalence, color="0.35", linestyle=":", label=f"by chance: prevalence {prevalence:.3f}")
        if referred.any():
            at = found / count, found / int(referred.sum())
            label = f"operating point: recall {at[0]:.3f}, precision {at[1]:.3f}"
            recalls.plot(*at, "D", **point, label=label)
        recalls.legend(**below)
    else:
        _say(recalls, "undefined: no photograph is referable")
    for axes, (name, across, up) in zip(
        (roc, recalls),
        (
            ("ROC", "False positive rate (1 - specificity)", "True positive rate (sensitivity)"),
            ("Precision-recall", "Recall (sensitivity)", "Precision (positive predictive value)"),
        ),
        strict=True,
    ):
        _unit_square(axes)
        axes.set_aspect("equal")
        axes.set_title(name, fontsize=10)
        axes.set_xlabel(across)
        axes.set_ylabel(up)
    figure.suptitle(f"{title}\n{count:,} of {len(positive):,} photographs are referable", fontsize=11)
    save(figure, path)


def reliability_diagram(path: PathLike, after: Reliability, before: Reliability | None, title: str) -> None:
    """Draw how often photographs are graded rightly, by how probable that is said to be, and how many there are.

    ``after`` and, where it is known, ``before`` calibration.
    """
    figure = Figure(figsize=(6.4, 5.9), layout="constrained")
    axes, counts = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    axes.plot([0, 1], [0, 1], ":", color="0.35", label="as probable as said")
    lines = [("after calibration", after, DARK, "s-"), ("before calibration", before, LIGHT, "o--")]
    edges = np.linspace(0, 1, len(after.images) + 1)
    for name, found, colour, style in lines:
        if found is None:
            continue
        filled = found.images > 0
        label = f"{name}: expected calibration error {found.expected_calibration_error:.3f}"
        axes.plot(found.confidence[filled], found.accuracy[filled], style, color=colour, markersize=5, label=label)
        counts.stairs(found.images, edges, color=colour, linewidth=1.8, linestyle=style[1:])
    _unit_square(axes)
    axes.set_ylabel("Share that is of that class")
    axes.legend(loc="upper left", fontsize=8)
    counts.set_xlabel("Probability of the most probable class")
    counts.set_ylabel("Photographs")
    counts.set_ylim(bottom=0)
    counts.yaxis.get_major_locator().set_params(integer=True)
    counts.grid(color="0.9")
    counts.set_axisbelow(True)
    figure.suptitle(title, fontsize=11)
    save(figure, path)


def quality_figure(path: PathLike, thirds: Sequence[Mapping[str, Any]] | None, title: str) -> None:
    """Draw what the photographs of lowest, middle and highest quality score: ``by_quality`` of ``metrics.evaluate``."""
    figure = Figure(figsize=(7.2, 4.6), layout="constrained")
    axes = figure.subplots()
    if thirds is None:
        _say(axes, "the quality of these photographs is not known")
    else:
        for number, (name, (label, colour, style)) in enumerate(BY_QUALITY.items()):
            values = [math.nan if third[name] is None else third[name] for third in thirds]
            # Beside each other: scores of 0 and 1 are often the same.
            places = np.arange(len(thirds)) + 0.06 * (number - 1.5)
            axes.plot(places, values, style, color=colour, markersize=7, label=label)
        axes.set_xticks(range(len(thirds)), [f"{third['third']}\nn = {third['images']:,}" for third in thirds])
        axes.set_xlim(-0.3, len(thirds) - 0.7)
        known = [third[name] for third in thirds for name in BY_QUALITY if third[name] is not None]
        axes.set_ylim(min([0.0, *known]) - 0.03, 1.03)
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=8, frameon=False, handlelength=3.5)
    axes.set_xlabel("Third of the photographs, by quality")
    axes.set_ylabel("Score (1 is best)")
    axes.grid(color="0.9")
    axes.set_title(title, fontsize=11)
    save(figure, path)


def captioned_figure(
    path: PathLike, captioned: Sequence[tuple[np.ndarray, str]], title: str, nothing: str, columns: int = COLUMNS
) -> None:
    """Draw photographs, uint8 RGB (height, width, 3), each below its text; or say ``nothing`` if there is none.

    All are of one size; ``columns`` stand side by side.
    """
    rows = max(1, math.ceil(len(captioned) / columns))
    height, width = captioned[0][0].shape[:2] if captioned else (1, 1)
    side = 2 * COLUMNS / columns
    figure = Figure(figsize=(2 * COLUMNS, (side * height / width + 0.6) * rows + 0.5), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False)
    for axes in panels.flat:
        axes.axis("off")
    for axes, (pixels, text) in zip(panels.flat, captioned, strict=False):
        axes.imshow(pixels)
        # A file's name may hold anything: what is no text, and two dollars around what is no formula.
        axes.set_title(text.encode(errors="replace").decode(), fontsize=8, parse_math=False)
    if not captioned:
        figure.text(0.5, 0.4, nothing, ha="center", fontsize=10)
    figure.suptitle(title, fontsize=11)
    save(figure, path)


def grades_figure(
    path: PathLike,
    counts: Mapping[str, np.ndarray],
    weights: Mapping[str, Sequence[float]],
    classes: Sequence[str],
) -> None:
    """Draw how many photographs of each class there are in each part, and what one weighs in the loss.

    ``counts``: int (k,) of each part; ``weights``: k of each of those that use the same.
    """
    panels = len(counts) + len(weights)
    columns = min(panels, COLUMNS)
    rows = math.ceil(panels / columns)
    figure = Figure(figsize=(2.3 * columns + 1, (0.75 + 0.24 * len(classes)) * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for axes in grid.flat[panels:]:
        axes.axis("off")
    shares = [of_part / max(1, of_part.sum()) for of_part in counts.values()]
    for axes, (part, of_part), share in zip(grid.flat, counts.items(), shares, strict=False):
        _named_bars(axes, 100 * share, [f"{n:,} ({its:.1%})" for n, its in zip(of_part, share, strict=True)])
        axes.set_title(f"{part}: {of_part.sum():,}", fontsize=9)
        axes.set_xticks(range(0, 101, 25))
        axes.set_xlim(0, 190 * max(its.max() for its in shares))
        axes.set_xlabel("Share of photographs (%)", fontsize=8)
    for axes, (users, its) in zip(grid.flat[len(counts) :], weights.items(), strict=False):
        _named_bars(axes, np.array(its), [f"{weight:.3g}" for weight in its], LIGHT)
        axes.set_title(f"weights: {users}", fontsize=9)
        axes.set_xlabel("Weight of a photograph in the loss", fontsize=8)
    grid[0, 0].set_yticks(range(len(classes)), [shortened(name) for name in classes])
    grid[0, 0].set_ylim(len(classes) - 0.4, -0.6)
    save(figure, path)


def samples_figure(
    path: PathLike, samples: Mapping[str, Sequence[tuple[np.ndarray, np.ndarray]]], columns: int, title: str
) -> None:
    """Draw photographs of each class before and after preprocessing, each a pair of uint8 RGB (height, width, 3).

    ``columns``: how many pairs a class has at most.
    """
    figure = Figure(figsize=(2.2 * columns + 0.6, 1.1 * len(samples) + 0.5), layout="constrained")
    grid = figure.subplots(len(samples), 2 * columns, squeeze=False)
    for axes in grid.flat:
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
    for row, (name, pairs) in zip(grid, samples.items(), strict=True):
        row[0].set_ylabel(shortened(name), fontsize=8)
        for number, pair in enumerate(pairs):
            for axes, pixels in zip(row[2 * number :], pair, strict=False):
                axes.imshow(pixels)
    for number, axes in enumerate(grid[0]):
        axes.set_title("after" if number % 2 else "before", fontsize=8)
    figure.suptitle(title, fontsize=11)
    save(figure, path)


def shortened(name: str, length: int = 24) -> str:
    """``name`` with its middle left out where it is longer than ``length``: figures have room for no more."""
    return name if len(name) <= length else f"{name[: length // 2]}…{name[1 - (length + 1) // 2 :]}"


def _named_bars(axes: Axes, values: np.ndarray, texts: Sequence[str], colour: str = DARK) -> None:
    axes.barh(range(len(values)), values, color=colour, edgecolor="black", linewidth=0.6)
    for place, (value, text) in enumerate(zip(values, texts, strict=True)):
        axes.text(value, place, f" {text}", va="center", fontsize=7)
    # Room for the text behind the longest bar.
    axes.set_xlim(0, 1.9 * max(values.max(), 1e-9))
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def _unit_square(axes: Axes) -> None:
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.grid(color="0.9")


def _say(axes: Axes, text: str) -> None:
    """In place of a curve that is not defined."""
    axes.text(0.5, 0.5, text, ha="center", va="center", fontsize=9, transform=axes.transAxes)
