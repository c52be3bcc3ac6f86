"""Keras callbacks of training: progress, learning rate, dropout seeds, and a checkpoint after each epoch."""

import logging
import math
import time
from collections.abc import Sequence

import keras
import numpy as np

from retinaflow.errors import RetinaflowError
from retinaflow.settings.train import TrainingSettings
from retinaflow.training import schedule
from retinaflow.training.checkpoints import Checkpoint
from retinaflow.training.history import best_epoch, history_row, plateau_rate, stops_early
from retinaflow.training.pace import Pace

log = logging.getLogger(__name__)
# The screen has a handler for the progress of jobs.
progress = logging.getLogger("retinaflow.progress")

# Seconds between two lines about an epoch in the log.
LOG_INTERVAL = 30

Logs = dict[str, float] | None


class OutOfTimeError(RetinaflowError):
    """The time limit of the job would pass within the next epoch. The checkpoint has the epochs so far."""


def check_time(name: str, deadline: float, *, step: str, seconds: float, saved: str) -> None:
    """Check that the next step ends before the deadline.

    Args:
        name: Name of the model, for the message.
        deadline: Latest time on the clock of ``time.monotonic``.
        step: Next step, for the message.
        seconds: Expected duration of the step.
        saved: Sentence about the results that are saved, for the message.

    Raises:
        OutOfTimeError: The step would end later.
    """
    if time.monotonic() + seconds > deadline:
        raise OutOfTimeError(
            f"{name}: the time limit would pass within {step}, as one takes {seconds:.0f} s. {saved}: run again to "
            "resume after them, or let `retries` do it."
        )


class Progress(keras.callbacks.Callback):
    """Report the step and the time left for the screen. In the log, a line an epoch and one each half minute."""

    def __init__(self, images: int, batch_size: int, pace: Pace, *, is_head: bool) -> None:
        """``images`` is the number of images of an epoch. ``is_head`` is whether the head is trained alone."""
        super().__init__()
        self.images, self.batch_size, self.pace = images, batch_size, pace
        self.phase = schedule.HEAD if is_head else schedule.NETWORK
        self.epochs = sum(pace.total.values())
        # Seconds of each epoch so far.
        self.seconds: list[float] = []

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:  # noqa: ARG002
        """Start the clock."""
        self.start = self.logged = time.monotonic()
        self.epoch = epoch
        self.pace.begin()
        self._report(0)

    def on_train_batch_end(self, batch: int, logs: dict[str, float]) -> None:
        """Report the time left."""
        done = min(self.images, (batch + 1) * self.batch_size)
        self.pace.batch(done)
        self._report(done)
        now = time.monotonic()
        if now - self.logged > LOG_INTERVAL:
            self.logged = now
            rate = done / (now - self.start)
            left = (self.images - done) / rate
            log.info("%d/%d images, %.1f images/s, %.0f s left, loss %.4f", done, self.images, rate, left, logs["loss"])

    def on_test_begin(self, logs: Logs = None) -> None:  # noqa: ARG002
        """Measure the speed of training, without validation."""
        self.rate = self.images / (time.monotonic() - self.start)

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """Write the metrics to the log."""
        self.seconds.append(round(time.monotonic() - self.start, 2))
        self.pace.end(self.phase, self.seconds[-1])
        left = self.pace.left()
        time_left = "time left unknown" if left is None else f"at most {left:.0f} s left"
        metrics = " ".join(f"{name} {value:.4g}" for name, value in logs.items())
        log.info("epoch %d/%d: %.1f images/s, %s: %s", epoch + 1, self.epochs, self.rate, time_left, metrics)

    def _report(self, done: int) -> None:
        phase = ", head" if self.phase == schedule.HEAD else ""
        state = {"step": f"epoch {self.epoch + 1}/{self.epochs}{phase}", "left": self.pace.left(done)}
        progress.debug("%s", state["step"], extra={"progress": state})


class LearningRate(keras.callbacks.Callback):
    """Set the learning rate of each epoch. It follows from the epochs so far, also those of an earlier job."""

    def __init__(self, settings: TrainingSettings, checkpoint: Checkpoint) -> None:
        """``checkpoint`` has the epochs so far."""
        super().__init__()
        self.settings, self.checkpoint = settings, checkpoint

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:  # noqa: ARG002
        """Set the rate."""
        rate = schedule.learning_rate(epoch, self.settings)
        if rate is None:
            rate = plateau_rate(self.checkpoint.rows, self.settings)
        self.model.optimizer.learning_rate = rate


class DropoutSeeds(keras.callbacks.Callback):
    """Seed dropout for each epoch. No weights file holds its state, so a resumed training run derives it again."""

    def __init__(self, seed: int) -> None:
        """``seed`` is the seed of the training run."""
        super().__init__()
        self.seed = seed

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:  # noqa: ARG002
        """Set the state of each generator."""
        states = [variable for variable in self.model.variables if variable.path.endswith("seed_generator_state")]
        for number, state in enumerate(states):
            state.assign(np.random.SeedSequence((self.seed, epoch, number)).generate_state(2))


class FiniteLoss(keras.callbacks.Callback):
    """End training with an error if the loss of training or validation is not finite."""

    def __init__(self, settings: TrainingSettings) -> None:
        """``settings`` are those of the model."""
        super().__init__()
        self.settings = settings

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """Raise ``RetinaflowError`` for a loss that is not finite."""
        if math.isfinite(logs["loss"]) and math.isfinite(logs["val_loss"]):
            return
        is_head = schedule.phase(epoch, self.settings) == schedule.HEAD
        key = "head_learning_rate" if is_head else "learning_rate"
        raise RetinaflowError(
            f"{self.settings.backbone}: the loss is no longer finite in epoch {epoch + 1}. Lower {key} (now "
            f"{getattr(self.settings, key)}) or check class_weights ({self.settings.class_weights})."
        )


class SaveEpochs(keras.callbacks.Callback):
    """Save each epoch in the checkpoint. End training early if the monitored metric or the deadline requires it.

    Place it after the callbacks that change weights, learning rate or seconds.
    """

    def __init__(
        self,
        network: keras.Model,
        settings: TrainingSettings,
        checkpoint: Checkpoint,
        *,
        epochs: range,
        epoch_seconds: Sequence[float],
        preparation_seconds: float,
        deadline: float,
    ) -> None:
        """Describe the phase.

        Args:
            network: Whole network, also while the head is trained alone.
            settings: Settings of the model.
            checkpoint: Checkpoint of the training run.
            epochs: Epochs of this phase, counted from 0 over both phases.
            epoch_seconds: Seconds of each epoch of this job so far. ``Progress`` extends it.
            preparation_seconds: Seconds before the first epoch. They count as part of it.
            deadline: Latest end on the clock of ``time.monotonic``.
        """
        super().__init__()
        self.network, self.settings, self.checkpoint, self.epochs = network, settings, checkpoint, epochs
        self.epoch_seconds, self.preparation_seconds, self.deadline = epoch_seconds, preparation_seconds, deadline

    def on_epoch_begin(self, epoch: int, logs: Logs = None) -> None:  # noqa: ARG002
        """Note the learning rate."""
        self.rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        """Save the epoch and decide about the next one."""
        seconds = self.epoch_seconds[-1] + self.preparation_seconds
        self.preparation_seconds = 0.0
        row = history_row(epoch, self.settings, metrics=logs, learning_rate=self.rate, seconds=seconds)
        rows = [*self.checkpoint.rows, row]
        if stops_early(rows, self.settings):
            self.model.stop_training = True
        is_last = self.model.stop_training or epoch + 1 == self.epochs.stop
        finished = is_last and row["phase"] == schedule.NETWORK
        self.checkpoint.save(self.network, rows, best_epoch(rows, self.settings), finished)
        if not is_last:
            saved = f"The {epoch + 1} epochs so far are saved"
            step = f"epoch {epoch + 2}"
            longest = max(self.epoch_seconds)
            check_time(self.network.name, self.deadline, step=step, seconds=longest, saved=saved)
