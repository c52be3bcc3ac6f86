"""Objectives: targets and raw outputs of a network. NumPy alone, so that every package can import this module.

For k grades, 0 to k - 1 in order of severity, the outputs of a network are

- ``softmax``: (n, k) probabilities of the grades;
- ``regression``: (n, 1) the grade itself, a number without bounds;
- ``ordinal``: (n, k - 1) probabilities P(grade > j) for j = 0 to k - 2. They differ by a bias alone. They do not rise
  with j before training nor at its optimum: Cao, Mirjalili and Raschka (2020), Rank consistent ordinal regression for
  neural networks (CORAL), Pattern Recognition Letters 140, 325-331, arXiv:1901.07884, theorem 1.

Training targets have the same width.
"""

from collections.abc import Sequence

import numpy as np

# Least difference of a float32 probability from 1. Nearer ones have no finite logit.
EPSILON = float(np.finfo(np.float32).eps)
# Least probability of a grade in float32.
TINY = float(np.finfo(np.float32).tiny)


def width(objective: str, grade_count: int) -> int:
    """Return the number of outputs, and of targets, of a network for ``grade_count`` grades."""
    return {"softmax": grade_count, "regression": 1, "ordinal": grade_count - 1}[objective]


def targets(objective: str, grades: np.ndarray, grade_count: int, smoothing: float = 0.0) -> np.ndarray:
    """Return the training targets of images.

    Args:
        objective: Objective of the network.
        grades: Grade of each image, int (n,), 0 to ``grade_count`` - 1.
        grade_count: Number of grades.
        smoothing: Share of a one-hot vector that is spread evenly over all grades, 0 to 1. Szegedy et al. (2016),
            Rethinking the Inception architecture, arXiv:1512.00567, section 7.

    Returns:
        float32 (n, width): one-hot vectors for softmax, the grades for a regression, [grade > j] for ordinal outputs.
    """
    if objective == "regression":
        return grades.astype(np.float32)[:, np.newaxis]
    if objective == "ordinal":
        return (grades[:, np.newaxis] > np.arange(grade_count - 1)).astype(np.float32)
    return (np.eye(grade_count)[grades] * (1 - smoothing) + smoothing / grade_count).astype(np.float32)


def impossible_rows(objective: str, outputs: np.ndarray) -> np.ndarray:
    """Return which rows of ``outputs``, float (n, width), no network of this objective gives: bool (n,).

    Values must be finite. Except for a regression, they must be from 0 to 1.
    """
    # NaN fails each comparison.
    possible = np.isfinite(outputs) if objective == "regression" else (outputs >= 0) & (outputs <= 1)
    return np.logical_not(possible.all(axis=1))


def severity(objective: str, outputs: np.ndarray, grade_count: int) -> np.ndarray:
    """Return the severity of each image: float64 (n,), 0 to ``grade_count`` - 1.

    It is the expected grade for softmax, and the output within these bounds for a regression. The sum of the
    probabilities of an ordinal network is the expected grade, too.
    """
    outputs = outputs.astype(np.float64)
    if objective == "regression":
        return np.clip(outputs[:, 0], 0, grade_count - 1)
    expected = outputs.sum(axis=1) if objective == "ordinal" else outputs @ np.arange(grade_count)
    return np.clip(expected, 0, grade_count - 1)


def argmax_grades(objective: str, outputs: np.ndarray, grade_count: int) -> np.ndarray:
    """Return the argmax prediction of each image: int64 (n,).

    It is the most probable grade for softmax, the lower one of equals. A regression is rounded, halves to the even
    grade. Ordinal outputs have the number of probabilities above 1/2.
    """
    if objective == "softmax":
        return outputs.argmax(axis=1).astype(np.int64)
    if objective == "ordinal":
        return (outputs > 0.5).sum(axis=1, dtype=np.int64)
    return np.clip(np.rint(outputs[:, 0]), 0, grade_count - 1).astype(np.int64)


def grade_probabilities(
    objective: str, outputs: np.ndarray, grade_count: int, temperature: float, cutpoints: np.ndarray | None = None
) -> np.ndarray:
    """Return the probability of each grade.

    Args:
        objective: Objective of the network.
        outputs: Raw outputs, float (n, width).
        grade_count: Number of grades.
        temperature: Divisor of the logits of softmax and ordinal outputs, above 0 (Guo et al. 2017, On calibration of
            modern neural networks, arXiv:1706.04599, section 4.2). For a regression, the standard deviation of a normal
            distribution around the severity.
        cutpoints: Ascending (grade_count - 1,) bounds between the grades of a regression, by default halfway between
            them (the ordered probit model: McKelvey and Zavoina 1975, Journal of Mathematical Sociology 4(1), 103-120).

    Returns:
        float64 (n, grade_count). Rows sum to 1.
    """
    # Imported here: prediction imports this module and runs without SciPy.
    from scipy.special import expit, log_softmax, logit, ndtr

    outputs = outputs.astype(np.float64)
    if objective == "softmax":
        return np.exp(log_softmax(np.log(np.maximum(outputs, TINY)) / temperature, axis=1))
    if objective == "ordinal":
        above = expit(logit(np.clip(outputs, EPSILON, 1 - EPSILON)) / temperature)
    else:
        cutpoints = np.arange(grade_count - 1) + 0.5 if cutpoints is None else cutpoints
        above = ndtr((severity(objective, outputs, grade_count)[:, np.newaxis] - cutpoints) / temperature)
    whole = np.ones((len(outputs), 1))
    # Rounding may leave a difference below 0, and so may a network far from its optimum.
    between = np.maximum(-np.diff(np.hstack([whole, above, 0 * whole]), axis=1), 0)
    return between / between.sum(axis=1, keepdims=True)


def mean_outputs(outputs: Sequence[tuple[str, np.ndarray]], objective: str, grade_count: int) -> np.ndarray:
    """Return the mean of the raw outputs of several models for the same images.

    Args:
        outputs: Objective of each model and its raw outputs, float (n, width).
        objective: Objective of the mean: that of all models, or ``regression`` if their objectives differ. The mean
            is that of their severities then.
        grade_count: Number k of grades.

    Returns:
        float64 (n, width).
    """
    alike = all(own == objective for own, _ in outputs)
    return np.mean(
        [values if alike else severity(own, values, grade_count)[:, np.newaxis] for own, values in outputs],
        axis=0,
    )
