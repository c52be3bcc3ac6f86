"""Time left of a training, from the measured speed of each of its phases."""

import statistics
import time
from collections.abc import Mapping, Sequence
from typing import Any

from retinaflow.training.schedule import HEAD, NETWORK

# A training step computes the network forward and backward, and backward takes about twice as long.
STEP = 3


class Pace:
    """Measures epochs and estimates the seconds until the last one ends.

    Early stopping may end a training sooner, so the estimate is an upper limit.
    """

    def __init__(self, head_epochs: int, epochs: int, training: int, validation: int) -> None:
        """``training`` and ``validation`` are numbers of images."""
        self.total = {HEAD: head_epochs, NETWORK: epochs}
        self.done = {HEAD: 0, NETWORK: 0}
        self.seconds: dict[str, list[float]] = {HEAD: [], NETWORK: []}
        self.training, self.validation = training, validation
        # Seconds that the backbone takes for one image, without learning from it.
        self.forward: float | None = None
        self._first: tuple[float, int] | None = None
        self._rate = 0.0

    def resume(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Take over the epochs of a checkpoint. The first of a phase includes its preparation, so it is no measure."""
        for phase in (HEAD, NETWORK):
            own = [float(row["seconds"]) for row in rows if row["phase"] == phase]
            self.done[phase] = len(own)
            if not self.seconds[phase]:
                self.seconds[phase] = own[1:]

    def passed(self, images: int, seconds: float) -> None:
        """The backbone has computed ``images``, without learning."""
        self.forward = seconds / images

    def begin(self) -> None:
        """An epoch begins."""
        self._first = None
        self._rate = 0.0

    def batch(self, done: int) -> None:
        """The epoch has trained on ``done`` images. Its first batch is no measure: libraries compile during it."""
        now = time.monotonic()
        if self._first is None:
            self._first = now, done
        elif done > self._first[1]:
            self._rate = (now - self._first[0]) / (done - self._first[1])

    def end(self, phase: str, seconds: float) -> None:
        """An epoch has ended after ``seconds``."""
        self.done[phase] += 1
        # The first epoch includes the time to compile, unlike those to come.
        first = not self.seconds[phase] and self._rate
        self.seconds[phase].append(self._rate * self._work if first else seconds)
        self.begin()

    def epoch_seconds(self, phase: str) -> float | None:
        """The seconds of one epoch, or None if nothing was measured yet."""
        measured = self.seconds[phase]
        if measured:
            return statistics.median(measured[1:] or measured)
        if self._rate and self.running == phase:
            return self._rate * self._work
        if phase == NETWORK and self.forward is not None:
            return self.forward * STEP * self._work
        return None

    @property
    def running(self) -> str:
        """The present phase."""
        return HEAD if self.done[HEAD] < self.total[HEAD] else NETWORK

    def left(self, done: int = 0) -> float | None:
        """Seconds to come, ``done`` training images after the beginning of an epoch. None if they are not known.

        A head is far quicker than a network: its epochs to come count only once they were measured.
        """
        seconds = {phase: self.epoch_seconds(phase) for phase in (HEAD, NETWORK)}
        if self.total[NETWORK] and seconds[NETWORK] is None:
            return None
        to_come = {phase: self.total[phase] - self.done[phase] for phase in seconds}
        whole = sum((seconds[phase] or 0) * count for phase, count in to_come.items())
        return max(0.0, whole - (seconds[self.running] or 0) * done / self._work)

    @property
    def _work(self) -> float:
        """The images of an epoch, where one of validation is computed forward only."""
        return self.training + self.validation / STEP
