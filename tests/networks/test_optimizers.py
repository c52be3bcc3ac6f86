"""Steps of the optimizers against a hand calculation, on a network with few weights."""

import keras
import numpy as np
import pytest

from retinaflow.networks.building import policy
from retinaflow.networks.optimizers import AveragedWeights, build_optimizer, rate_factors
from small import typed


def stack(layers: int, offsets: bool = True) -> keras.Model:
    """Return a backbone with some layers and a head. All weights are 1."""
    pixels = keras.Input((2,))
    x = pixels
    for number in range(layers):
        x = keras.layers.Dense(2, use_bias=offsets, kernel_initializer="ones", bias_initializer="ones")(x)
        if number % 2:
            x = keras.layers.ReLU()(x)
    network = keras.Model(pixels, x, name="network")
    whole = keras.Input((2,))
    head = keras.layers.Dense(1, kernel_initializer="ones", bias_initializer="ones", name="head")
    return keras.Model(whole, head(network(whole)))


def step(model: keras.Model, count: int = 1, rate: float = 0.1, gradient: float = 1.0, **changes) -> list[np.ndarray]:
    """Return the weights after some steps with one gradient for all."""
    optimizer = build_optimizer(typed(**changes), model)
    optimizer.learning_rate = rate
    for _ in range(count):
        optimizer.apply([gradient * keras.ops.ones(each.shape) for each in model.trainable_variables])
    return [np.array(each) for each in model.trainable_variables]


def test_rate_falls_for_each_tenth_of_the_layers():
    expected = [0.5 ** (10 - number // 2) for number in range(20)] + [1.0]
    model = stack(20)
    assert rate_factors(model, 0.5) == pytest.approx(np.repeat(expected, 2))  # of kernel and offset
    # The first steps of Adam are as long as its rate for any gradient, so a scaled gradient would change nothing.
    for weight, scale in zip(step(model, layer_decay=0.5), np.repeat(expected, 2), strict=True):
        assert weight == pytest.approx(1 - 0.1 * scale, abs=1e-6)


@pytest.mark.parametrize("layers", [1, 3, 13])
def test_few_layers_have_the_lowest_and_highest_rates(layers):
    found = rate_factors(stack(layers, offsets=False), 0.9)
    assert found[0] == pytest.approx(0.9**10)
    assert found[-3] == pytest.approx(0.9 ** (10 - 10 * (layers - 1) // layers))
    assert found == sorted(found)
    assert found[-2:] == [1, 1]


def test_frozen_layers_have_no_rate():
    model = stack(4)
    model.get_layer("network").layers[1].trainable = False
    assert len(rate_factors(model, 0.5)) == len(model.trainable_variables) == 8


@pytest.mark.parametrize(("kind", "layer_decay"), [("adamw", 1), ("adamw", 0.5), ("sgd", 1)])
def test_weights_decay_by_the_rate_of_their_layer(kind, layer_decay):
    """Without a gradient, a weight shrinks by rate x decay at each step. Offsets stay."""
    model = stack(10)
    found = step(model, 2, gradient=0.0, optimizer=kind, weight_decay=0.2, layer_decay=layer_decay)
    for number, (kernel, offset) in enumerate(zip(found[::2], found[1::2], strict=True)):
        assert kernel == pytest.approx((1 - 0.1 * layer_decay ** (10 - number) * 0.2) ** 2, abs=1e-6)
        assert (offset == 1).all()


def test_sgd_has_momentum():
    assert step(stack(1), 2, optimizer="sgd")[0] == pytest.approx(1 - 0.1 - 0.19)


def test_long_gradient_is_shortened_over_all_weights():
    """The gradients of 9 weights are 100 each, so their norm is 300."""
    assert step(stack(1), optimizer="sgd", clip_norm=3, gradient=100.0)[0] == pytest.approx(1 - 0.1)
    assert step(stack(1), optimizer="sgd", clip_norm=3, gradient=0.5)[0] == pytest.approx(1 - 0.05)


@pytest.mark.parametrize("precision", ["float32", "mixed_float16"])
def test_averaged_weights_are_in_the_model_for_validation(precision):
    with policy(precision):
        model = stack(1)
    optimizer = build_optimizer(typed(optimizer="sgd", ema=0.75), model)
    assert isinstance(optimizer, keras.optimizers.LossScaleOptimizer) == (precision == "mixed_float16")
    optimizer.learning_rate = 0.1
    model.compile(optimizer, loss="mse")
    kernel = model.trainable_variables[0]
    scale = 2.0**15 if precision == "mixed_float16" else 1  # factor on the loss
    average = AveragedWeights(averaged=False)
    average.set_model(model)
    average.on_epoch_begin(0)
    for _ in range(2):
        optimizer.apply([scale * keras.ops.ones(each.shape) for each in model.trainable_variables])
    first, second = 1 - 0.1, 1 - 0.1 - 0.19
    assert np.array(kernel) == pytest.approx(second)
    exact = np.array(kernel)
    average.on_test_begin()
    assert np.array(kernel) == pytest.approx(0.75 * first + 0.25 * second)
    average.on_epoch_begin(1)
    assert np.array_equal(np.array(kernel), exact)


def test_whole_numbers_are_learning_rates():
    optimizer = build_optimizer(typed(learning_rate=1.0), stack(1))
    assert float(optimizer.learning_rate) == 1
