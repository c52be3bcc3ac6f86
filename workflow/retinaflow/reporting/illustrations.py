"""Figures of the report on the data and on the models. PNG, always the same bytes.

They are not in ``figures``: a change here does not run the scoring again.
"""

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import average_precision_score, precision_recall_curve, roc_auc_score, roc_curve

from retinaflow.evaluation.calibration import Reliability
from retinaflow.reporting.figures import DARK, LIGHT, save

# Panels side by side; they fit a screen.
FIGURE_COLUMNS = 6
# Metrics by image quality, each with its line.
BY_QUALITY = {
    "quadratic_weighted_kappa": ("quadratic weighted kappa", DARK, "s-"),
    "accuracy": ("accuracy", LIGHT, "o-"),
    "sensitivity": ("sensitivity for referable", "black", "^--"),
    "specificity": ("specificity for referable", "0.5", "v:"),
}

POINT: dict[str, Any] = {"color": LIGHT, "markeredgecolor": "black", "markersize": 9, "clip_on": False}
LEGEND_BELOW: dict[str, Any] = {
    "loc": "upper center",
    "bbox_to_anchor": (0.5, -0.15),
    "fontsize": 8,
    "frameon": False,
}

# Models of a figure of ROC curves that are not grey. Lines and lightness of colours differ in print, too.
CURVE_COLOURS = ("black", DARK)
CURVE_STYLES: tuple[Any, ...] = ("-", "--", "-.", (0, (1, 1)), (0, (6, 2, 1, 2, 1, 2)))
MOST_CURVES = len(CURVE_COLOURS) * len(CURVE_STYLES)

PathLike = str | os.PathLike[str]


def operating_curves(
    path: PathLike, positive: np.ndarray, risk: np.ndarray, *, referred: np.ndarray, title: str
) -> None:
    """Draw the ROC curve, the precision-recall curve and the operating point of referral.

    A panel without a defined curve has a text instead.

    Args:
        path: The file.
        positive: Whether each image is referable, bool (n,).
        risk: Probability that it is, float (n,).
        referred: Whether the operating point refers it, bool (n,).
        title: Title of the figure.
    """
    figure = Figure(figsize=(9.6, 5.5), layout="constrained")
    panels = figure.subplots(1, 2)
    _draw_roc(panels[0], positive, risk, referred)
    _draw_precision_recall(panels[1], positive, risk, referred)
    for axes, (name, across, up) in zip(
        panels,
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
    figure.suptitle(f"{title}\n{positive.sum():,} of {len(positive):,} images are referable", fontsize=11)
    save(figure, path)


class ModelCurve(NamedTuple):
    """A model of a figure of ROC curves.

    Attributes:
        name: Its name.
        risk: Probability that each image is referable, float (n,).
        auc: Area under its curve with its interval, as text.
        first: Whether it is the first of its repeats, or has none.
    """

    name: str
    risk: np.ndarray
    auc: str
    first: bool


def model_curves(path: PathLike, positive: np.ndarray, models: Sequence[ModelCurve], title: str) -> None:
    """Draw the ROC curves of several models for the same images.

    The first ``MOST_CURVES`` models differ in line and colour, also in print. All others are grey.

    Args:
        path: The file.
        positive: Whether each image is referable, bool (n,).
        models: The models, the best first.
        title: Title of the figure.
    """
    count = int(positive.sum())
    figure = Figure(figsize=(11.5, 5.8), layout="constrained")
    axes = figure.subplots()
    _unit_square(axes)
    axes.set_aspect("equal")
    axes.set_xlabel("False positive rate (1 - specificity)")
    axes.set_ylabel("True positive rate (sensitivity)")
    axes.set_title(f"{title}\n{count:,} of {len(positive):,} images are referable", fontsize=11)
    if not 0 < count < len(positive):
        _write_text(axes, f"undefined: {count:,} of {len(positive):,} images are referable")
        save(figure, path)
        return
    shown = [model for model in models if model.first][:MOST_CURVES]
    others = [model for model in models if all(model is not one for one in shown)]
    for number, model in enumerate(others):
        label = f"{len(others):,} other models, or repeats" if number == 0 else None
        axes.plot(*roc_curve(positive, model.risk)[:2], color="0.8", linewidth=0.8, zorder=1, label=label)
    for number, model in enumerate(shown):
        colour, style = CURVE_COLOURS[number // len(CURVE_STYLES)], CURVE_STYLES[number % len(CURVE_STYLES)]
        false, true, _ = roc_curve(positive, model.risk)
        label = f"{model.name}: AUC {model.auc}"
        axes.plot(false, true, color=colour, linestyle=style, linewidth=1.6, label=label)
    axes.plot([0, 1], [0, 1], ":", color="0.5", linewidth=0.8, label="by chance")
    handles, labels = axes.get_legend_handles_labels()
    order = sorted(range(len(labels)), key=lambda place: "other models" in labels[place])
    texts = [labels[place] for place in order]
    beside: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1.02, 0.5), "frameon": False}
    axes.legend([handles[place] for place in order], texts, fontsize=8, handlelength=3.5, **beside)
    save(figure, path)


def _draw_roc(axes: Axes, positive: np.ndarray, risk: np.ndarray, referred: np.ndarray) -> None:
    count = int(positive.sum())
    if not 0 < count < len(positive):
        _write_text(axes, f"undefined: {count:,} of {len(positive):,} images are referable")
        return
    false, true, _ = roc_curve(positive, risk, drop_intermediate=False)
    axes.plot(false, true, color=DARK, label=f"area under the curve {roc_auc_score(positive, risk):.3f}")
    axes.plot([0, 1], [0, 1], ":", color="0.35", label="by chance")
    found = int((positive & referred).sum())
    at = float((~positive & referred).sum() / (~positive).sum()), found / count
    label = f"operating point: sensitivity {at[1]:.3f}, specificity {1 - at[0]:.3f}"
    axes.plot(*at, "D", **POINT, label=label)
    axes.legend(**LEGEND_BELOW)


def _draw_precision_recall(axes: Axes, positive: np.ndarray, risk: np.ndarray, referred: np.ndarray) -> None:
    count = int(positive.sum())
    if not count:
        _write_text(axes, "undefined: no image is referable")
        return
    precision, recall, _ = precision_recall_curve(positive, risk)
    average = average_precision_score(positive, risk)
    axes.plot(recall, precision, color=DARK, drawstyle="steps-post", label=f"average precision {average:.3f}")
    prevalence = count / len(positive)
    axes.axhline(prevalence, color="0.35", linestyle=":", label=f"by chance: prevalence {prevalence:.3f}")
    if referred.any():
        found = int((positive & referred).sum())
        at = found / count, found / int(referred.sum())
        label = f"operating point: recall {at[0]:.3f}, precision {at[1]:.3f}"
        axes.plot(*at, "D", **POINT, label=label)
    axes.legend(**LEGEND_BELOW)


def reliability_diagram(path: PathLike, after: Reliability, *, before: Reliability | None, title: str) -> None:
    """Draw accuracy and number of images by predicted probability.

    Args:
        path: The file.
        after: Reliability after calibration.
        before: Reliability before calibration, if known.
        title: Title of the figure.
    """
    figure = Figure(figsize=(6.4, 5.9), layout="constrained")
    axes, counts = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
    axes.plot([0, 1], [0, 1], ":", color="0.35", label="perfect calibration")
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
    axes.set_ylabel("Share of images of that grade")
    axes.legend(loc="upper left", fontsize=8)
    counts.set_xlabel("Probability of the most probable grade")
    counts.set_ylabel("Images")
    counts.set_ylim(bottom=0)
    counts.yaxis.get_major_locator().set_params(integer=True)
    counts.grid(color="0.9")
    counts.set_axisbelow(True)
    figure.suptitle(title, fontsize=11)
    save(figure, path)


def quality_figure(path: PathLike, thirds: Sequence[Mapping[str, Any]] | None, title: str) -> None:
    """Draw metrics of the images of lowest, middle and highest quality: ``by_quality`` of ``metrics.evaluate``."""
    figure = Figure(figsize=(7.2, 4.6), layout="constrained")
    axes = figure.subplots()
    if thirds is None:
        _write_text(axes, "the quality of these images is not known")
    else:
        for number, (name, (label, colour, style)) in enumerate(BY_QUALITY.items()):
            values = [math.nan if third[name] is None else third[name] for third in thirds]
            # Side by side, because many values are 0 or 1.
            places = np.arange(len(thirds)) + 0.06 * (number - 1.5)
            axes.plot(places, values, style, color=colour, markersize=7, label=label)
        axes.set_xticks(range(len(thirds)), [f"{third['third']}\nn = {third['images']:,}" for third in thirds])
        axes.set_xlim(-0.3, len(thirds) - 0.7)
        known = [third[name] for third in thirds for name in BY_QUALITY if third[name] is not None]
        axes.set_ylim(min([0.0, *known]) - 0.03, 1.03)
        axes.legend(loc="upper left", bbox_to_anchor=(1, 1), fontsize=8, frameon=False, handlelength=3.5)
    axes.set_xlabel("Third of the images, by quality")
    axes.set_ylabel("Score (1 is best)")
    axes.grid(color="0.9")
    axes.set_title(title, fontsize=11)
    save(figure, path)


def captioned_figure(
    path: PathLike,
    captioned: Sequence[tuple[np.ndarray, str]],
    *,
    title: str,
    empty: str,
    columns: int = FIGURE_COLUMNS,
) -> None:
    """Draw images, each below its text.

    Args:
        path: The file.
        captioned: Images of one size, uint8 RGB (height, width, 3), with their texts.
        title: Title of the figure.
        empty: Text of the figure if there is no image.
        columns: Images side by side.
    """
    rows = max(1, math.ceil(len(captioned) / columns))
    height, width = captioned[0][0].shape[:2] if captioned else (1, 1)
    side = 2 * FIGURE_COLUMNS / columns
    figure = Figure(figsize=(2 * FIGURE_COLUMNS, (side * height / width + 0.6) * rows + 0.5), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False)
    for axes in panels.flat:
        axes.axis("off")
    for axes, (pixels, text) in zip(panels.flat, captioned, strict=False):
        axes.imshow(pixels)
        # A file's name may have bytes that are no text, and dollar signs that are no formula.
        axes.set_title(text.encode(errors="replace").decode(), fontsize=8, parse_math=False)
    if not captioned:
        figure.text(0.5, 0.4, empty, ha="center", fontsize=10)
    figure.suptitle(title, fontsize=11)
    save(figure, path)


def grades_figure(
    path: PathLike,
    counts: Mapping[str, np.ndarray],
    *,
    weights: Mapping[str, Sequence[float]],
    grade_names: Sequence[str],
) -> None:
    """Draw the number of images of each grade in each split, and the class weights.

    Args:
        path: The file.
        counts: Number of images by split, int (k,).
        weights: k class weights by the models that use them.
        grade_names: Name of each grade.
    """
    panels = len(counts) + len(weights)
    columns = min(panels, FIGURE_COLUMNS)
    rows = math.ceil(panels / columns)
    figure = Figure(figsize=(2.3 * columns + 1, (0.75 + 0.24 * len(grade_names)) * rows), layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
    for axes in grid.flat[panels:]:
        axes.axis("off")
    shares = [of_split / max(1, of_split.sum()) for of_split in counts.values()]
    for axes, (split, of_split), share in zip(grid.flat, counts.items(), shares, strict=False):
        _named_bars(axes, 100 * share, [f"{n:,} ({part:.1%})" for n, part in zip(of_split, share, strict=True)])
        axes.set_title(f"{split}: {of_split.sum():,}", fontsize=9)
        axes.set_xticks(range(0, 101, 25))
        axes.set_xlim(0, 190 * max(share.max() for share in shares))
        axes.set_xlabel("Share of images (%)", fontsize=8)
    for axes, (users, of_grades) in zip(grid.flat[len(counts) :], weights.items(), strict=False):
        _named_bars(axes, np.array(of_grades), [f"{weight:.3g}" for weight in of_grades], LIGHT)
        axes.set_title(f"weights: {users}", fontsize=9)
        axes.set_xlabel("Weight of an image in the loss", fontsize=8)
    grid[0, 0].set_yticks(range(len(grade_names)), [shortened(name) for name in grade_names])
    grid[0, 0].set_ylim(len(grade_names) - 0.4, -0.6)
    save(figure, path)


def samples_figure(
    path: PathLike, samples: Mapping[str, Sequence[tuple[np.ndarray, np.ndarray]]], *, columns: int, title: str
) -> None:
    """Draw images of each grade before and after preprocessing.

    Args:
        path: The file.
        samples: Pairs by grade name, each uint8 RGB (height, width, 3).
        columns: Largest number of pairs of a grade.
        title: Title of the figure.
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
    """Shorten a name of more than ``length`` characters by its middle, to fit a figure."""
    return name if len(name) <= length else f"{name[: length // 2]}…{name[1 - (length + 1) // 2 :]}"


def _named_bars(axes: Axes, values: np.ndarray, texts: Sequence[str], colour: str = DARK) -> None:
    axes.barh(range(len(values)), values, color=colour, edgecolor="black", linewidth=0.6)
    for place, (value, text) in enumerate(zip(values, texts, strict=True)):
        axes.text(value, place, f" {text}", va="center", fontsize=7)
    # Leave room for the text after the longest bar.
    axes.set_xlim(0, 1.9 * max(values.max(), 1e-9))
    axes.tick_params(labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def _unit_square(axes: Axes) -> None:
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1.02)
    axes.grid(color="0.9")


def _write_text(axes: Axes, text: str) -> None:
    """Write a text in a panel whose curve is not defined."""
    axes.text(0.5, 0.5, text, ha="center", va="center", fontsize=9, transform=axes.transAxes)
