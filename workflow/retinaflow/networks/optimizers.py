"""Optimizers with layer-wise learning rates, weight decay, gradient clipping and averaged weights."""

from collections.abc import Sequence
from typing import Any

import keras

from retinaflow.networks import devices
from retinaflow.settings.train import TrainingSettings

DEPTHS = 10
MOMENTUM = 0.9


def build_optimizer(settings: TrainingSettings, model: keras.Model) -> keras.optimizers.Optimizer:
    """Build the optimizer of ``settings`` for ``model``, with variables for each trainable variable."""
    # Keras refuses an int.
    options: dict[str, Any] = {"learning_rate": float(settings.learning_rate)}
    if settings.optimizer == "sgd":
        options["momentum"] = MOMENTUM
    if settings.clip_norm:
        options["global_clipnorm"] = settings.clip_norm
    if settings.ema:
        options |= {"use_ema": True, "ema_momentum": settings.ema}
    scaled = settings.layer_decay != 1 or settings.weight_decay
    kind = "sgd" if settings.optimizer == "sgd" else "adam"
    built = KINDS[kind, bool(scaled)](**options)
    if scaled:
        built.scales = tuple(rate_factors(model, settings.layer_decay))
        # Biases and the weights of normalisation layers have one dimension. They do not decay.
        built.decays = tuple(settings.weight_decay * (len(each.shape) > 1) for each in model.trainable_variables)
    if model.dtype_policy.name == "mixed_float16":
        built = _LossScale(built)
    built.build(model.trainable_variables)
    return built


def rate_factors(model: keras.Model, decay: float) -> list[float]:
    """Return factors on the learning rate of each trainable variable of ``model``: discriminative rates.

    The layers of the backbone that have weights are divided into ``DEPTHS`` equal groups in their order. The rate falls
    by ``decay`` from the head to the last group, and from each group to the previous one (Howard and Ruder 2018,
    arXiv:1801.06146, section 3.2). Groups replace layers here, as networks differ in depth.
    """
    factors: dict[int, float] = {}
    for network in (layer for layer in model.layers if isinstance(layer, keras.Model)):
        layers = [layer for layer in network.layers if layer.weights]
        for number, layer in enumerate(layers):
            depth = DEPTHS - DEPTHS * number // len(layers)
            factors.update((id(variable), decay**depth) for variable in layer.trainable_variables)
    return [factors.get(id(variable), 1.0) for variable in model.trainable_variables]


class _Scaled(keras.optimizers.Optimizer):
    """Scale the learning rate and the decay of each variable (Loshchilov and Hutter 2019).

    Weight decay of Keras uses one rate for all variables: layers with a small rate would only shrink.
    """

    scales: Sequence[float]
    decays: Sequence[float]

    def update_step(
        self, gradient: keras.KerasTensor, variable: keras.Variable, learning_rate: keras.KerasTensor
    ) -> None:
        number = self._get_variable_index(variable)
        rate = keras.ops.cast(learning_rate, variable.dtype) * self.scales[number]
        if self.decays[number]:
            self.assign_sub(variable, variable * (rate * self.decays[number]))
        super().update_step(gradient, variable, rate)


class ScaledAdam(_Scaled, keras.optimizers.Adam):
    """Adam with a rate and decay for each variable."""


class ScaledSGD(_Scaled, keras.optimizers.SGD):
    """SGD with a rate and decay for each variable."""


# With torch, Keras updates all variables at once in its own classes, but not in classes derived from them.
KINDS = {
    ("adam", False): keras.optimizers.Adam,
    ("adam", True): ScaledAdam,
    ("sgd", False): keras.optimizers.SGD,
    ("sgd", True): ScaledSGD,
}


class _LossScale(keras.optimizers.LossScaleOptimizer):
    """Scale the loss so that no gradient vanishes in float16, and skip steps in which a gradient overflows.

    The class of Keras checks the gradients of one device only, but adds the gradients of all devices.
    """

    def check_finite(self, grads: list[keras.KerasTensor]) -> keras.KerasTensor:
        """Return whether all gradients on all devices are finite."""
        return devices.everywhere(super().check_finite(grads))


class AveragedWeights(keras.callbacks.Callback):
    """Swap averaged weights into the model before each validation, and back before the next epoch.

    At the end of an epoch, the model holds the averaged weights (Polyak and Juditsky 1992), and the optimizer holds the
    others in the variables of the average. ``SwapEMAWeights`` of Keras swaps by sums and differences, which rounds.
    """

    def __init__(self, averaged: bool) -> None:
        """``averaged``: whether the model holds the averaged weights at the start."""
        super().__init__()
        self.averaged = averaged

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:  # noqa: ARG002
        if self.averaged:
            self._swap()

    def on_test_begin(self, logs: dict[str, float] | None = None) -> None:  # noqa: ARG002
        self._swap()

    def _swap(self) -> None:
        self.averaged = not self.averaged
        optimizer = getattr(self.model.optimizer, "inner_optimizer", self.model.optimizer)
        for weight, average in zip(
            optimizer._trainable_variables, optimizer._model_variables_moving_average, strict=True
        ):
            value = keras.ops.convert_to_numpy(weight)
            weight.assign(average)
            average.assign(value)
