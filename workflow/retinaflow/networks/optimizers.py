"""The optimiser of a training: how its rate differs with depth, and what decays, is clipped and averaged."""

from collections.abc import Mapping, Sequence
from typing import Any

import keras

from retinaflow.networks import devices

DEPTHS = 10
MOMENTUM = 0.9


def optimizer(settings: Mapping[str, Any], model: keras.Model) -> keras.optimizers.Optimizer:
    """The optimiser that ``settings``, a ``train`` section of the configuration, describe for ``model``.

    It is built: there are variables for each of the trainable ones of ``model``.
    """
    options: dict[str, Any] = {"learning_rate": settings["learning_rate"]}
    if settings["optimizer"] == "sgd":
        options["momentum"] = MOMENTUM
    if settings["clip_norm"]:
        options["global_clipnorm"] = settings["clip_norm"]
    if settings["ema"]:
        options |= {"use_ema": True, "ema_momentum": settings["ema"]}
    scaled = settings["layer_decay"] != 1 or settings["weight_decay"]
    kind = "sgd" if settings["optimizer"] == "sgd" else "adam"
    built = KINDS[kind, bool(scaled)](**options)
    if scaled:
        built.scales = tuple(scales(model, settings["layer_decay"]))
        # Not offsets, nor the scales of normalisation: they have one dimension.
        built.decays = tuple(settings["weight_decay"] * (len(each.shape) > 1) for each in model.trainable_variables)
    if model.dtype_policy.name == "mixed_float16":
        built = _LossScale(built)
    built.build(model.trainable_variables)
    return built


def scales(model: keras.Model, decay: float) -> list[float]:
    """Factors on the learning rate of each trainable variable of ``model``: discriminative rates.

    The layers of the backbone that have weights are divided into ``DEPTHS`` equal groups, by their order. The rate
    falls by ``decay`` from the head to the last group and from each to the one before (Howard and Ruder 2018,
    arXiv:1801.06146, section 3.2; by groups and not layers, as networks differ in depth).
    """
    factors: dict[int, float] = {}
    for network in (layer for layer in model.layers if isinstance(layer, keras.Model)):
        layers = [layer for layer in network.layers if layer.weights]
        for number, layer in enumerate(layers):
            depth = DEPTHS - DEPTHS * number // len(layers)
            factors.update((id(variable), decay**depth) for variable in layer.trainable_variables)
    return [factors.get(id(variable), 1.0) for variable in model.trainable_variables]


class _Scaled(keras.optimizers.Optimizer):
    """Scales the learning rate of each variable, and has it decay by its own (Loshchilov and Hutter 2019).

    Keras's weight decay goes by the one rate of all: where a layer hardly learns, it would only shrink.
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


# With torch, Keras updates all variables at once, but not in classes that are derived from its own.
KINDS = {
    ("adam", False): keras.optimizers.Adam,
    ("adam", True): ScaledAdam,
    ("sgd", False): keras.optimizers.SGD,
    ("sgd", True): ScaledSGD,
}


class _LossScale(keras.optimizers.LossScaleOptimizer):
    """Scales the loss so that no gradient vanishes in float16, and leaves out steps in which one overflows.

    Keras's own asks one of several devices whether its gradients are finite, and adds up those of all.
    """

    def check_finite(self, grads: list[keras.KerasTensor]) -> keras.KerasTensor:
        """Whether all gradients on all devices are finite."""
        return devices.everywhere(super().check_finite(grads))


class Average(keras.callbacks.Callback):
    """Puts the averaged weights in the model before each validation, and the others back before the next epoch.

    Whatever comes at the end of an epoch finds and keeps the averaged ones (Polyak and Juditsky 1992); the others are
    where the optimiser had the average. Keras's ``SwapEMAWeights`` swaps by sums and differences, which rounds.
    """

    def __init__(self, averaged: bool) -> None:
        """``averaged``: whether the model has the averaged weights in it now."""
        super().__init__()
        self.averaged = averaged

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:  # noqa: ARG002
        if self.averaged:
            self._swap()

    def on_test_begin(self, logs: dict[str, float] | None = None) -> None:  # noqa: ARG002
        self._swap()

    def _swap(self) -> None:
        self.averaged = not self.averaged
        optimiser = getattr(self.model.optimizer, "inner_optimizer", self.model.optimizer)
        for weight, average in zip(
            optimiser._trainable_variables, optimiser._model_variables_moving_average, strict=True
        ):
            value = keras.ops.convert_to_numpy(weight)
            weight.assign(average)
            average.assign(value)
