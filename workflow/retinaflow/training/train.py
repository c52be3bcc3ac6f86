"""Fine-tune one backbone on the photographs of the training part and keep the epoch that validates best."""

import json
import logging
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import keras
import numpy as np

from retinaflow.errors import RetinaflowError
from retinaflow.networks import devices, objectives
from retinaflow.networks.building import build, compile_model, in_float32
from retinaflow.networks.optimizers import AveragedWeights, build_optimizer
from retinaflow.preprocessing.batches import Batches, Images
from retinaflow.settings.train import TrainingSettings
from retinaflow.storage.files import digest, digest_files, whole_file, write_json
from retinaflow.storage.lock import lock
from retinaflow.storage.tables import write_table
from retinaflow.training import schedule
from retinaflow.training.checkpoints import Checkpoint
from retinaflow.training.class_weights import class_weights
from retinaflow.training.head import features, split, standardise, views_of
from retinaflow.training.pace import Pace
from retinaflow.training.schedule import best_epoch, monitored

log = logging.getLogger(__name__)
# Who shows the progress of jobs has a handler there; nobody has to.
progress = logging.getLogger("retinaflow.progress")

FIGURES = ("loss", "accuracy", "quadratic_weighted_kappa")
HISTORY_COLUMNS = ("epoch", "phase", *FIGURES, *(f"val_{name}" for name in FIGURES), "learning_rate", "seconds")
MARGIN = 120  # seconds: for what comes before the first epoch and after the last one, and for epochs that take longer


class OutOfTimeError(RetinaflowError):
    """The time limit of the job would pass within the next epoch; what is done so far is kept."""


class Tracker(Protocol):
    """What is told of a training while it goes on."""

    def start(self, key: str, about: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> None:
        """A training that ``key`` tells from others, described by ``about``, goes on after its epochs ``rows``.

        Without any, it begins, or begins anew.
        """

    def epoch(self, row: Mapping[str, Any]) -> None:
        """An epoch is kept."""

    def end(self, files: Sequence[Path]) -> None:
        """The training is done and has left ``files``."""

    def fail(self) -> None:
        """The training has ended in an error."""


def train(
    backbone: str,
    settings: Mapping[str, Any],
    classes: Sequence[str],
    training: Images,
    validation: Images,
    weights: Path | None,
    seed: int,
    workers: int,
    checkpoint: Checkpoint,
    deadline: float = math.inf,
    on_out_of_memory: str = "error",
) -> tuple[keras.Model, list[dict[str, Any]], dict[str, Any]]:
    """Fine-tune ``backbone`` as its ``train`` ``settings`` say; returns the model, its history and what was decided.

    ``precision`` and ``jit`` of ``settings`` are as ``device.resolve`` gives them. With ``head_epochs``, the head is
    trained alone at first, and the whole network goes on from its best epoch. The model holds the weights of the epoch
    with the best ``monitor``, and computes in float32 on one device, whatever it was trained in and on. The history has
    a row an epoch with ``HISTORY_COLUMNS``, those of the head first. The third value is for ``training_run.json``:
    class weights
    and channel statistics, batch size, best epoch and its figure, parameters.

    Each finished epoch is kept in ``checkpoint``, and training goes on after the last one there, to the same result as
    if it had never been cut short. ``workers`` threads read batches ahead. Where the memory of the device does not
    suffice and ``on_out_of_memory`` is ``halve``, training starts anew with batches of half the size.

    Raises ``RetinaflowError`` if a class has no training photograph, the weights do not fit, the loss is no longer
    finite or memory does not suffice; ``OutOfTimeError`` where ``deadline``, on the clock of ``time.monotonic``, would
    pass before another epoch has ended.
    """
    typed = TrainingSettings.model_construct(**{**settings, "backbone": backbone})
    balance = class_weights(settings["class_weights"], training.grades, classes)
    factors = None if balance is None else np.array(list(balance.values()), np.float32)[training.grades]
    frequencies = np.bincount(training.grades, factors, len(classes))
    statistics = None
    if settings["normalisation"] == "dataset":
        mean, deviation = training.channel_statistics()
        statistics = (mean.tolist(), deviation.tolist())
    if not checkpoint.batch_size:
        checkpoint.restart(settings["batch_size"])

    def targets_of(photographs: Images, smoothing: float = 0.0) -> np.ndarray:
        return objectives.targets(settings["objective"], photographs.grades, len(classes), smoothing)

    def attempt(batch_size: int) -> keras.Model:
        devices.prepare(seed, settings["cpu_threads"], settings["jit"])
        batches = Batches(
            training,
            batch_size,
            threads=workers,
            seed=seed,
            augmentation=settings["augment"],
            devices=settings["gpus"],
            targets=targets_of(training, settings["label_smoothing"]),
            weights=factors,
            balance=(settings["balanced_sampling"], settings["balanced_epochs"]),
        )
        # Neither smoothed nor weighted: what is watched stays comparable.
        held_out = Batches(
            validation, batch_size, threads=workers, devices=settings["gpus"], targets=targets_of(validation)
        )
        with devices.parallel(settings["gpus"]):
            model = build(
                typed,
                len(classes),
                weights=weights,
                statistics=statistics,
                precision=settings["precision"],
                frequencies=frequencies,
            )
            devices.adopt(model)
            pace = Pace(settings["head_epochs"], settings["epochs"], len(training), len(validation))
            log.info("%s: %s parameters, %s trainable", backbone, f"{model.count_params():,}", f"{_trainable(model):,}")
            if settings["head_epochs"]:
                if len(checkpoint.rows) < settings["head_epochs"]:
                    _fit_head(model, settings, seed, batches, held_out, len(classes), checkpoint, deadline, pace)
                checkpoint.drop_arrays()
            _fit(model, settings, seed, batches, held_out, len(classes), checkpoint, deadline, pace)
        return model

    while True:
        batch_size = checkpoint.batch_size
        try:
            model = attempt(batch_size)
            break
        except Exception as error:
            if not devices.out_of_memory(error):
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
    best = best_epoch(rows, settings)
    checkpoint.load(_alone(model), best)
    trainable = _trainable(model)
    if settings["precision"] != "float32" or settings["gpus"] > 1:
        model = in_float32(model, typed, len(classes), statistics)
    decided = {
        "class_weights": None if balance is None else {classes[level]: weight for level, weight in balance.items()},
        "channel_statistics": statistics,
        "batch_size": batch_size,
        "epochs_run": len(rows),
        "best_epoch": best,
        "monitored": monitored(rows, settings)[best - 1],
        "parameters": model.count_params(),
        "trainable_parameters": trainable,
        "photographs": {"train": len(training), "validation": len(validation)},
    }
    return model, rows, decided


def _fit_head(
    model: keras.Model,
    settings: Mapping[str, Any],
    seed: int,
    batches: Batches,
    held_out: Batches,
    classes: int,
    checkpoint: Checkpoint,
    deadline: float,
    pace: Pace,
) -> None:
    """Train the head of ``model`` alone, from where ``checkpoint`` stands."""

    def in_time(what: str, seconds: float) -> None:
        _check_time(model.name, what, seconds, "The features so far are kept", deadline)

    start = time.monotonic()
    backbone, head = split(model)
    shown = features(backbone, batches, held_out, views_of(settings), checkpoint, in_time, pace.passed)
    standardise(model, shown[0])
    _fit(model, settings, seed, *shown, classes, checkpoint, deadline, pace, head, time.monotonic() - start)


def _fit(
    model: keras.Model,
    settings: Mapping[str, Any],
    seed: int,
    batches: Batches,
    held_out: Batches,
    classes: int,
    checkpoint: Checkpoint,
    deadline: float,
    pace: Pace,
    head: keras.Model | None = None,
    before: float = 0.0,
) -> None:
    """Train ``model``, or its ``head`` alone, from where ``checkpoint`` stands to the end of that phase.

    ``before`` are the seconds that it took to prepare the phase.
    """
    if checkpoint.finished:
        return
    trained = model if head is None else head
    first = settings["head_epochs"] if head is None else 0
    last = first + settings["epochs"] if head is None else settings["head_epochs"]
    done = len(checkpoint.rows)
    if first == done > 0:
        checkpoint.load(_alone(model), best_epoch(checkpoint.rows, settings))
    # TensorFlow traces a step again if variables were made in it: those of optimiser and metrics, if not beforehand.
    # With JAX and torch, Keras makes those of metrics by a look at a first batch, which mixes up the order of the next.
    typed = TrainingSettings.model_construct(**settings)
    optimizer = build_optimizer(typed, trained)
    for one in {model, trained}:  # the checkpoint holds the whole model with the optimiser of the head
        compile_model(one, typed, classes, jit=settings["jit"], optimizer=optimizer)
    if done > first:
        checkpoint.load(model, done)
    if done:
        log.info("going on after epoch %d", done)
    trained.evaluate(held_out, steps=1, verbose=0)
    pace.resume(checkpoint.rows)
    clock = _Progress(len(batches.images), batches.batch_size, pace, head is not None)
    keep = _Keep(model, settings, seed, checkpoint, last, clock, before, deadline)
    trained.fit(
        batches,
        validation_data=held_out,
        epochs=last,
        initial_epoch=done,
        shuffle=False,
        verbose=0,
        callbacks=[
            batches.follow_epochs(),
            keras.callbacks.TerminateOnNaN(),
            *([AveragedWeights(averaged=done > first)] if settings["ema"] else []),
            clock,
            keep,
        ],
    )


def _alone(model: keras.Model) -> keras.Model:
    """``model`` without its optimiser, to be given weights that were kept with another one."""
    return keras.Model(model.input, model.output)


def _deciding(settings: Mapping[str, Any]) -> list[keras.callbacks.Callback]:
    """What lowers the learning rate and stops the training, by a figure that is called ``monitored``."""
    end = keras.callbacks.EarlyStopping(
        "monitored", patience=settings["early_stopping_patience"], mode=schedule.mode(settings)
    )
    if settings["schedule"] != "plateau":
        return [end]
    plateau = keras.callbacks.ReduceLROnPlateau(
        "monitored",
        factor=settings["reduce_lr_factor"],
        patience=settings["reduce_lr_patience"],
        min_lr=settings["minimum_learning_rate"],
        mode=schedule.mode(settings),
    )
    return [plateau, end]


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
    grade_names_file: Path,
    record: Path,
    checkpoints: Path,
    gpus: Sequence[str],
    trackers: Sequence[Tracker] = (),
) -> None:
    """Train from the files of earlier stages and write the four files of a trained model.

    ``training`` and ``validation`` are each the index tables of a part and its shards as (pixels, rows). In the folder
    ``checkpoints`` a training that is cut short leaves its epochs; it goes on after them if data, settings and
    ``code``, a digest of this library, are the same. A training that is done leaves nothing there. ``minutes`` is how
    long the job, which began at ``start`` on the clock of ``time.monotonic``, may take: before they are over it ends
    with ``OutOfTimeError``, unless it is done. ``gpus`` are the GPUs that it was given. ``trackers`` are
    told of each epoch.

    Raises ``RetinaflowError`` if another process trains with the same ``checkpoints``, and as ``train`` does.
    """
    deadline = math.inf if minutes is None else start + 60 * minutes - MARGIN
    devices.prepare(seed, settings["cpu_threads"], devices.compiles(settings["jit"]))
    resolved = devices.resolve(TrainingSettings.model_construct(**settings))
    parts = [Images(indices, shards, classes) for indices, shards in (training, validation)]
    decisive = {
        "training_run": run,
        "backbone": backbone,
        "settings": dict(settings),
        "seed": seed,
        "grade_names": list(classes),
        "digests": {
            "train_index": digest_files(training[0]),
            "validation_index": digest_files(validation[0]),
            "weights": None if weights is None else digest_files([weights]),
        },
        "environment": devices.describe(),
        "computed": resolved,
    }
    # Shards are too large to read them for this alone; they are written once and never changed.
    written = [(file.stat().st_size, file.stat().st_mtime_ns) for part in (training, validation) for file, _ in part[1]]
    # On a cluster, the job of a `snakemake` that was killed goes on, and nothing but this tells the next run.
    with lock(checkpoints):
        key = digest(json.dumps([decisive, code, written], sort_keys=True).encode())
        checkpoint = Checkpoint(checkpoints, key)

        def follow(rows: Sequence[Mapping[str, Any]]) -> None:
            for tracker in trackers:
                if rows:
                    tracker.epoch(rows[-1])
                else:
                    tracker.start(key, decisive, [])

        if checkpoint.batch_size:
            for tracker in trackers:
                tracker.start(key, decisive, checkpoint.rows)
        checkpoint.follow = follow
        try:
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
        except OutOfTimeError:  # it goes on
            raise
        except Exception:
            for tracker in trackers:
                tracker.fail()
            raise
        with whole_file(model) as part:
            # Without the compiled metrics and the optimiser, the file loads wherever Keras does, a third as large.
            keras.Model(trained.input, trained.output, name=backbone).save(part)
        write_table(history, HISTORY_COLUMNS, rows)
        write_json(grade_names_file, {name: level for level, name in enumerate(classes)})
        seconds = round(sum(row["seconds"] for row in rows), 1)
        # Not decisive: a training that was cut short goes on wherever there is room.
        used = list(gpus) if gpus and devices.has_gpu() else devices.names(settings["gpus"])
        computed = {**resolved, "devices": used}
        write_json(record, {**decisive, **decided, "computed": computed, "seconds": seconds})
        for tracker in trackers:
            tracker.end([history, record])
        checkpoint.remove()
    best = rows[decided["best_epoch"] - 1]
    log.info("best epoch %d: %s", decided["best_epoch"], json.dumps(best))
    kappa = best["val_quadratic_weighted_kappa"]
    result = f"best epoch {decided['best_epoch']} of {len(rows)}, validation kappa {kappa:.3f}"
    progress.debug("%s", result, extra={"progress": {"result": result}})


def _trainable(model: keras.Model) -> int:
    return sum(math.prod(weight.shape) for weight in model.trainable_weights)


class _Keep(keras.callbacks.Callback):
    """Sees to the learning rate, ends the training, keeps each epoch, and takes up those that an earlier run kept."""

    def __init__(
        self,
        whole: keras.Model,
        settings: Mapping[str, Any],
        seed: int,
        checkpoint: Checkpoint,
        last: int,
        clock: "_Progress",
        before: float,
        deadline: float,
    ) -> None:
        super().__init__()
        self.whole, self.settings, self.seed, self.checkpoint, self.last = whole, settings, seed, checkpoint, last
        self.clock, self.before, self.deadline = clock, before, deadline
        # The rate of the head stays, and it has all of its epochs: they take little time.
        self.deciding = [] if last == settings["head_epochs"] else _deciding(settings)

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:  # noqa: ARG002
        # What they decide follows from the epochs so far, the learning rate included.
        for callback in self.deciding:
            callback.set_model(self.model)
            callback.on_train_begin()
        for epoch in range(len(self.checkpoint.rows)):
            self._set_rate(epoch)
            self._decide(self.checkpoint.rows[: epoch + 1])

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:  # noqa: ARG002
        self._set_rate(epoch)
        self.rate = float(keras.ops.convert_to_numpy(self.model.optimizer.learning_rate))
        # Dropout draws from a state that no weights file holds: anew each epoch, it need not be kept.
        states = [variable for variable in self.model.variables if variable.path.endswith("seed_generator_state")]
        for number, state in enumerate(states):
            state.assign(np.random.SeedSequence((self.seed, epoch, number)).generate_state(2))

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        if not (math.isfinite(logs["loss"]) and math.isfinite(logs["val_loss"])):
            key = "head_learning_rate" if epoch < self.settings["head_epochs"] else "learning_rate"
            raise RetinaflowError(
                f"{self.whole.name}: the loss is no longer finite in epoch {epoch + 1}. Lower {key} (now "
                f"{self.settings[key]}) or check class_weights ({self.settings['class_weights']})."
            )
        row = {
            "epoch": epoch + 1,
            "phase": schedule.phase(epoch, self.settings),
            **{name: float(logs[name]) for name in HISTORY_COLUMNS[2:-2]},
            "learning_rate": self.rate,
            "seconds": round(self.clock.seconds[-1] + self.before, 2),
        }
        self.before = 0.0
        rows = [*self.checkpoint.rows, row]
        self._decide(rows)
        over = self.model.stop_training or len(rows) == self.last
        finished = over and row["phase"] == schedule.NETWORK
        self.checkpoint.save(self.whole, rows, best_epoch(rows, self.settings), finished)
        if not over:
            kept = f"The {epoch + 1} epochs so far are kept"
            _check_time(self.whole.name, f"epoch {epoch + 2}", max(self.clock.seconds), kept, self.deadline)

    def _set_rate(self, epoch: int) -> None:
        rate = schedule.learning_rate(epoch, self.settings)
        if rate is not None:
            self.model.optimizer.learning_rate = rate

    def _decide(self, rows: Sequence[Mapping[str, Any]]) -> None:
        # Not by the head, nor while the rate still rises.
        counts = len(rows) > self.settings["head_epochs"] + self.settings["warmup_epochs"]
        for callback in self.deciding if counts else []:
            callback.on_epoch_end(len(rows) - 1, {"monitored": monitored(rows, self.settings)[-1]})


def _check_time(name: str, what: str, seconds: float, kept: str, deadline: float) -> None:
    if time.monotonic() + seconds > deadline:
        raise OutOfTimeError(
            f"{name}: the time limit would pass within {what}, as one takes {seconds:.0f} s. {kept}: run again to go "
            "on after them, or let `retries` do it."
        )


class _Progress(keras.callbacks.Callback):
    """Report the step and the time left for the screen; in the log, a line an epoch and one a half-minute."""

    def __init__(self, images: int, batch_size: int, pace: Pace, head: bool) -> None:
        super().__init__()
        self.images, self.batch_size, self.pace = images, batch_size, pace
        self.phase = schedule.HEAD if head else schedule.NETWORK
        self.epochs = sum(pace.total.values())
        self.seconds: list[float] = []

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:  # noqa: ARG002
        self.start = self.said = time.monotonic()
        self.epoch = epoch
        self.pace.begin()
        self._report(0)

    def on_train_batch_end(self, batch: int, logs: dict[str, float]) -> None:
        done = min(self.images, (batch + 1) * self.batch_size)
        self.pace.batch(done)
        self._report(done)
        now = time.monotonic()
        if now - self.said > 30:
            self.said = now
            rate = done / (now - self.start)
            left = (self.images - done) / rate
            log.info("%d/%d images, %.1f images/s, %.0f s left, loss %.4f", done, self.images, rate, left, logs["loss"])

    def on_test_begin(self, logs: dict[str, float] | None = None) -> None:  # noqa: ARG002
        self.rate = self.images / (time.monotonic() - self.start)

    def on_epoch_end(self, epoch: int, logs: dict[str, float]) -> None:
        self.seconds.append(round(time.monotonic() - self.start, 2))
        self.pace.end(self.phase, self.seconds[-1])
        left = self.pace.left()
        time_left = "time left unknown" if left is None else f"at most {left:.0f} s left"
        shown = " ".join(f"{name} {value:.4g}" for name, value in logs.items())
        log.info("epoch %d/%d: %.1f images/s, %s: %s", epoch + 1, self.epochs, self.rate, time_left, shown)

    def _report(self, done: int) -> None:
        part = ", head" if self.phase == schedule.HEAD else ""
        state = {"step": f"epoch {self.epoch + 1}/{self.epochs}{part}", "left": self.pace.left(done)}
        progress.debug("%s", state["step"], extra={"progress": state})
