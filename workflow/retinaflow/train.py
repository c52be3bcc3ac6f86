"""Fine-tune one backbone on the photographs of the training part and keep the epoch that validates best."""

import json
import logging
import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from tqdm import tqdm

from retinaflow import device, objectives
from retinaflow.checkpoints import Checkpoint
from retinaflow.errors import RetinaflowError
from retinaflow.files import digest, digest_files, whole_file, write_json
from retinaflow.loader import Batches, Photographs
from retinaflow.lock import lock
from retinaflow.model import build, compile_model, in_float32
from retinaflow.tables import write_table

log = logging.getLogger(__name__)

FIGURES = ("loss", "accuracy", "quadratic_weighted_kappa")
HISTORY_COLUMNS = ("epoch", *FIGURES, *(f"val_{name}" for name in FIGURES), "learning_rate", "seconds")
MARGIN = 120  # seconds: for what comes before the first epoch and after the last one, and for epochs that take longer


class OutOfTimeError(RetinaflowError):
    """The time limit of the job would pass within the next epoch; what is done so far is kept."""


def train(
    backbone: str,
    settings: Mapping[str, Any],
    classes: Sequence[str],
    training: Photographs,
    validation: Photographs,
    weights: Path | None,
    seed: int,
    workers: int,
    checkpoint: Checkpoint,
    deadline: float = math.inf,
    on_out_of_memory: str = "error",
) -> tuple[keras.Model, list[dict[str, float]], dict[str, Any]]:
    """Fine-tune ``backbone`` as its ``train`` ``settings`` say; returns the model, its history and what was decided.

    ``precision`` and ``jit`` of ``settings`` are as ``device.resolve`` gives them. The model holds the weights of the
    epoch with the best ``monitor``, and computes in float32 on one device, whatever it was trained in and on. The
    history has a row an epoch with ``HISTORY_COLUMNS``. The third value is for ``run.json``: class weights, channel
    statistics, batch size, best epoch, parameters, what it was computed in and on.

    Each finished epoch is kept in ``checkpoint``, and training goes on after the last one there, to the same result as
    if it had never been cut short. ``workers`` threads read batches ahead. Where the memory of the device does not
    suffice and ``on_out_of_memory`` is ``halve``, training starts anew with batches of half the size.

    Raises ``RetinaflowError`` if a class has no training photograph, the weights do not fit, the loss is no longer
    finite or memory does not suffice; ``OutOfTimeError`` where ``deadline``, on the clock of ``time.monotonic``, would
    pass before another epoch has ended.
    """
    balance = class_weights(settings["class_weights"], training.levels, classes)
    factors = None if balance is None else np.array(list(balance.values()), np.float32)[training.levels]
    frequencies = np.bincount(training.levels, factors, len(classes))
    statistics = None
    if settings["normalisation"] == "dataset":
        mean, deviation = training.channel_statistics()
        statistics = (mean.tolist(), deviation.tolist())
    if not checkpoint.batch_size:
        checkpoint.restart(settings["batch_size"])

    def targets_of(photographs: Photographs, smoothing: float = 0.0) -> np.ndarray:
        return objectives.targets(settings["objective"], photographs.levels, len(classes), smoothing)

    def attempt(batch_size: int) -> keras.Model:
        device.prepare(seed, settings["cpu_threads"], settings["jit"])
        batches = Batches(
            training,
            batch_size,
            workers,
            seed,
            settings["augment"],
            settings["gpus"],
            targets_of(training, settings["label_smoothing"]),
            factors,
        )
        # Neither smoothed nor weighted: what is watched stays comparable.
        held_out = Batches(validation, batch_size, workers, devices=settings["gpus"], targets=targets_of(validation))
        with device.parallel(settings["gpus"]):
            model = build(backbone, settings, len(classes), weights, statistics, settings["precision"], frequencies)
            device.adopt(model)
            log.info("%s: %s parameters, %s trainable", backbone, f"{model.count_params():,}", f"{_trainable(model):,}")
            _fit(model, settings, seed, batches, held_out, len(classes), checkpoint, deadline)
        return model

    while True:
        batch_size = checkpoint.batch_size
        try:
            model = attempt(batch_size)
            break
        except Exception as error:
            if not device.out_of_memory(error):
                raise
            half = batch_size // 2
            if on_out_of_memory == "error" or half == 0 or half % settings["gpus"]:
                raise RetinaflowError(
                    f"{backbone}: out of memory with batches of {batch_size} photographs of {settings['image_size']} x "
                    f"{settings['image_size']} pixels. Lower batch_size or image_size of {backbone}, or set its "
                    "on_out_of_memory to halve. Other programs on the same device take memory, too."
                ) from error
        checkpoint.restart(half)
        log.warning("%s: out of memory; starting anew with batches of %d photographs", backbone, half)
        keras.utils.clear_session(free_memory=True)
    rows = checkpoint.rows
    best = _best_epoch(rows, settings["monitor"])
    checkpoint.load(model, best)
    trainable = _trainable(model)
    if settings["precision"] != "float32" or settings["gpus"] > 1:
        model = in_float32(model, backbone, settings, len(classes), statistics)
    decided = {
        "class_weights": None if balance is None else {classes[level]: weight for level, weight in balance.items()},
        "channel_statistics": statistics,
        "batch_size": batch_size,
        "epochs_run": len(rows),
        "best_epoch": best,
        "parameters": model.count_params(),
        "trainable_parameters": trainable,
        "photographs": {"train": len(training), "validation": len(validation)},
    }
    return model, rows, decided


def _fit(
    model: keras.Model,
    settings: Mapping[str, Any],
    seed: int,
    batches: Batches,
    held_out: Batches,
    classes: int,
    checkpoint: Checkpoint,
    deadline: float,
) -> None:
    """Train ``model`` from where ``checkpoint`` stands until nothing is left to do."""
    if checkpoint.finished:
        return
    compile_model(model, settings, classes, settings["jit"])
    # TensorFlow traces a step again if variables were made in it: those of optimiser and metrics, if not beforehand.
    # With JAX and torch, Keras makes those of metrics by a look at a first batch, which mixes up the order of the next.
    model.optimizer.build(model.trainable_variables)
    done = len(checkpoint.rows)
    if done:
        checkpoint.load(model, done)
        log.info("going on after epoch %d", done)
    model.evaluate(held_out, steps=1, verbose=0)
    monitor = settings["monitor"]
    mode = "min" if monitor == "val_loss" else "max"
    deciding = [
        keras.callbacks.ReduceLROnPlateau(
            monitor,
            factor=settings["reduce_lr_factor"],
            patience=settings["reduce_lr_patience"],
            min_lr=settings["minimum_learning_rate"],
            mode=mode,
        ),
        keras.callbacks.EarlyStopping(monitor, patience=settings["early_stopping_patience"], mode=mode),
    ]
    clock = _Progress(len(batches.photographs), batches.batch_size, settings["epochs"])
    model.fit(
        batches,
        validation_data=held_out,
        epochs=settings["epochs"],
        initial_epoch=done,
        shuffle=False,
        verbose=0,
        callbacks=[
            batches.follow_epochs(),
            keras.callbacks.TerminateOnNaN(),
            *deciding,
            clock,
            _Keep(settings, seed, checkpoint, deciding, clock, deadline),
        ],
    )


def _best_epoch(rows: Sequence[Mapping[str, float]], monitor: str) -> int:
    """The first epoch, from 1, with the best figure."""
    pick = min if monitor == "val_loss" else max
    return int(pick(rows, key=lambda row: row[monitor])["epoch"])


def train_job(
    run: str,
    backbone: str,
    settings: Mapping[str, Any],
    on_out_of_memory: str,
    classes: Sequence[str],
    seed: int,
    training: tuple[Sequence[Path], Sequence[tuple[Path, Path]]],
    validation: tuple[Sequence[Path], Sequence[tuple[Path, Path]]],
    weights: Path | None,
    code: str,
    workers: int,
    start: float,
    minutes: float | None,
    model: Path,
    history: Path,
    class_indices: Path,
    record: Path,
    checkpoints: Path,
    devices: Sequence[str],
) -> None:
    """Train from the files of earlier stages and write the four files of a trained model.

    ``training`` and ``validation`` are each the index tables of a part and its shards as (pixels, rows). In the folder
    ``checkpoints`` a training that is cut short leaves its epochs; it goes on after them if data, settings and
    ``code``, a digest of this library, are the same. A training that is done leaves nothing there. ``minutes`` is how
    long the job, which began at ``start`` on the clock of ``time.monotonic``, may take: before they are over it ends
    with ``OutOfTimeError``, unless it is done. ``devices`` are the GPUs that it was given.

    Raises ``RetinaflowError`` if another process trains with the same ``checkpoints``, and as ``train`` does.
    """
    deadline = math.inf if minutes is None else start + 60 * minutes - MARGIN
    device.prepare(seed, settings["cpu_threads"], device.compiles(settings["jit"]))
    resolved = device.resolve(settings)
    parts = [Photographs(indices, shards, classes) for indices, shards in (training, validation)]
    decisive = {
        "run": run,
        "backbone": backbone,
        "settings": dict(settings),
        "seed": seed,
        "classes": list(classes),
        "digests": {
            "train_index": digest_files(training[0]),
            "validation_index": digest_files(validation[0]),
            "weights": None if weights is None else digest_files([weights]),
        },
        "environment": device.describe(),
        "computed": resolved,
    }
    # Shards are too large to read them for this alone; they are written once and never changed.
    written = [(file.stat().st_size, file.stat().st_mtime_ns) for part in (training, validation) for file, _ in part[1]]
    # On a cluster, the job of a `snakemake` that was killed goes on, and nothing but this tells the next run.
    with lock(checkpoints):
        checkpoint = Checkpoint(checkpoints, digest(json.dumps([decisive, code, written], sort_keys=True).encode()))
        trained, rows, decided = train(
            backbone,
            {**settings, **resolved},
            classes,
            parts[0],
            parts[1],
            weights,
            seed,
            workers,
            checkpoint,
            deadline,
            on_out_of_memory,
        )
        with whole_file(model) as part:
            # Without the compiled metrics and the optimiser, the file loads wherever Keras does, a third as large.
            keras.Model(trained.input, trained.output, name=backbone).save(part)
        write_table(history, HISTORY_COLUMNS, rows)
        write_json(class_indices, {name: level for level, name in enumerate(classes)})
        seconds = round(sum(row["seconds"] for row in rows), 1)
        # Not decisive: a training that was cut short goes on wherever there is room.
        used = list(devices) if devices and device.has_gpu() else device.names(settings["gpus"])
        computed = {**resolved, "devices": used}
        write_json(record, {**decisive, **decided, "computed": computed, "seconds": seconds})
        checkpoint.remove()
    log.info("best epoch %d: %s", decided["best_epoch"], json.dumps(rows[decided["best_epoch"] - 1]))


def class_weights(kind: str | Sequence[float], levels: np.ndarray, classes: Sequence[str]) -> dict[int, float] | None:
    """Weight of each class index in the loss, or None for equal ones.

    ``inverse`` is n / (k * n_class), so that the mean over the photographs is 1. ``levels``: int (n,).
    Raises ``RetinaflowError`` if a class has no photograph at all.
    """
    counts = np.bincount(levels, minlength=len(classes))
    if not counts.all():
        absent = ", ".join(name for name, count in zip(classes, counts, strict=True) if not count)
        raise RetinaflowError(
            f"The training part has no photograph of {absent}. Add some, or leave the class out of data.classes."
        )
    if kind == "none":
        return None
    values = len(levels) / (len(classes) * counts) if isinstance(kind, str) else kind
    return {level: float(value) for level, value in enumerate(values)}


def _trainable(model: keras.Model) -> int:
    return sum(math.prod(weight.shape) for weight in model.trainable_weights)


class _Keep(keras.callbacks.Callback):
    """Keeps each finished epoch, and takes up those that an earlier run kept."""

    def __init__(
        self,
        settings: Mapping[str, Any],
        seed: int,
        checkpoint: Checkpoint,
        deciding: Sequence[keras.callbacks.Callback],
        clock: "_Progress",
        deadline: float,
    ) -> None:
        super().__init__()
        self.settings, self.seed, self.checkpoint = settings, seed, checkpoint
        self.deciding, self.clock, self.deadline = deciding, clock, deadline

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:  # noqa: ARG002
        # What they decide follows from the epochs so far, the learning rate included.
        self.model.optimizer.learning_rate = self.settings["learning_rate"]
        for epoch, row in enumerate(self.checkpoint.rows):
            for callback in self.deciding:
                callback.on_epoch_end(epoch, dict(row))

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:  # noqa: ARG002
        # Dropout draws from a state that no weights file holds: anew each epoch, it need not be kept.
        states = [variable for variable in self.model.variables if variable.path.endswith("seed_generator_state")]
        for number, state in enumerate(states):
            state.assign(np.random.SeedSequence((self.seed, epoch, number)).generate_state(2))

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        if not (math.isfinite(logs["loss"]) and math.isfinite(logs["val_loss"])):
            raise RetinaflowError(
                f"{self.model.name}: the loss is no longer finite in epoch {epoch + 1}. Lower learning_rate (now "
                f"{self.settings['learning_rate']}) or check class_weights ({self.settings['class_weights']})."
            )
        figures = {name: float(logs[name]) for name in HISTORY_COLUMNS[1:-1]}
        rows = [*self.checkpoint.rows, {"epoch": epoch + 1, **figures, "seconds": self.clock.seconds[-1]}]
        finished = self.model.stop_training or len(rows) == self.settings["epochs"]
        self.checkpoint.save(self.model, rows, _best_epoch(rows, self.settings["monitor"]), finished)
        if not finished and time.monotonic() + (longest := max(row["seconds"] for row in rows)) > self.deadline:
            raise OutOfTimeError(
                f"{self.model.name}: the time limit would pass within epoch {epoch + 2}, as one takes {longest:.0f} s. "
                f"The {epoch + 1} epochs so far are kept: run again to go on after them, or let `retries` do it."
            )


class _Progress(keras.callbacks.Callback):
    """A bar with images/s and time left on a terminal; in the log, a line an epoch and one a half-minute."""

    def __init__(self, images: int, batch_size: int, epochs: int) -> None:
        super().__init__()
        self.images, self.batch_size, self.epochs = images, batch_size, epochs
        self.seconds: list[float] = []

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:  # noqa: ARG002
        self.start = self.said = time.monotonic()
        self.bar = tqdm(
            total=self.images,
            desc=f"epoch {epoch + 1}/{self.epochs}",
            unit="img",
            disable=not sys.stderr.isatty(),
            leave=False,
        )
        self.done = 0

    def on_train_batch_end(self, batch: int, logs: dict[str, float]) -> None:
        done = min(self.images, (batch + 1) * self.batch_size)
        self.bar.update(done - self.done)
        self.done = done
        now = time.monotonic()
        if now - self.said > 30:
            self.said = now
            rate = done / (now - self.start)
            left = (self.images - done) / rate
            log.info("%d/%d images, %.1f images/s, %.0f s left, loss %.4f", done, self.images, rate, left, logs["loss"])

    def on_test_begin(self, logs: dict[str, float] | None = None) -> None:  # noqa: ARG002
        self.rate = self.images / (time.monotonic() - self.start)

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        self.bar.close()
        self.seconds.append(round(time.monotonic() - self.start, 2))
        left = (self.epochs - epoch - 1) * sum(self.seconds) / len(self.seconds)
        shown = " ".join(f"{name} {value:.4g}" for name, value in logs.items())
        log.info("epoch %d/%d: %.1f images/s, at most %.0f s left: %s", epoch + 1, self.epochs, self.rate, left, shown)
