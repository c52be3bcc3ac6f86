"""Figures of scores: confusion matrices, learning curves, the comparison of backbones. PNG, always the same bytes."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from retinaflow.errors import RetinaflowError
from retinaflow.files import whole_file

# Of the Okabe-Ito palette: told apart with any colour vision, and by lightness alone in print.
DARK, LIGHT = "#0072B2", "#E69F00"

CURVES = {"loss": "Loss", "accuracy": "Accuracy", "quadratic_weighted_kappa": "Quadratic weighted kappa"}
RATE = "learning_rate"


def confusion_matrix_figure(
    path: str | os.PathLike[str], matrix: np.ndarray, classes: Sequence[str], title: str
) -> None:
    """Draw counts and, as colour and per cent, the share of each actual class that was predicted as each class.

    ``matrix``: int (k, k), rows actual, columns predicted, in the order of the k ``classes``.
    Raises ``RetinaflowError`` if the shape does not fit the classes.
    """
    k = len(classes)
    if matrix.shape != (k, k):
        raise RetinaflowError(
            f"{path}: found a confusion matrix of shape {matrix.shape}, expected {(k, k)} for {k} classes. "
            "Score the model again with these classes."
        )
    totals = matrix.sum(axis=1, keepdims=True)
    shares = matrix / np.maximum(totals, 1)
    # Cells of a fixed size in inches, so that text fits at any number of classes; labels widen the figure when saved.
    figure = Figure(figsize=(0.9 * k, 0.9 * k))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for (row, column), share in np.ndenumerate(shares):
        percent = f"{share:.1%}" if totals[row, 0] else "–"
        axes.text(
            column,
            row,
            f"{matrix[row, column]:,}\n{percent}",
            ha="center",
            va="center",
            fontsize=9,
            color="white" if share > 0.6 else "black",
        )
    slanted: dict[str, Any] = {"rotation": 40, "ha": "right", "rotation_mode": "anchor"}
    axes.set_xticks(range(k), classes, **(slanted if max(map(len, classes)) > 8 else {}))
    axes.set_yticks(range(k), [f"{name}\nn = {total:,}" for name, total in zip(classes, totals[:, 0], strict=True)])
    # Between the cells, so that near-white ones keep their outline.
    axes.set_xticks(np.arange(k + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(k + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="0.8", linewidth=0.8)
    axes.tick_params(which="both", length=0)
    axes.set_xlabel("Predicted")
    axes.set_ylabel("Actual")
    axes.set_title(f"{title}\nimages, and share of the actual class", fontsize=11)
    _save(figure, path)


def learning_curves(
    path: str | os.PathLike[str], history_rows: Sequence[Mapping[str, str]], kept_epoch: int, title: str
) -> None:
    """Draw loss, accuracy, kappa and learning rate by epoch, and mark the epoch whose weights were kept.

    ``history_rows``: a row an epoch with ``epoch``, the three figures, ``val_`` and each of them, and
    ``learning_rate``, as text; what is not finite is left out. Raises ``RetinaflowError`` if there is no row, a column
    is missing or a value is no number.
    """
    history = _history(path, history_rows)
    epochs = history["epoch"]
    figure = Figure(figsize=(9, 6.4), layout="constrained")
    panels = figure.subplots(2, 2, sharex=True)
    for axes, (name, label) in zip(panels.flat, CURVES.items(), strict=False):
        axes.plot(epochs, history[name], "o--", color=LIGHT, markersize=4, label="training")
        axes.plot(epochs, history[f"val_{name}"], "s-", color=DARK, markersize=4, label="validation")
        axes.set_title(label, fontsize=10)
    rates = panels[1, 1]
    rates.plot(epochs, history[RATE], "D-", color="black", markersize=4)
    rates.set_yscale("log")
    rates.set_title("Learning rate", fontsize=10)
    for axes in panels.flat:
        axes.axvline(kept_epoch, color="0.35", linestyle=":", label=f"kept: epoch {kept_epoch}")
        axes.grid(color="0.9")
        axes.xaxis.get_major_locator().set_params(integer=True, min_n_ticks=1)
    for axes in panels[1]:
        axes.set_xlabel("Epoch")
    figure.suptitle(title, fontsize=12)
    figure.legend(*panels[0, 0].get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    _save(figure, path)


def comparison_figure(path: str | os.PathLike[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Draw kappa and accuracy of backbones as bars, best first, with the accuracy of always answering the first class.

    ``rows``: one a backbone and part, in the order to draw, with ``backbone``, ``part``, ``quadratic_weighted_kappa``
    and ``accuracy`` (None is undefined), each also with ``_deviation`` (over folds; None without), ``baseline_class``
    and ``baseline_accuracy``. Raises ``RetinaflowError`` if there is no row.
    """
    if not rows:
        raise RetinaflowError(f"{path}: found no scores to compare, expected at least one. Score a backbone first.")
    backbones, parts = (list(dict.fromkeys(row[key] for row in rows)) for key in ("backbone", "part"))
    figure = Figure(figsize=(10, 1.6 + 0.36 * len(backbones) * len(parts)), layout="constrained")
    kappas, accuracies = figure.subplots(1, 2, sharey=True)
    height = 0.8 / len(parts)
    for part, colour in zip(parts, (DARK, LIGHT), strict=False):
        chosen = [row for row in rows if row["part"] == part]
        places = np.array(
            [backbones.index(row["backbone"]) + (parts.index(part) - (len(parts) - 1) / 2) * height for row in chosen]
        )
        baselines = [row["baseline_accuracy"] for row in chosen]
        _bars(kappas, places, height, chosen, "quadratic_weighted_kappa", colour, [0.0] * len(chosen))
        _bars(accuracies, places, height, chosen, "accuracy", colour, baselines)
        # A mark on each bar: the parts' baselines are so close that lines across the panel would merge.
        accuracies.vlines(
            baselines,
            places - height / 2,
            places + height / 2,
            colors="black",
            linewidth=2.5,
            label=f"always {rows[0]['baseline_class']}" if part == parts[-1] else None,
        )
    kappas.set_yticks(range(len(backbones)), backbones)
    kappas.set_ylim(len(backbones) - 0.45, -0.55)
    kappas.set_xlabel("Quadratic weighted kappa")
    accuracies.set_xlabel("Accuracy")
    lowest = min([0.0, *(row["quadratic_weighted_kappa"] or 0.0 for row in rows)])
    for axes, left in ((kappas, lowest), (accuracies, 0.0)):
        axes.axvline(0, color="black", linewidth=0.8)
        # Room for the text behind a bar of 1.
        axes.set_xlim(left, 1.3)
        axes.spines["bottom"].set_bounds(left, 1)
        axes.set_xticks([tick for tick in np.linspace(-1, 1, 11) if tick >= left - 1e-9])
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
    figure.legend(*accuracies.get_legend_handles_labels(), loc="outside lower center", ncols=3, frameon=False)
    _save(figure, path)


def _bars(
    axes: Axes,
    places: np.ndarray,
    height: float,
    rows: Sequence[Mapping[str, Any]],
    name: str,
    colour: str,
    marks: Sequence[float],
) -> None:
    """Bars of the figure ``name`` with its value behind bar, deviation and mark."""
    values = [row[name] for row in rows]
    deviations = [row[f"{name}_deviation"] for row in rows]
    over_folds = any(deviation is not None for deviation in deviations)
    axes.barh(
        places,
        [value or 0.0 for value in values],
        height,
        color=colour,
        edgecolor="white",
        label=rows[0]["part"] + (" (mean ± standard deviation over folds)" if over_folds else ""),
        xerr=np.array(deviations, dtype=float) if over_folds else None,
        error_kw={"ecolor": "0.3", "capsize": 3, "linewidth": 1.2},
    )
    for place, value, deviation, mark in zip(places, values, deviations, marks, strict=True):
        text = "undefined" if value is None else f"{value:.3f}" + ("" if deviation is None else f" ± {deviation:.3f}")
        axes.text(max((value or 0.0) + (deviation or 0.0), mark) + 0.015, place, text, va="center", fontsize=8)


def _history(path: str | os.PathLike[str], rows: Sequence[Mapping[str, str]]) -> dict[str, np.ndarray]:
    """Columns of a training history, float64 (epochs,), NaN for what is not finite."""
    if not rows:
        raise RetinaflowError(f"{path}: found a history without epochs, expected at least one. Train the model again.")
    columns = {}
    for name in ("epoch", *CURVES, *(f"val_{name}" for name in CURVES), RATE):
        try:
            values = np.array([float(row[name]) for row in rows])
        except KeyError:
            raise RetinaflowError(
                f"{path}: column {name!r} of the history is missing; found {', '.join(rows[0])}. Train the model again."
            ) from None
        except ValueError as error:
            raise RetinaflowError(
                f"{path}: column {name!r} of the history: {error}; expected numbers. Train the model again."
            ) from error
        columns[name] = np.where(np.isfinite(values), values, np.nan)
    return columns


def _save(figure: Figure, path: str | os.PathLike[str]) -> None:
    # matplotlib would write its version into the file.
    with whole_file(path) as part:
        figure.savefig(part, format="png", dpi=150, bbox_inches="tight", metadata={"Software": None})
