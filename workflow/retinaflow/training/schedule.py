"""The phases of a training, the learning rate of each epoch, and by which figure epochs are judged."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

HEAD, NETWORK = "head", "network"
# So many random changes of each photograph does the head see; each takes a pass of all through the backbone.
VIEWS = 4


def phase(epoch: int, settings: Mapping[str, Any]) -> str:
    """What is trained in ``epoch``, counted from 0 over both phases: the ``HEAD`` alone, or the whole ``NETWORK``."""
    return HEAD if epoch < settings["head_epochs"] else NETWORK


def learning_rate(epoch: int, settings: Mapping[str, Any]) -> float | None:
    """The learning rate of ``epoch``, counted from 0 over both phases; None where it stays or a plateau has lowered it.

    The head has a rate of its own. Then it rises for ``warmup_epochs`` in equal steps (Goyal et al. 2017,
    arXiv:1706.02677). ``cosine`` follows half a cosine from there towards ``minimum_learning_rate`` (Loshchilov and
    Hutter 2017, arXiv:1608.03983, equation 5, without restarts). It changes between epochs only: so the history holds
    all of it, and each backend takes it over.
    """
    if phase(epoch, settings) == HEAD:
        return float(settings["head_learning_rate"])
    epoch -= settings["head_epochs"]
    peak, warmup = float(settings["learning_rate"]), settings["warmup_epochs"]
    if epoch < warmup:
        return peak * (epoch + 1) / (warmup + 1)
    if settings["schedule"] == "plateau":
        return peak if epoch == warmup else None
    done = (epoch - warmup) / (settings["epochs"] - warmup)
    floor = float(settings["minimum_learning_rate"])
    return floor + (peak - floor) * (1 + math.cos(math.pi * done)) / 2


def monitored(rows: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]) -> list[float]:
    """The figure that each epoch so far is judged by: the mean of ``monitor`` over it and epochs before it.

    There are ``monitor_smoothing`` of them, or as many as its phase has; ``rows`` of the history begin with the head's.
    """
    figures = [row[settings["monitor"]] for row in rows]
    means = []
    for epoch in range(len(rows)):
        start = 0 if phase(epoch, settings) == HEAD else settings["head_epochs"]
        window = figures[max(start, epoch + 1 - settings["monitor_smoothing"]) : epoch + 1]
        means.append(sum(window) / len(window))
    return means


def mode(settings: Mapping[str, Any]) -> str:
    """Whether a lower (``min``) or a higher (``max``) figure is better."""
    return "min" if settings["monitor"] == "val_loss" else "max"


def best_epoch(rows: Sequence[Mapping[str, Any]], settings: Mapping[str, Any]) -> int:
    """The first epoch, from 1, with the best monitored figure."""
    figures = monitored(rows, settings)
    return figures.index((min if mode(settings) == "min" else max)(figures)) + 1
