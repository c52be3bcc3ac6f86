"""Phases of a training run and the learning rate of each epoch."""

import math

from retinaflow.settings.train import TrainingSettings

HEAD, NETWORK = "head", "network"
# Number of random views of each image for the head. Each view needs a pass of all images through the backbone.
VIEWS = 4


def phase(epoch: int, settings: TrainingSettings) -> str:
    """Return the phase of ``epoch``, counted from 0 over both: ``HEAD`` trains the head alone, ``NETWORK`` all."""
    return HEAD if epoch < settings.head_epochs else NETWORK


def learning_rate(epoch: int, settings: TrainingSettings) -> float | None:
    """Return the learning rate of ``epoch``, or None if it depends on the history (see ``history.plateau_rate``).

    The head has its own rate. The rate of the network first rises for ``warmup_epochs`` in equal steps (Goyal et al.
    2017, arXiv:1706.02677). ``cosine`` then follows half a cosine to ``minimum_learning_rate`` (Loshchilov and Hutter
    2017, arXiv:1608.03983, equation 5, without restarts). The rate changes between epochs only, so the history holds
    all of it, and each backend can apply it.

    Args:
        epoch: Epoch, counted from 0 over both phases.
        settings: Settings of the model.
    """
    if phase(epoch, settings) == HEAD:
        return float(settings.head_learning_rate)
    epoch -= settings.head_epochs
    peak, warmup = float(settings.learning_rate), settings.warmup_epochs
    if epoch < warmup:
        return peak * (epoch + 1) / (warmup + 1)
    if settings.schedule == "plateau":
        return peak if epoch == warmup else None
    done = (epoch - warmup) / (settings.epochs - warmup)
    floor = float(settings.minimum_learning_rate)
    return floor + (peak - floor) * (1 + math.cos(math.pi * done)) / 2
