"""What a network is trained to say of a photograph, and what its outputs mean. NumPy alone: any stage may import this.

For k classes, levels 0 to k - 1 in order of severity, the outputs of a network are

- ``softmax``: (n, k) probabilities of the classes;
- ``regression``: (n, 1) the level itself, a number without bounds;
- ``ordinal``: (n, k - 1) probabilities P(level > j) for j = 0 to k - 2. They differ by a bias alone, and do not rise
  with j before training nor at its optimum: Cao, Mirjalili and Raschka (2020), Rank consistent ordinal regression for
  neural networks (CORAL), Pattern Recognition Letters 140, 325-331, arXiv:1901.07884, theorem 1.

Targets of training have the same width.
"""

import numpy as np
from scipy.special import expit, log_softmax, logit, ndtr

# The least that a float32 probability differs from 1: nearer ones have no finite logit.
EPSILON = float(np.finfo(np.float32).eps)
# The least probability of a class by float32.
TINY = float(np.finfo(np.float32).tiny)


def width(objective: str, classes: int) -> int:
    """Number of outputs, and of targets, of a network for ``classes`` classes."""
    return {"softmax": classes, "regression": 1, "ordinal": classes - 1}[objective]


def targets(objective: str, levels: np.ndarray, classes: int, smoothing: float = 0.0) -> np.ndarray:
    """What the network is to say of photographs of int (n,) ``levels``: float32 (n, width).

    One-hot vectors; the levels; [level > j]. ``smoothing``, 0 to 1, spreads that share of a one-hot vector over all
    classes alike: Szegedy et al. (2016), Rethinking the Inception architecture, arXiv:1512.00567, section 7.
    """
    if objective == "regression":
        return levels.astype(np.float32)[:, np.newaxis]
    if objective == "ordinal":
        return (levels[:, np.newaxis] > np.arange(classes - 1)).astype(np.float32)
    return (np.eye(classes)[levels] * (1 - smoothing) + smoothing / classes).astype(np.float32)


def impossible_rows(objective: str, outputs: np.ndarray) -> np.ndarray:
    """Which rows of float (n, width) ``outputs`` no network of this objective gives: bool (n,).

    What is not finite and, but for a regression, not from 0 to 1.
    """
    # NaN fails each comparison.
    possible = np.isfinite(outputs) if objective == "regression" else (outputs >= 0) & (outputs <= 1)
    return np.logical_not(possible.all(axis=1))


def severity(objective: str, outputs: np.ndarray, classes: int) -> np.ndarray:
    """One number a photograph that rises with severity: float64 (n,), 0 to ``classes`` - 1.

    Of softmax the expected level, of a regression its output within these bounds, of an ordinal network the sum of its
    probabilities, which is the expected level too.
    """
    outputs = outputs.astype(np.float64)
    if objective == "regression":
        return np.clip(outputs[:, 0], 0, classes - 1)
    expected = outputs.sum(axis=1) if objective == "ordinal" else outputs @ np.arange(classes)
    return np.clip(expected, 0, classes - 1)


def argmax_grades(objective: str, outputs: np.ndarray, classes: int) -> np.ndarray:
    """The level that the outputs name by themselves: int64 (n,).

    The most probable class, the lower of equals; the output rounded, halves to the even level; how many of the
    probabilities are above 1/2.
    """
    if objective == "softmax":
        return outputs.argmax(axis=1).astype(np.int64)
    if objective == "ordinal":
        return (outputs > 0.5).sum(axis=1, dtype=np.int64)
    return np.clip(np.rint(outputs[:, 0]), 0, classes - 1).astype(np.int64)


def grade_probabilities(
    objective: str, outputs: np.ndarray, classes: int, temperature: float, cuts: np.ndarray | None = None
) -> np.ndarray:
    """Probability of each class: float64 (n, ``classes``), rows sum to 1.

    ``temperature`` > 0 divides the logits of softmax and ordinal outputs (Guo et al. 2017, On calibration of modern
    neural networks, arXiv:1706.04599, section 4.2). Of a regression it is the standard deviation of a normal
    distribution around the severity, which k - 1 ascending ``cuts``, by default halfway between the levels, divide into
    classes (the ordered probit model: McKelvey and Zavoina 1975, Journal of Mathematical Sociology 4(1), 103-120).
    """
    outputs = outputs.astype(np.float64)
    if objective == "softmax":
        return np.exp(log_softmax(np.log(np.maximum(outputs, TINY)) / temperature, axis=1))
    if objective == "ordinal":
        above = expit(logit(np.clip(outputs, EPSILON, 1 - EPSILON)) / temperature)
    else:
        cuts = np.arange(classes - 1) + 0.5 if cuts is None else cuts
        above = ndtr((severity(objective, outputs, classes)[:, np.newaxis] - cuts) / temperature)
    whole = np.ones((len(outputs), 1))
    # Rounding may leave a difference below 0, and so may a training far from its optimum.
    between = np.maximum(-np.diff(np.hstack([whole, above, 0 * whole]), axis=1), 0)
    return between / between.sum(axis=1, keepdims=True)
