"""Metrics of graded predictions: agreement, discrimination, and what always answering the first class gives."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.metrics import (
    accuracy_score,
    cohen_kappa_score,
    confusion_matrix,
    log_loss,
    precision_recall_fscore_support,
    roc_auc_score,
)

from retinaflow.errors import RetinaflowError

# Rounding to float16 moves a sum by 0.0005 at most; what is no softmax is off by more.
SUM_TOLERANCE = 1e-3


def evaluate(
    actual: np.ndarray,
    probabilities: np.ndarray,
    classes: Sequence[str],
    referable_level: int,
    predicted: np.ndarray | None = None,
) -> dict[str, Any]:
    """Every metric of one model on one set of photographs, as plain JSON values; None is a metric that is undefined.

    ``actual``: int (n,), class indices 0 to k - 1. ``probabilities``: float (n, k), rows sum to 1. ``predicted``: int64
    (n,), by default the most probable class, the lower of equals. ``classes``: the k names in order of severity.
    ``referable_level``: 1 to k - 1, lowest class index that counts as referable.

    The result, all shares, areas and probabilities from 0 to 1:

    - ``images``: n. ``accuracy``. ``log_loss``: mean over the photographs, in nats, probabilities clipped to the
      float64 epsilon.
    - ``quadratic_weighted_kappa``: -1 to 1; Cohen, J. (1968), Weighted kappa, Psychological Bulletin 70(4), 213-220.
      None where labels and predictions are all one class: chance then explains all agreement, the formula is 0 / 0.
    - ``per_class``: class, precision, recall, f1, support. Precision is None for a class never predicted, recall for
      one without photographs, F1 for one with neither.
    - ``confusion_matrix``: k lists of k counts, rows actual, columns predicted.
    - ``macro_auc``: unweighted mean over ``auc_classes``, those with photographs both in and outside them, of the area
      under the ROC curve of each class against the rest; Fawcett, T. (2006), An introduction to ROC analysis, Pattern
      Recognition Letters 27(8), 861-874. None if all photographs are of one class.
    - ``referable``: level, images (that are referable), auc of the summed probability of the classes from the level up,
      sensitivity and specificity of predicting a class from the level up. Sensitivity is None without referable
      photographs, specificity without others, auc without either.
    - ``baseline``: class (the first), accuracy and quadratic_weighted_kappa of answering it for every photograph. That
      kappa is 0: a constant answer agrees as chance would.

    Raises ``RetinaflowError`` if shapes, types, ranges or labels are others than these.
    """
    _check(actual, probabilities, classes, referable_level)
    predicted = probabilities.argmax(axis=1) if predicted is None else predicted
    probabilities = probabilities.astype(np.float64)
    probabilities /= probabilities.sum(axis=1, keepdims=True)
    indices = np.arange(len(classes))
    per_class_auc = [_auc(actual == index, probabilities[:, index]) for index in indices]
    aucs = {name: auc for name, auc in zip(classes, per_class_auc, strict=True) if auc is not None}
    return {
        "images": len(actual),
        "accuracy": float(accuracy_score(actual, predicted)),
        "quadratic_weighted_kappa": _kappa(actual, predicted, indices),
        "log_loss": float(log_loss(actual, probabilities, labels=indices)),
        "macro_auc": sum(aucs.values()) / len(aucs) if aucs else None,
        "auc_classes": list(aucs),
        "referable": _referable(actual, predicted, probabilities, referable_level),
        "baseline": {"class": classes[0], "accuracy": float(np.mean(actual == 0)), "quadratic_weighted_kappa": 0.0},
        "per_class": _per_class(actual, predicted, classes),
        "confusion_matrix": confusion_matrix(actual, predicted, labels=indices).tolist(),
    }


def _kappa(actual: np.ndarray, predicted: np.ndarray, indices: np.ndarray) -> float | None:
    if np.all(predicted == actual[0]) and np.all(actual == actual[0]):
        return None
    return float(cohen_kappa_score(actual, predicted, labels=indices, weights="quadratic"))


def _auc(positive: np.ndarray, scores: np.ndarray) -> float | None:
    """Area under the ROC curve; None unless there are both positives and negatives."""
    return float(roc_auc_score(positive, scores)) if 0 < positive.sum() < len(positive) else None


def _referable(
    actual: np.ndarray, predicted: np.ndarray, probabilities: np.ndarray, level: int
) -> dict[str, int | float | None]:
    positive, flagged = actual >= level, predicted >= level
    return {
        "level": level,
        "images": int(positive.sum()),
        "auc": _auc(positive, probabilities[:, level:].sum(axis=1)),
        "sensitivity": float(flagged[positive].mean()) if positive.any() else None,
        "specificity": float(np.mean(~flagged[~positive])) if not positive.all() else None,
    }


def _per_class(actual: np.ndarray, predicted: np.ndarray, classes: Sequence[str]) -> list[dict[str, Any]]:
    columns = precision_recall_fscore_support(
        actual, predicted, labels=np.arange(len(classes)), average=None, zero_division=np.nan
    )
    return [
        {
            "class": name,
            **{
                figure: float(value) if np.isfinite(value) else None
                for figure, value in zip(("precision", "recall", "f1"), figures, strict=True)
            },
            "support": int(support),
        }
        for name, *figures, support in zip(classes, *columns, strict=True)
    ]


def _check(actual: np.ndarray, probabilities: np.ndarray, classes: Sequence[str], referable_level: int) -> None:
    k = len(classes)
    if k < 2:
        raise RetinaflowError(
            f"classes: found {list(classes)}, expected at least 2. Name all classes, least severe first."
        )
    if not 1 <= referable_level < k:
        raise RetinaflowError(
            f"referable_level: found {referable_level}, expected 1 to {k - 1} for {k} classes. "
            "Set it to the lowest level that is referable."
        )
    if actual.ndim != 1 or actual.dtype.kind not in "iu" or len(actual) == 0:
        raise RetinaflowError(
            f"actual classes: found {actual.dtype} of shape {actual.shape}, expected at least one integer in one "
            "dimension. Give a class index for each photograph."
        )
    if probabilities.shape != (len(actual), k) or probabilities.dtype.kind != "f":
        raise RetinaflowError(
            f"probabilities: found {probabilities.dtype} of shape {probabilities.shape}, expected float of shape "
            f"{(len(actual), k)}: a row for each of {len(actual)} actual classes, a column for each of {k} classes. "
            "Check that both come from the same model and photographs."
        )
    outside = np.flatnonzero((actual < 0) | (actual >= k))
    if len(outside):
        raise RetinaflowError(
            f"actual classes: row {outside[0]} is {actual[outside[0]]}, expected 0 to {k - 1}. "
            "Check the labels against the list of classes."
        )
    # NaN fails both comparisons.
    sums = probabilities.sum(axis=1, dtype=np.float64)
    bad = np.flatnonzero(~((probabilities >= 0).all(axis=1) & (np.abs(sums - 1) <= SUM_TOLERANCE)))
    if len(bad):
        raise RetinaflowError(
            f"probabilities: row {bad[0]} is {probabilities[bad[0]].tolist()}, expected 0 to 1 and a sum of 1. "
            "Check that the model ends in a softmax and did not diverge."
        )
