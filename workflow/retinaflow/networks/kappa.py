"""Keras metrics of argmax grades, for the history of each epoch."""

from typing import Any

import keras
from keras import ops


def argmax_tensor(objective: str, values: keras.KerasTensor, grade_count: int) -> keras.KerasTensor:
    """Return the argmax grades, int32 (n,), of outputs or targets (n, width), as ``objectives.argmax_grades`` does."""
    if objective == "softmax":
        return ops.argmax(values, axis=-1)
    if objective == "ordinal":
        return ops.sum(ops.cast(values > 0.5, "int32"), axis=-1)
    return ops.cast(ops.clip(ops.round(values[:, 0]), 0, grade_count - 1), "int32")


class Accuracy(keras.metrics.Mean):
    """Share of images whose argmax grade is the true grade, from targets and outputs (n, width)."""

    def __init__(self, grade_count: int, objective: str = "softmax", name: str = "accuracy", **options: Any) -> None:
        """Create the metric for ``grade_count`` grades and targets and outputs of ``objective``."""
        super().__init__(name=name, **options)
        self.grade_count = grade_count
        self.objective = objective

    def update_state(
        self, y_true: keras.KerasTensor, y_pred: keras.KerasTensor, sample_weight: keras.KerasTensor | None = None
    ) -> None:
        """Count a batch: ``y_true`` targets and ``y_pred`` outputs, both (n, width)."""
        actual, predicted = (argmax_tensor(self.objective, values, self.grade_count) for values in (y_true, y_pred))
        super().update_state(ops.cast(ops.equal(actual, predicted), "float32"), sample_weight)


class QuadraticWeightedKappa(keras.metrics.Metric):
    """Cohen's kappa with quadratic weights over all batches of an epoch, from targets and outputs.

    Cohen, J. (1968), Weighted kappa, Psychological Bulletin 70(4), 213-220. The value is 0 if kappa is undefined: all
    labels and predictions are one grade. Sample weights are ignored.
    """

    def __init__(
        self, grade_count: int, objective: str = "softmax", name: str = "quadratic_weighted_kappa", **options: Any
    ) -> None:
        """Create the metric for ``grade_count`` grades and targets and outputs of ``objective``."""
        super().__init__(name=name, **options)
        self.grade_count = grade_count
        self.objective = objective
        shape = (grade_count, grade_count)
        self.counts = self.add_weight(shape=shape, initializer="zeros", name="counts", dtype="float32")

    def update_state(
        self, y_true: keras.KerasTensor, y_pred: keras.KerasTensor, sample_weight: keras.KerasTensor | None = None
    ) -> None:
        """Count a batch: ``y_true`` targets and ``y_pred`` outputs, both (n, width)."""
        del sample_weight
        actual, predicted = (
            ops.one_hot(argmax_tensor(self.objective, values, self.grade_count), self.grade_count, dtype="float32")
            for values in (y_true, y_pred)
        )
        self.counts.assign_add(ops.matmul(ops.transpose(actual), predicted))

    def result(self) -> keras.KerasTensor:
        """Return kappa over all counted images, -1 to 1."""
        index = ops.arange(self.grade_count, dtype="float32")
        weights = ops.square(ops.expand_dims(index, 1) - ops.expand_dims(index, 0))
        chance = ops.matmul(
            ops.expand_dims(ops.sum(self.counts, axis=1), 1), ops.expand_dims(ops.sum(self.counts, axis=0), 0)
        )
        expected = ops.sum(weights * chance)
        observed = ops.sum(weights * self.counts) * ops.sum(self.counts)
        return ops.where(expected > 0, 1 - observed / ops.maximum(expected, 1e-12), 0.0)
