"""Balanced sampling: how often the images of each grade are shown in an epoch."""

import numpy as np


def balance_at(epoch: int, share: float, epochs: int) -> float:
    """How far ``epoch``, counted from 0, is balanced, 0 to 1: ``share`` in the first, less in each, 0 after ``epochs``.

    With 0 ``epochs`` it stays. That balance should end early is an idea of the o_O team, second in the competition of
    2015: otherwise rare classes are answered too often (github.com/sveitser/kaggle_diabetic).
    """
    return share * max(0.0, 1 - epoch / epochs) if epochs else share


def sample_epoch(levels: np.ndarray, share: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """The photographs of an epoch in random order, and how often each was there before: two int64 (n,).

    ``levels``: int (n,). With a ``share`` of 0 each photograph comes once; with 1 each class that there is has as many
    places as another; between, a mean of both. Classes have their places, and photographs of one come as often, to 1.
    """
    count = len(levels)
    order = rng.permutation(count)
    if not share:
        return order, np.zeros(count, np.int64)
    counts = np.bincount(levels)
    wanted = 1 - share + share * count / (np.count_nonzero(counts) * counts[levels])
    # Systematic sampling (Madow and Madow 1944): evenly spaced points on a line, where each photograph has its length.
    line = order[np.argsort(levels[order], kind="stable")]
    ends = np.cumsum(wanted[line])
    points = (np.arange(count) + rng.random()) * (ends[-1] / count)
    drawn = rng.permutation(line[np.minimum(np.searchsorted(ends, points, side="right"), count - 1)])
    by_photograph = np.argsort(drawn, kind="stable")
    sorted_ = drawn[by_photograph]
    before = np.empty(count, np.int64)
    before[by_photograph] = np.arange(count) - np.searchsorted(sorted_, sorted_)
    return drawn, before
