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

from retinaflow import device
from retinaflow.errors import RetinaflowError
from retinaflow.files import digest_files, whole_file, write_json
from retinaflow.loader import Batches, Photographs
from retinaflow.model import build, compile_model
from retinaflow.tables import write_table

log = logging.getLogger(__name__)

FIGURES = ("loss", "accuracy", "quadratic_weighted_kappa")
HISTORY_COLUMNS = ("epoch", *FIGURES, *(f"val_{name}" for name in FIGURES), "learning_rate", "seconds")


def train(
    backbone: str,
    settings: Mapping[str, Any],
    classes: Sequence[str],
    training: Photographs,
    validation: Photographs,
    weights: Path | None,
    seed: int,
    threads: int,
    checkpoint: Path,
) -> tuple[keras.Model, list[dict[str, float]], dict[str, Any]]:
    """Fine-tune ``backbone`` as its ``train`` ``settings`` say; returns the model, its history and what was decided.

    The model holds the weights of the epoch with the best ``monitor``; they pass through ``checkpoint``, a
    ``.weights.h5`` file that is removed at the end. The history has a row an epoch with ``HISTORY_COLUMNS``. The third
    value is for ``run.json``: class weights, channel statistics, best epoch, parameters.

    Raises ``RetinaflowError`` if a class has no training photograph, the weights do not fit or the loss is no longer
    finite.
    """
    device.prepare(seed, threads)
    statistics = None
    if settings["normalisation"] == "dataset":
        mean, deviation = training.channel_statistics()
        statistics = (mean.tolist(), deviation.tolist())
    balance = class_weights(settings["class_weights"], training.levels, classes)
    model = build(backbone, settings, len(classes), weights, statistics)
    compile_model(model, settings["learning_rate"])
    log.info("%s: %s parameters, %s trainable", backbone, f"{model.count_params():,}", f"{_trainable(model):,}")
    monitor = settings["monitor"]
    mode = "min" if monitor == "val_loss" else "max"
    clock = _Progress(len(training), settings["batch_size"], settings["epochs"])
    checkpoint.parent.mkdir(parents=True, exist_ok=True)
    checkpoint.unlink(missing_ok=True)
    batches = Batches(training, settings["batch_size"], threads, seed, settings["augment"])
    held_out = Batches(validation, settings["batch_size"], threads)
    # TensorFlow traces a step again if variables were made in it: those of optimiser and metrics, if not beforehand.
    model.optimizer.build(model.trainable_variables)
    model.evaluate(held_out, steps=1, verbose=0)
    history = model.fit(
        batches,
        validation_data=held_out,
        epochs=settings["epochs"],
        class_weight=balance,
        shuffle=False,
        verbose=0,
        callbacks=[
            batches.follow_epochs(),
            keras.callbacks.TerminateOnNaN(),
            keras.callbacks.ModelCheckpoint(
                checkpoint, monitor=monitor, mode=mode, save_best_only=True, save_weights_only=True
            ),
            keras.callbacks.ReduceLROnPlateau(
                monitor,
                factor=settings["reduce_lr_factor"],
                patience=settings["reduce_lr_patience"],
                min_lr=settings["minimum_learning_rate"],
                mode=mode,
            ),
            keras.callbacks.EarlyStopping(monitor, patience=settings["early_stopping_patience"], mode=mode),
            clock,
        ],
    ).history
    losses = zip(history["loss"], history["val_loss"], strict=True)
    diverged = [epoch for epoch, both in enumerate(losses, start=1) if not all(map(math.isfinite, both))]
    if diverged:
        checkpoint.unlink(missing_ok=True)
        raise RetinaflowError(
            f"{backbone}: the loss is no longer finite in epoch {diverged[0]}. "
            f"Lower learning_rate (now {settings['learning_rate']}) or check class_weights ({balance})."
        )
    model.load_weights(checkpoint)
    checkpoint.unlink()
    rows = [
        {"epoch": epoch + 1, **{name: history[name][epoch] for name in HISTORY_COLUMNS[1:-1]}, "seconds": seconds}
        for epoch, seconds in enumerate(clock.seconds)
    ]
    pick = min if mode == "min" else max
    decided = {
        "class_weights": None if balance is None else {classes[level]: weight for level, weight in balance.items()},
        "channel_statistics": statistics,
        "epochs_run": len(rows),
        "best_epoch": pick(rows, key=lambda row: row[monitor])["epoch"],
        "parameters": model.count_params(),
        "trainable_parameters": _trainable(model),
        "photographs": {"train": len(training), "validation": len(validation)},
    }
    return model, rows, decided


def train_job(
    run: str,
    backbone: str,
    settings: Mapping[str, Any],
    classes: Sequence[str],
    seed: int,
    training: tuple[Sequence[Path], Sequence[tuple[Path, Path]]],
    validation: tuple[Sequence[Path], Sequence[tuple[Path, Path]]],
    weights: Path | None,
    threads: int,
    model: Path,
    history: Path,
    class_indices: Path,
    record: Path,
    checkpoint: Path,
) -> None:
    """Train from the files of earlier stages and write the four files of a trained model.

    ``training`` and ``validation`` are each the index tables of a part and its shards as (pixels, rows).
    """
    start = time.monotonic()
    parts = [Photographs(indices, shards, classes) for indices, shards in (training, validation)]
    trained, rows, decided = train(backbone, settings, classes, parts[0], parts[1], weights, seed, threads, checkpoint)
    with whole_file(model) as part:
        # Without the compiled metrics and the optimiser, the file loads wherever Keras does and is a third of the size.
        keras.Model(trained.input, trained.output, name=backbone).save(part)
    write_table(history, HISTORY_COLUMNS, rows)
    write_json(class_indices, {name: level for level, name in enumerate(classes)})
    write_json(
        record,
        {
            "run": run,
            "backbone": backbone,
            "settings": dict(settings),
            "seed": seed,
            "threads": threads,
            "classes": list(classes),
            **decided,
            "digests": {
                "train_index": digest_files(training[0]),
                "validation_index": digest_files(validation[0]),
                "weights": None if weights is None else digest_files([weights]),
            },
            "environment": device.describe(),
            "seconds": round(time.monotonic() - start, 1),
        },
    )
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
