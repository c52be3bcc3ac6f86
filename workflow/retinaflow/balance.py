"""Rare classes: how much their photographs weigh in the loss, and how often they are shown."""

from collections.abc import Sequence

import numpy as np

from retinaflow.errors import RetinaflowError

BETA = 0.9999  # of the values that Cui et al. tried, the one that does most for rare classes


def class_weights(kind: str | Sequence[float], levels: np.ndarray, classes: Sequence[str]) -> dict[int, float] | None:
    """Weight of each class index in the loss, or None for equal ones.

    With n_class photographs of a class, a weight is in proportion to 1 / n_class (``inverse``), 1 / sqrt(n_class)
    (``sqrt_inverse``) or (1 - b) / (1 - b^n_class), b = ``BETA`` (``effective_number``, of which it is the inverse: Cui
    et al. 2019, arXiv:1901.05555, equation 2), scaled so that the mean over the photographs is 1. A list stands for
    itself. ``levels``: int (n,). Raises ``RetinaflowError`` if a class has no photograph at all.
    """
    counts = np.bincount(levels, minlength=len(classes))
    if not counts.all():
        absent = ", ".join(name for name, count in zip(classes, counts, strict=True) if not count)
        raise RetinaflowError(
            f"The training part has no photograph of {absent}. Add some, or leave the class out of data.classes."
        )
    if kind == "none":
        return None
    if not isinstance(kind, str):
        return dict(enumerate(map(float, kind)))
    raw = {
        "inverse": 1 / counts,
        "sqrt_inverse": 1 / np.sqrt(counts),
        "effective_number": (1 - BETA) / (1 - BETA**counts),
    }[kind]
    return dict(enumerate((raw * len(levels) / (raw * counts).sum()).tolist()))


def share_at(epoch: int, share: float, epochs: int) -> float:
    """How far ``epoch``, counted from 0, is balanced, 0 to 1: ``share`` in the first, less in each, 0 after ``epochs``.

    With 0 ``epochs`` it stays. That balance should end early is an idea of the o_O team, second in the competition of
    2015: otherwise rare classes are answered too often (github.com/sveitser/kaggle_diabetic).
    """
    return share * max(0.0, 1 - epoch / epochs) if epochs else share


def draw(levels: np.ndarray, share: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
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
