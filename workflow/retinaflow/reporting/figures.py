"""Figures of scores: confusion matrices, learning curves, the comparison of models. PNG, always the same bytes."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from retinaflow.errors import RetinaflowError
from retinaflow.storage.files import whole_file

# Of the Okabe-Ito palette: they differ for every kind of colour vision, and in lightness in print.
DARK, LIGHT = "#0072B2", "#E69F00"

CURVES = {"loss": "Loss", "accuracy": "Accuracy", "quadratic_weighted_kappa": "Quadratic weighted kappa"}
RATE = "learning_rate"
# Bars of a comparison, which are about a page.
MOST_BARS = 48
KAPPA = "quadratic_weighted_kappa"

Scores = Sequence[Mapping[str, Any]]  # rows of a comparison


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
    save(figure, path)


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
    save(figure, path)


def comparison_figure(path: str | os.PathLike[str], rows: Scores) -> None:
    """Draw kappa and accuracy of models as bars with confidence intervals, and baselines as marks on each bar.

    The first models have bars, ``MOST_BARS`` in all. Further models, and repeats of a model, are counted in the title.

    Args:
        path: The file.
        rows: A row for each model and split, in the order to draw, with ``model``, ``split``, ``baseline_grade_name``,
            ``baseline_accuracy``, ``fellow_eye_quadratic_weighted_kappa``, ``argmax_quadratic_weighted_kappa``,
            ``quadratic_weighted_kappa`` and ``accuracy``. The last two also have ``_low`` and ``_high``. None is an
            undefined or unknown value. Rows may have ``repeat_of``, the model that a repeat belongs to.

    Raises:
        RetinaflowError: There is no row.
    """
    if not rows:
        raise RetinaflowError(f"{path}: found no scores to compare, expected at least one. Score a model first.")
    rows, others = _first_models(rows)
    models, splits = (list(dict.fromkeys(row[key] for row in rows)) for key in ("model", "split"))
    figure = Figure(figsize=(10, 1.8 + 0.36 * len(models) * len(splits)), layout="constrained")
    kappas, accuracies = figure.subplots(1, 2, sharey=True)
    height = 0.8 / len(splits)
    colours = (DARK, LIGHT) if len(splits) < 3 else colormaps["cividis"](np.linspace(0.1, 0.9, len(splits)))
    for split, colour in zip(splits, colours, strict=False):
        chosen = [row for row in rows if row["split"] == split]
        offset = (splits.index(split) - (len(splits) - 1) / 2) * height
        places = np.array([models.index(row["model"]) + offset for row in chosen])
        bars = _Bars(chosen, places, height, colour, labelled=split == splits[-1])
        bars.draw_kappas(kappas)
        bars.draw_accuracies(accuracies)
    kappas.set_yticks(range(len(models)), models)
    kappas.set_ylim(len(models) - 0.45, -0.55)
    kappas.set_xlabel("Quadratic weighted kappa")
    accuracies.set_xlabel("Accuracy")
    lowest = min([0.0, *(row[name] or 0.0 for row in rows for name in (KAPPA, f"{KAPPA}_low", f"argmax_{KAPPA}"))])
    for axes, left in ((kappas, lowest), (accuracies, 0.0)):
        _limit(axes, left)
    labelled = {
        label: handle
        for axes in (kappas, accuracies)
        for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)
    }
    figure.legend(labelled.values(), labelled.keys(), loc="outside lower center", ncols=5, frameon=False)
    if others:
        figure.suptitle(
            f"The first {len(models)} models. {others:,} other models, or repeats, are in comparison.csv.", fontsize=10
        )
    save(figure, path)


def _first_models(rows: Scores) -> tuple[Scores, int]:
    """Rows of the first models without further repeats, of about ``MOST_BARS``, and the number of all other models."""
    firsts = [row["model"] for row in rows if row.get("repeat_of") in (None, "", row["model"])]
    most = max(1, MOST_BARS // len({row["split"] for row in rows}))
    models = set(list(dict.fromkeys(firsts))[:most])
    others = {row["model"] for row in rows} - models
    return [row for row in rows if row["model"] in models], len(others)


def _limit(axes: Axes, left: float) -> None:
    """Set the limits of a panel of bars, with room for the text after a bar of 1."""
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_xlim(left, 1.3)
    axes.spines["bottom"].set_bounds(left, 1)
    axes.set_xticks([tick for tick in np.linspace(-1, 1, 11) if tick >= left - 1e-9])
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)


@dataclass(frozen=True)
class _Bars:
    """Bars of the models on one split: their rows, places, height and colour, and whether marks have labels.

    Baselines are marks on each bar. Lines across the panel would merge, because the splits have similar baselines.
    """

    rows: Scores
    places: np.ndarray
    height: float
    colour: str
    labelled: bool

    def draw_kappas(self, axes: Axes) -> None:
        argmax, fellow = f"argmax_{KAPPA}", f"fellow_eye_{KAPPA}"
        self._draw(axes, KAPPA, (argmax, fellow))
        self._mark(axes, fellow, "the fellow eye's label", "dashed")
        axes.plot(
            *self._known(argmax),
            "o",
            color="white",
            markeredgecolor="black",
            markersize=4.5,
            label="argmax" if self.labelled else "",
        )

    def draw_accuracies(self, axes: Axes) -> None:
        self._draw(axes, "accuracy", ("baseline_accuracy",))
        self._mark(axes, "baseline_accuracy", f"always {self.rows[0]['baseline_grade_name']}", "solid")

    def _draw(self, axes: Axes, name: str, marks: Sequence[str]) -> None:
        """Bars of the metric ``name`` with their intervals; its value after bar, interval and ``marks``."""
        rows = self.rows
        has_interval = any(row[f"{name}_low"] is not None for row in rows)
        label = rows[0]["split"] + (" (95 % interval)" if has_interval else "")
        values = [row[name] or 0.0 for row in rows]
        axes.barh(self.places, values, self.height, color=self.colour, edgecolor="white", label=label)
        for place, row in zip(self.places, rows, strict=True):
            low, high = row[f"{name}_low"], row[f"{name}_high"]
            if low is not None:
                axes.plot([low, high], [place, place], "|-", color="0.3", markersize=6, linewidth=1.2)
            text = "undefined" if row[name] is None else f"{row[name]:.3f}"
            end = max(0.0, *(row[mark] or 0.0 for mark in (name, f"{name}_high", *marks)))
            axes.text(end + 0.025, place, text, va="center", fontsize=8)

    def _mark(self, axes: Axes, name: str, label: str, style: Literal["solid", "dashed"]) -> None:
        """A stroke across each bar at the value of ``name``."""
        values, where = self._known(name)
        half = self.height / 2
        text = label if self.labelled else ""
        axes.vlines(values, where - half, where + half, colors="black", linewidth=2, linestyles=style, label=text)

    def _known(self, name: str) -> np.ndarray:
        """Values of ``name`` that are known and the places of their bars, float (2, n)."""
        rows = zip(self.rows, self.places, strict=True)
        return np.array([(row[name], place) for row, place in rows if row[name] is not None]).reshape(-1, 2).T


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


def save(figure: Figure, path: str | os.PathLike[str]) -> None:
    """Write ``figure`` as PNG, the same bytes every time."""
    # matplotlib would write its version into the file.
    with whole_file(path) as part:
        figure.savefig(part, format="png", dpi=150, bbox_inches="tight", metadata={"Software": None})
