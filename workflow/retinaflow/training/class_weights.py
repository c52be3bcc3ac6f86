"""Class weights of the loss."""

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
            f"The training part has no photograph of {absent}. Add some, or leave the class out of data.grade_names."
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
