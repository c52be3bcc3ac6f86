"""Learning rates and monitored metrics by hand."""

import math

import keras
import numpy as np
import pytest

from retinaflow.networks import devices
from retinaflow.training.history import best_epoch, monitored, plateau_rate, stops_early
from retinaflow.training.schedule import HEAD, NETWORK, learning_rate, phase
from small import typed

# TensorFlow accepts a number of threads only until it has made its first tensor, also in other test files.
devices.prepare_process(seed=0, threads=1)

PEAK = {"learning_rate": 0.1, "minimum_learning_rate": 0.02}


def rates(count, **changes):
    return [learning_rate(epoch, typed(**{**PEAK, **changes})) for epoch in range(count)]


def test_cosine_equals_a_hand_calculation():
    found = rates(4, schedule="cosine", epochs=4)
    assert found == pytest.approx([0.1, 0.06 + 0.04 * math.sqrt(0.5), 0.06, 0.06 - 0.04 * math.sqrt(0.5)])


def test_rate_of_the_head_comes_before_warm_up_and_cosine():
    found = rates(9, schedule="cosine", head_epochs=2, head_learning_rate=0.7, warmup_epochs=3, epochs=7)
    rise = [0.025, 0.05, 0.075]
    assert found == pytest.approx([0.7, 0.7, *rise, *rates(4, schedule="cosine", epochs=4)])


def test_plateau_has_no_scheduled_rate_after_warm_up():
    assert rates(5, head_epochs=1, warmup_epochs=1) == [0.01, 0.05, 0.1, None, None]
    assert rates(3) == [0.1, None, None]


def test_head_epochs_come_before_network_epochs():
    settings = typed(head_epochs=2)
    assert [phase(epoch, settings) for epoch in range(4)] == [HEAD, HEAD, NETWORK, NETWORK]


def test_monitored_metric_is_smoothed_within_a_phase():
    settings = typed(head_epochs=2, monitor_smoothing=3, monitor="val_accuracy")
    rows = [{"val_accuracy": value} for value in (0.9, 0.7, 0.2, 0.4, 0.6, 0.8, 1.0)]
    assert monitored(rows, settings) == pytest.approx([0.9, 0.8, 0.2, 0.3, 0.4, 0.6, 0.8])
    assert monitored(rows, settings.model_copy(update={"monitor_smoothing": 1})) == [
        row["val_accuracy"] for row in rows
    ]


def test_single_good_epoch_is_not_best_after_smoothing():
    rows = [{"val_loss": value} for value in (1.0, 0.4, 1.0, 0.6, 0.5, 0.6)]
    assert best_epoch(rows, typed()) == 2
    assert best_epoch(rows, typed(monitor_smoothing=3)) == 6
    rising = [{"val_accuracy": value} for value in (0.5, 0.9, 0.9)]
    assert best_epoch(rising, typed(monitor="val_accuracy")) == 2, "the first of equals"


def by_keras(values, settings):
    """Learning rate after each epoch by the callbacks of Keras, and whether they stop training."""
    mode = "min" if settings.monitor == "val_loss" else "max"
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(settings.learning_rate))
    model.stop_training = False
    end = keras.callbacks.EarlyStopping("monitored", patience=settings.early_stopping_patience, mode=mode)
    plateau = keras.callbacks.ReduceLROnPlateau(
        "monitored",
        factor=settings.reduce_lr_factor,
        patience=settings.reduce_lr_patience,
        min_lr=settings.minimum_learning_rate,
        mode=mode,
    )
    for callback in (plateau, end):
        callback.set_model(model)
        callback.on_train_begin()
    rates = []
    for epoch, value in enumerate(values):
        for callback in (plateau, end):
            callback.on_epoch_end(epoch, {"monitored": value})
        rates.append(float(keras.ops.convert_to_numpy(model.optimizer.learning_rate)))
        if model.stop_training:
            break
    return rates, model.stop_training


@pytest.mark.parametrize("monitor", ["val_loss", "val_accuracy"])
def test_plateau_and_early_stopping_equal_the_callbacks_of_keras(monitor):
    rng = np.random.default_rng(0)
    stopped = 0
    for _ in range(30):
        changes = {"reduce_lr_patience": int(rng.integers(1, 4)), "early_stopping_patience": int(rng.integers(1, 9))}
        settings = typed(**{**PEAK, **changes}, monitor=monitor, reduce_lr_factor=0.3)
        steps = rng.choice([0, 5e-9, 5e-5, 1e-4, 2e-4, 0.1], 20) * rng.choice([-1, 1], 20)
        rows = [{monitor: float(value)} for value in 0.5 + np.cumsum(steps)]
        rates, stops = by_keras([row[monitor] for row in rows], settings)
        stopped += stops
        for count in range(1, len(rates) + 1):
            assert plateau_rate(rows[:count], settings) == rates[count - 1]
            assert stops_early(rows[:count], settings) == (stops and count == len(rates))
    assert stopped > 5
