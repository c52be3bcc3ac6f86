"""Learning rates and monitored figures by hand."""

import math

import pytest

from retinaflow.training.schedule import HEAD, NETWORK, best_epoch, learning_rate, monitored, phase
from small import SETTINGS

PEAK = {"learning_rate": 0.1, "minimum_learning_rate": 0.02}


def rates(count, **changes):
    return [learning_rate(epoch, {**SETTINGS, **PEAK, **changes}) for epoch in range(count)]


def test_cosine_by_hand():
    found = rates(4, schedule="cosine", epochs=4)
    assert found == pytest.approx([0.1, 0.06 + 0.04 * math.sqrt(0.5), 0.06, 0.06 - 0.04 * math.sqrt(0.5)])


def test_the_head_has_a_rate_of_its_own_then_it_rises_then_it_falls():
    found = rates(9, schedule="cosine", head_epochs=2, head_learning_rate=0.7, warmup_epochs=3, epochs=7)
    rise = [0.025, 0.05, 0.075]
    assert found == pytest.approx([0.7, 0.7, *rise, *rates(4, schedule="cosine", epochs=4)])


def test_a_plateau_is_left_alone_after_the_rise():
    assert rates(5, head_epochs=1, warmup_epochs=1) == [0.01, 0.05, 0.1, None, None]
    assert rates(3) == [0.1, None, None]


def test_phases():
    settings = {**SETTINGS, "head_epochs": 2}
    assert [phase(epoch, settings) for epoch in range(4)] == [HEAD, HEAD, NETWORK, NETWORK]


def test_the_monitored_figure_is_a_mean_over_epochs_of_one_phase():
    settings = {**SETTINGS, "head_epochs": 2, "monitor_smoothing": 3, "monitor": "val_accuracy"}
    rows = [{"val_accuracy": figure} for figure in (0.9, 0.7, 0.2, 0.4, 0.6, 0.8, 1.0)]
    assert monitored(rows, settings) == pytest.approx([0.9, 0.8, 0.2, 0.3, 0.4, 0.6, 0.8])
    assert monitored(rows, {**settings, "monitor_smoothing": 1}) == [row["val_accuracy"] for row in rows]


def test_a_single_good_epoch_is_not_the_best_after_smoothing():
    rows = [{"val_loss": figure} for figure in (1.0, 0.4, 1.0, 0.6, 0.5, 0.6)]
    assert best_epoch(rows, SETTINGS) == 2
    assert best_epoch(rows, {**SETTINGS, "monitor_smoothing": 3}) == 6
    rising = [{"val_accuracy": figure} for figure in (0.5, 0.9, 0.9)]
    assert best_epoch(rising, {**SETTINGS, "monitor": "val_accuracy"}) == 2, "the first of equals"
