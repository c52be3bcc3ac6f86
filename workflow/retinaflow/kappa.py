"""Quadratic weighted kappa as a Keras metric, so that every epoch shows it."""

from typing import Any

import keras
from keras import ops


class QuadraticWeightedKappa(keras.metrics.Metric):
    """Cohen's kappa with quadratic weights over all batches of an epoch, from class indices and probabilities.

    Cohen, J. (1968), Weighted kappa, Psychological Bulletin 70(4), 213-220. It is 0 where kappa is undefined: labels
    and predictions all in one class. Sample weights are ignored.
    """

    def __init__(self, classes: int, name: str = "quadratic_weighted_kappa", **options: Any) -> None:
        """``classes``: number of classes."""
        super().__init__(name=name, **options)
        self.classes = classes
        self.counts = self.add_weight(shape=(classes, classes), initializer="zeros", name="counts", dtype="float32")

    def update_state(
        self, y_true: keras.KerasTensor, y_pred: keras.KerasTensor, sample_weight: keras.KerasTensor | None = None
    ) -> None:
        """Count a batch: ``y_true`` class indices (n,), ``y_pred`` probabilities (n, classes)."""
        del sample_weight
        actual = ops.one_hot(ops.reshape(ops.cast(y_true, "int32"), (-1,)), self.classes, dtype="float32")
        predicted = ops.one_hot(ops.argmax(y_pred, axis=-1), self.classes, dtype="float32")
        self.counts.assign_add(ops.matmul(ops.transpose(actual), predicted))

    def result(self) -> keras.KerasTensor:
        """Kappa of everything counted, -1 to 1."""
        levels = ops.arange(self.classes, dtype="float32")
        weights = ops.square(ops.expand_dims(levels, 1) - ops.expand_dims(levels, 0))
        chance = ops.matmul(
            ops.expand_dims(ops.sum(self.counts, axis=1), 1), ops.expand_dims(ops.sum(self.counts, axis=0), 0)
        )
        expected = ops.sum(weights * chance)
        observed = ops.sum(weights * self.counts) * ops.sum(self.counts)
        return ops.where(expected > 0, 1 - observed / ops.maximum(expected, 1e-12), 0.0)
