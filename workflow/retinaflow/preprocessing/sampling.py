"""Balanced sampling: how often an epoch has the images of each grade."""

import numpy as np


def balance_at(epoch: int, share: float, epochs: int) -> float:
    """Return how evenly grades are sampled in ``epoch``, 0 to 1.

    The balance falls early after an idea of the o_O team, second in the competition of 2015. Otherwise a network
    predicts rare grades too often (github.com/sveitser/kaggle_diabetic).

    Args:
        epoch: Number of the epoch, counted from 0.
        share: Balance of the first epoch, 0 to 1.
        epochs: Number of epochs over which the balance falls to 0 in equal steps. With 0 it stays.
    """
    return share * max(0.0, 1 - epoch / epochs) if epochs else share


def sample_epoch(grades: np.ndarray, share: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Draw the images of an epoch.

    Args:
        grades: Grade of each image, int (n,).
        share: Balance of the epoch. With 0, each image occurs once. With 1, all grades occur equally often. Values
            between are a mean of both. Images of the same grade occur equally often, up to a difference of 1.
        rng: Source of randomness.

    Returns:
        The numbers of the images in random order, and how often each occurred before: two int64 (n,).
    """
    count = len(grades)
    order = rng.permutation(count)
    if not share:
        return order, np.zeros(count, np.int64)
    counts = np.bincount(grades)
    expected = 1 - share + share * count / (np.count_nonzero(counts) * counts[grades])
    # Systematic sampling (Madow and Madow 1944): evenly spaced points on a line, where each image has its length.
    line = order[np.argsort(grades[order], kind="stable")]
    ends = np.cumsum(expected[line])
    points = (np.arange(count) + rng.random()) * (ends[-1] / count)
    drawn = rng.permutation(line[np.minimum(np.searchsorted(ends, points, side="right"), count - 1)])
    by_image = np.argsort(drawn, kind="stable")
    sorted_ = drawn[by_image]
    before = np.empty(count, np.int64)
    before[by_image] = np.arange(count) - np.searchsorted(sorted_, sorted_)
    return drawn, before
