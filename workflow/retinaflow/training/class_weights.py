"""Class weights of the loss."""

from collections.abc import Sequence

import numpy as np

from retinaflow.errors import RetinaflowError

BETA = 0.9999  # of the values in Cui et al., the best one for rare grades


def class_weights(
    kind: str | Sequence[float], grades: np.ndarray, grade_names: Sequence[str]
) -> dict[int, float] | None:
    """Return the weight of each grade in the loss, or None for equal weights.

    Args:
        kind: Weights in the order of the grades, or ``none``, or one of these functions of the number n of images of a
            grade: 1 / n (``inverse``), 1 / sqrt(n) (``sqrt_inverse``), or (1 - b) / (1 - b^n) with b = ``BETA``, the
            inverse of the ``effective_number`` (Cui et al. 2019, arXiv:1901.05555, equation 2). They are scaled so that
            the mean weight of an image is 1.
        grades: Grade of each training image, int (n,).
        grade_names: Names of the grades.

    Raises:
        RetinaflowError: A grade has no image.
    """
    counts = np.bincount(grades, minlength=len(grade_names))
    if not counts.all():
        absent = ", ".join(name for name, count in zip(grade_names, counts, strict=True) if not count)
        raise RetinaflowError(
            f"The training split has no image of {absent}. Add some, or leave the grade out of data.grade_names."
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
    return dict(enumerate((raw * len(grades) / (raw * counts).sum()).tolist()))
