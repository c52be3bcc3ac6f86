"""Figures of the evidence: ROC curves, calibration, decision curves, subgroups and the flow diagram."""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn.metrics import roc_curve

from retinaflow.evaluation.binary_calibration import CalibrationLine, RiskBin, line_band
from retinaflow.reporting.figures import DARK, LIGHT, save
from retinaflow.reporting.illustrations import PathLike, shortened
from retinaflow.scoring.flow import FlowCount

MARKERS = "DsP^vXo"
BAND: dict[str, Any] = {"alpha": 0.2, "linewidth": 0}
GROUP_FIGURE = ("sensitivity", "specificity", "auc")


MetricRows = Sequence[Mapping[str, Any]]


def roc_figure(
    path: PathLike,
    curves: Mapping[str, tuple[np.ndarray, np.ndarray, MetricRows]],
    *,
    targets: Mapping[str, float],
    title: str,
) -> None:
    """Draw the ROC curve of each endpoint with its operating points and their intervals.

    Args:
        path: The file.
        curves: Truth, bool (n,), and risk, float (n,), of each patient by endpoint; and rows of sensitivity and
            specificity of its operating points (``evidence.ENDPOINT_COLUMNS``).
        targets: Sensitivity and specificity to exceed.
        title: Title of the figure.
    """
    if not curves:
        _save_text(path, title)
        return
    figure = Figure(figsize=(5.2 * len(curves) + 0.4, 7.4))
    figure.subplots_adjust(bottom=0.32, top=0.86, wspace=0.3)
    for axes, (endpoint, (positive, risk, rows)) in zip(
        figure.subplots(1, len(curves), squeeze=False)[0], curves.items(), strict=True
    ):
        axes.set_title(f"{shortened(endpoint)}\n{positive.sum():,} of {len(positive):,} patients", fontsize=10)
        axes.set_xlabel("1 - specificity")
        axes.set_ylabel("Sensitivity")
        axes.set_xlim(0, 1)
        axes.set_ylim(0, 1.02)
        axes.set_aspect("equal")
        axes.grid(color="0.9")
        if not 0 < positive.sum() < len(positive):
            axes.text(0.5, 0.5, "undefined: all patients agree", ha="center")
            continue
        false, true, _ = roc_curve(positive, risk, drop_intermediate=False)
        axes.plot(false, true, color=DARK)
        axes.plot([0, 1], [0, 1], ":", color="0.35", label="by chance")
        corner = 1 - targets["specificity"], targets["sensitivity"]
        axes.plot(
            [0, corner[0], corner[0]],
            [corner[1], corner[1], 1],
            color="0.35",
            linestyle="--",
            label="targets exceeded above and left",
        )
        _draw_points(axes, rows)
        axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), fontsize=8, frameon=False)
    figure.suptitle(title, fontsize=11)
    save(figure, path)


def _save_text(path: PathLike, title: str) -> None:
    """Write a figure of a split whose grades define no endpoint."""
    figure = Figure(figsize=(7, 2))
    figure.text(0.5, 0.4, "The grades of these images define no endpoint.", ha="center", fontsize=10)
    figure.suptitle(title, fontsize=11)
    save(figure, path)


def _draw_points(axes: Axes, rows: MetricRows) -> None:
    points = dict.fromkeys(row["operating_point"] for row in rows)
    for marker, point in zip(MARKERS, points, strict=False):
        of_point = {row["metric"]: row for row in rows if row["operating_point"] == point}
        sensitivity, specificity = of_point["sensitivity"], of_point["specificity"]
        if sensitivity["value"] is None or specificity["value"] is None:
            continue
        at = 1 - specificity["value"], sensitivity["value"]
        axes.errorbar(
            [at[0]],
            [at[1]],
            xerr=[[at[0] - 1 + specificity["wilson_high"]], [1 - specificity["wilson_low"] - at[0]]],
            yerr=[[at[1] - sensitivity["wilson_low"]], [sensitivity["wilson_high"] - at[1]]],
            fmt=marker,
            color=LIGHT,
            markeredgecolor="black",
            ecolor="0.3",
            capsize=3,
            markersize=8,
            label=f"{point}: has sensitivity {at[1]:.3f}, specificity {1 - at[0]:.3f}",
        )


def calibration_figure(
    path: PathLike,
    found: Mapping[str, tuple[Sequence[RiskBin], CalibrationLine]],
    curves: Mapping[str, MetricRows],
    *,
    title: str,
) -> None:
    """Draw reliability and net benefit of each endpoint.

    Args:
        path: The file.
        found: Bins of the risk and calibration line of each endpoint.
        curves: MetricRows of ``evidence.NET_BENEFIT_COLUMNS`` of each endpoint.
        title: Title of the figure.
    """
    if not found:
        _save_text(path, title)
        return
    figure = Figure(figsize=(9.6, 4.9 * len(found) + 0.4), layout="constrained")
    for (left, right), (endpoint, (bins, line)) in zip(
        figure.subplots(len(found), 2, squeeze=False), found.items(), strict=True
    ):
        _draw_reliability(left, bins, line)
        left.set_title(f"{shortened(endpoint)}: calibration", fontsize=10)
        _draw_net_benefit(right, curves[endpoint])
        right.set_title(f"{shortened(endpoint)}: decision curve", fontsize=10)
    figure.suptitle(title, fontsize=11)
    save(figure, path)


def _draw_reliability(axes: Axes, bins: Sequence[RiskBin], line: CalibrationLine) -> None:
    axes.plot([0, 1], [0, 1], ":", color="0.35", label="perfect calibration")
    grid = np.linspace(max(0.001, min(one.risk for one in bins)), min(0.999, max(one.risk for one in bins)), 200)
    band = line_band(line, grid)
    if band is not None:
        axes.plot(grid, band[0], color=DARK, label="calibration line, 95 % band")
        axes.fill_between(grid, band[1], band[2], color=DARK, **BAND)
    known = [one for one in bins if one.positive.value is not None]
    shares = np.array([(one.positive.value, one.positive.low, one.positive.high) for one in known], dtype=np.float64)
    axes.errorbar(
        [one.risk for one in known],
        shares[:, 0],
        yerr=np.abs(shares[:, 1:] - shares[:, :1]).T,
        fmt="s",
        color=LIGHT,
        markeredgecolor="black",
        ecolor="0.3",
        capsize=3,
        label="bins of about equal size, 95 % interval",
    )
    # Rare endpoints have small risks.
    largest = min(1.0, 1.15 * max([0.1, *(one.risk for one in bins), *shares[:, 2]]))
    axes.set_xlim(-0.02 * largest, largest)
    axes.set_ylim(-0.02 * largest, 1.02 * largest)
    axes.grid(color="0.9")
    axes.set_xlabel("Risk by the model")
    axes.set_ylabel("Share of positive images")
    # Beside the points, wherever they are.
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.13), fontsize=8, frameon=False)


def _draw_net_benefit(axes: Axes, rows: MetricRows) -> None:
    thresholds = [row["threshold"] for row in rows]
    values = np.array(
        [
            [row[name] if row[name] is not None else np.nan for row in rows]
            for name in ("net_benefit", "low", "high", "refer_all")
        ],
        dtype=np.float64,
    )
    axes.plot(thresholds, values[0], color=DARK, label="model, 95 % band")
    axes.fill_between(thresholds, values[1], values[2], color=DARK, **BAND)
    axes.plot(thresholds, values[3], "--", color="black", label="refer everybody")
    axes.axhline(0, color="0.5", linestyle=":", label="refer nobody")
    highest = np.nanmax(values[:3], initial=0.01)
    axes.set_ylim(-0.25 * highest, 1.15 * highest)
    axes.set_xlim(0, thresholds[-1])
    axes.grid(color="0.9")
    axes.set_xlabel("Threshold of the risk")
    axes.set_ylabel("Net benefit per image")
    axes.legend(loc="upper right", fontsize=8)


def subgroup_figure(path: PathLike, rows: MetricRows, *, title: str) -> None:
    """Draw sensitivity, specificity and area of each subgroup with intervals, beside all others.

    Args:
        path: The file.
        rows: MetricRows of ``evidence.SUBGROUP_COLUMNS`` of one split.
        title: Title of the figure.
    """
    places = list(dict.fromkeys((row["endpoint"], row["column"], row["group"]) for row in rows))
    figure = Figure(figsize=(10.5, 1.6 + 0.32 * max(1, len(places))), layout="constrained")
    panels = figure.subplots(1, len(GROUP_FIGURE), sharey=True)
    several = len({endpoint for endpoint, _, _ in places}) > 1
    for axes, metric in zip(panels, GROUP_FIGURE, strict=True):
        for row in (row for row in rows if row["metric"] == metric):
            _draw_group(axes, row, places.index((row["endpoint"], row["column"], row["group"])))
        axes.set_xlim(-0.03, 1.03)
        axes.set_xticks(np.linspace(0, 1, 6))
        axes.grid(axis="x", color="0.9")
        axes.set_title("area under the ROC curve" if metric == "auc" else metric, fontsize=10)
        for before, (one, other) in enumerate(pairwise(places)):
            if one[:2] != other[:2]:
                axes.axhline(before + 0.5, color="0.7", linewidth=0.8)
    sizes = {(row["endpoint"], row["column"], row["group"]): row["patients"] for row in rows}
    names = [
        f"{endpoint + ': ' if several else ''}{column} {shortened(group)} (n = {sizes[endpoint, column, group]:,})"
        for endpoint, column, group in places
    ]
    panels[0].set_yticks(range(len(places)), names, fontsize=8)
    panels[0].set_ylim(max(1, len(places)) - 0.5, -0.5)
    if not places:
        panels[1].text(0.5, 0, "no column has two or more groups", ha="center")
    note = "n: patients. Stroke: all others. Filled: differs from them after correction (p < 0.05). ×: too few."
    figure.suptitle(f"{title}\n{note}", fontsize=10)
    save(figure, path)


def _draw_group(axes: Axes, row: Mapping[str, Any], place: int) -> None:
    if row["guarded"] or row["value"] is None:
        axes.plot(0.5, place, "x", color="0.5", markersize=5)
        return
    differs = row["corrected_p_value"] is not None and row["corrected_p_value"] < 0.05
    if row["low"] is not None:
        axes.plot([row["low"], row["high"]], [place, place], "-", color="0.3", linewidth=1.2)
    axes.plot(row["value"], place, "o", color=DARK if differs else "white", markeredgecolor=DARK, markersize=6)
    if row["difference"] is not None:
        axes.plot(row["value"] - row["difference"], place, "|", color="black", markersize=9)


def flow_figure(path: PathLike, rows: Sequence[FlowCount], *, title: str, test: str) -> None:
    """Draw the flow diagram of a data set.

    Args:
        path: The file.
        rows: Counts of the steps (module ``flow``).
        title: Title of the figure.
        test: Name of the index test and of its target condition.
    """
    steps = {row.step: row for row in rows if not row.reason}
    excluded = [f"{row.reason}: {_size(row)}" for row in rows if row.step == "excluded"]
    results = [row for row in rows if row.reason.startswith("condition")]
    last = [f"{row.step}\n{_size(row)}" for row in rows if row.step not in _STEPS and not row.reason]
    # Heights in inches, from the bottom.
    side = 0.9 + 0.17 * len(excluded)
    below = 3.4 if results else 1.4 if last else 0.0
    height = below + side + 2.1
    figure = Figure(figsize=(9.5, height))
    axes = figure.add_axes((0, 0, 1, 1))
    axes.axis("off")
    axes.set_xlim(0, 9.5)
    axes.set_ylim(0, height)
    axes.text(4.75, height - 0.1, title, ha="center", va="top", fontsize=11, parse_math=False)
    found, left_out, eligible = height - 0.8, below + 0.9 + side / 2, below + 0.5
    _arrow(axes, (3.2, found), (3.2, eligible + 0.32))
    _arrow(axes, (3.2, left_out), (5.4, left_out))
    _box(axes, (3.2, found), f"Image files found\n{_size(steps['images found'])}")
    without = f"labels without an image: {steps['labels without an image'].images:,}"
    _box(axes, (5.5, left_out), "\n".join(["Excluded", *(excluded or ["none"]), without]), side="left")
    if results:
        _arrow(axes, (3.2, eligible), (3.2, 2.95))
        _draw_results(axes, results, test)
    for place, text in zip(np.linspace(1.8, 7.2, max(2, len(last))), last, strict=False):
        _arrow(axes, (3.2, eligible), (place, 0.85))
        _box(axes, (place, 0.5), text)
    _box(axes, (3.2, eligible), f"Eligible\n{_size(steps['eligible'])}")
    save(figure, path)


def _draw_results(axes: Axes, results: Sequence[FlowCount], test: str) -> None:
    """Boxes of the index test, its results and the reference standard below each."""
    steps = list(dict.fromkeys(row.step for row in results))
    for place, step in zip(np.linspace(1.4, 7.8, len(steps)), steps, strict=True):
        of_step = [row for row in results if row.step == step]
        _arrow(axes, (3.2, 2.6), (place, 1.92))
        _arrow(axes, (place, 1.6), (place, 0.9))
        _box(axes, (place, 1.6), f"{step.capitalize()}\n{sum(row.patients or 0 for row in of_step):,} patients")
        _box(
            axes,
            (place, 0.5),
            "\n".join(["Reference standard", *(f"{row.reason}: {row.patients:,}" for row in of_step)]),
        )
    _box(axes, (3.2, 2.6), f"Index test: {test}")


_STEPS = ("labels without an image", "images found", "excluded", "eligible")


def _size(row: FlowCount) -> str:
    return f"{row.images:,} images" + ("" if row.patients is None else f" of {row.patients:,} patients")


def _box(axes: Axes, at: tuple[float, float], text: str, side: str = "center") -> None:
    style = {"boxstyle": "square,pad=0.6", "facecolor": "white", "edgecolor": "black"}
    axes.text(*at, text, ha=side, va="center", fontsize=8.5, bbox=style, parse_math=False, zorder=3)


def _arrow(axes: Axes, start: tuple[float, float], end: tuple[float, float]) -> None:
    axes.annotate("", end, start, arrowprops={"arrowstyle": "-|>", "color": "black", "shrinkA": 0, "shrinkB": 0})
