"""Time left of a training run."""

import pytest

from retinaflow.training import pace
from retinaflow.training.pace import Pace


@pytest.fixture
def tick(monkeypatch):
    """Return a function that moves the clock by some seconds."""
    now = [1000.0]
    monkeypatch.setattr(pace.time, "monotonic", lambda: now[0])

    def wait(seconds):
        now[0] += seconds

    return wait


def test_time_left_is_unknown_before_a_measurement():
    assert Pace(2, 3, 90, 30).left() is None


def test_head_phase_counts_network_epochs_at_their_own_speed():
    measured = Pace(2, 3, 90, 30)
    measured.passed(30, 3.0)  # 0.1 s an image
    network = 3 * 0.1 * 90 + 0.1 * 30
    assert measured.left() == pytest.approx(3 * network)
    measured.end("head", 1.0)
    assert measured.left() == pytest.approx(1.0 + 3 * network)


def test_first_epoch_is_measured_after_its_first_batch(tick):
    measured = Pace(0, 3, 90, 30)
    measured.begin()
    tick(60)  # compiles
    measured.batch(10)
    assert measured.left(10) is None
    tick(10)
    measured.batch(20)
    assert measured.left(20) == pytest.approx(3 * 100 - 20)
    tick(90)
    measured.end("network", 170.0)
    assert measured.left() == pytest.approx(2 * 100)


def test_later_epochs_are_measured_as_a_whole():
    measured = Pace(0, 5, 90, 0)
    for seconds in (500.0, 100.0, 120.0, 110.0):
        measured.end("network", seconds)
    assert measured.left() == pytest.approx(110.0)
    assert measured.left(45) == pytest.approx(55.0)


def test_resumed_training_uses_the_speed_of_former_epochs():
    measured = Pace(1, 4, 90, 0)
    rows = [{"phase": "head", "seconds": 300.0}, *({"phase": "network", "seconds": s} for s in (90.0, 50.0))]
    measured.resume(rows)
    assert measured.left() == pytest.approx(2 * 50)


def test_no_time_is_left_at_the_end():
    measured = Pace(0, 1, 90, 30)
    measured.end("network", 10.0)
    assert measured.left() == 0
