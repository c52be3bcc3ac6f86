"""History of a training run: the metrics of each epoch, and which epoch is the best."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from retinaflow.data.frames import write_rows
from retinaflow.settings.train import TrainingSettings
from retinaflow.training.schedule import HEAD, phase

METRICS = ("loss", "accuracy", "quadratic_weighted_kappa")
ALL_METRICS = (*METRICS, *(f"val_{name}" for name in METRICS))
HISTORY_COLUMNS = ("epoch", "phase", *ALL_METRICS, "learning_rate", "seconds")
# Least gain of the monitored metric that keeps the learning rate.
GAIN = 1e-4


def history_row(
    epoch: int, settings: TrainingSettings, *, metrics: Mapping[str, float], learning_rate: float, seconds: float
) -> dict[str, Any]:
    """Return the row of an epoch, with ``HISTORY_COLUMNS``.

    Args:
        epoch: Epoch, counted from 0 over both phases.
        settings: Settings of the model.
        metrics: Metrics of training and validation, as Keras reports them.
        learning_rate: Learning rate of the epoch.
        seconds: Duration of the epoch.
    """
    return {
        "epoch": epoch + 1,
        "phase": phase(epoch, settings),
        **{name: float(metrics[name]) for name in ALL_METRICS},
        "learning_rate": learning_rate,
        "seconds": round(seconds, 2),
    }


def write_history(path: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write ``rows``, one for each epoch, as a CSV table."""
    write_rows(path, HISTORY_COLUMNS, rows)


def monitored(rows: Sequence[Mapping[str, Any]], settings: TrainingSettings) -> list[float]:
    """Return the monitored metric of each epoch: the mean of ``monitor`` over the epoch and those before it.

    The mean is over ``monitor_smoothing`` epochs of one phase, or fewer at its start.

    Args:
        rows: Rows of the history. Those of the head are first.
        settings: Settings of the model.
    """
    values = [row[settings.monitor] for row in rows]
    means = []
    for epoch in range(len(rows)):
        start = 0 if phase(epoch, settings) == HEAD else settings.head_epochs
        window = values[max(start, epoch + 1 - settings.monitor_smoothing) : epoch + 1]
        means.append(sum(window) / len(window))
    return means


def lower_is_better(settings: TrainingSettings) -> bool:
    """Return whether a lower value of the monitored metric is better."""
    return settings.monitor == "val_loss"


def best_epoch(rows: Sequence[Mapping[str, Any]], settings: TrainingSettings) -> int:
    """Return the first epoch, counted from 1, with the best monitored metric."""
    values = monitored(rows, settings)
    return values.index((min if lower_is_better(settings) else max)(values)) + 1


def stops_early(rows: Sequence[Mapping[str, Any]], settings: TrainingSettings) -> bool:
    """Return whether the last ``early_stopping_patience`` epochs had no gain. Head epochs and warm-up do not count."""
    best, waited = None, 0
    for loss in _losses(rows, settings):
        if _is_gain(loss, best):
            best, waited = loss, 0
        else:
            waited += 1
    return waited >= settings.early_stopping_patience


def plateau_rate(rows: Sequence[Mapping[str, Any]], settings: TrainingSettings) -> float:
    """Return the learning rate of the epoch after ``rows`` for ``schedule: plateau``.

    The rate falls by ``reduce_lr_factor`` after ``reduce_lr_patience`` epochs without a gain of more than ``GAIN``,
    down to ``minimum_learning_rate``. Head epochs and warm-up do not count. As in the optimizer, it is in float32.
    """
    rate, best, waited = np.float32(settings.learning_rate), None, 0
    for loss in _losses(rows, settings):
        if _is_gain(loss, best, GAIN):
            best, waited = loss, 0
            continue
        waited += 1
        if waited >= settings.reduce_lr_patience and rate > np.float32(settings.minimum_learning_rate):
            rate = np.float32(max(float(rate) * settings.reduce_lr_factor, settings.minimum_learning_rate))
            waited = 0
    return float(rate)


def _losses(rows: Sequence[Mapping[str, Any]], settings: TrainingSettings) -> list[float]:
    """The monitored metric of each epoch after head and warm-up, negated if higher is better."""
    values = monitored(rows, settings)[settings.head_epochs + settings.warmup_epochs :]
    return values if lower_is_better(settings) else [-value for value in values]


def _is_gain(loss: float, best: float | None, least: float = 0.0) -> bool:
    # Metrics are float32. Smoothed ones are compared as such, so that rounding of their mean is no gain.
    return best is None or bool(np.float32(loss + least) < np.float32(best))
