"""Fine-tuning of one network on the training split, with the best epoch on the validation split."""

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np

from retinaflow.errors import RetinaflowError
from retinaflow.networks import devices, objectives
from retinaflow.networks.building import Statistics, build, compile_model, in_float32
from retinaflow.networks.earlier_model import earlier_model
from retinaflow.networks.earlier_weights import take_weights
from retinaflow.networks.extractor_files import extractor_file
from retinaflow.networks.optimizers import AveragedWeights, build_optimizer
from retinaflow.preprocessing.batches import Batches, Images
from retinaflow.settings.train import TrainingSettings
from retinaflow.training.callbacks import DropoutSeeds, FiniteLoss, LearningRate, Progress, SaveEpochs, check_time
from retinaflow.training.checkpoints import Checkpoint
from retinaflow.training.class_weights import class_weights
from retinaflow.training.head import feature_batches, split, standardise, views_of
from retinaflow.training.history import best_epoch, monitored
from retinaflow.training.pace import Pace
from retinaflow.training.shared import Shared
from retinaflow.training.soft_labels import soft_targets

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingData:
    """Images of a training run.

    Attributes:
        training: Images to train on.
        validation: Images that select the best epoch.
        grade_names: Names of the grades.
        reader_grades: Grades of the training images by each reader, as for ``soft_targets``. Without them,
            images are trained with their own grades.
    """

    training: Images
    validation: Images
    grade_names: Sequence[str]
    reader_grades: np.ndarray | None = None


@dataclass(frozen=True)
class Fit:
    """Everything that stays the same while one network is trained.

    Attributes:
        settings: Settings of the model. ``precision`` and ``jit`` are resolved.
        data: Images of the training run.
        checkpoint: Checkpoint of the training run.
        seed: Seed of the training run.
        workers: Number of threads that read batches ahead.
        deadline: Latest end on the clock of ``time.monotonic``.
        weights: Weights file of the backbone, Keras file of an earlier model, or None for random weights.
        class_weights: Weight of each grade in the loss, or None for equal weights.
        statistics: Mean and deviation of each channel, for ``normalisation: dataset``.
        shared: Steps that other models have computed.
    """

    settings: TrainingSettings
    data: TrainingData
    checkpoint: Checkpoint
    seed: int
    workers: int
    deadline: float = math.inf
    weights: Path | None = None
    class_weights: dict[int, float] | None = None
    statistics: Statistics | None = None
    shared: Shared | None = None

    @property
    def grade_count(self) -> int:
        """Number of grades."""
        return len(self.data.grade_names)

    @property
    def image_weights(self) -> np.ndarray | None:
        """Weight of each training image in the loss, float32 (n,), or None for equal weights."""
        if self.class_weights is None:
            return None
        return np.array(list(self.class_weights.values()), np.float32)[self.data.training.grades]

    def batches(self, batch_size: int) -> tuple[Batches, Batches]:
        """Return batches of training and of validation images."""
        settings = self.settings
        training = Batches(
            self.data.training,
            batch_size,
            threads=self.workers,
            seed=self.seed,
            augment=settings.augment,
            devices=settings.gpus,
            targets=self._training_targets(),
            weights=self.image_weights,
            balance=(settings.balanced_sampling, settings.balanced_epochs),
        )
        # Validation is neither smoothed nor weighted, so that the monitored metric can be compared.
        validation = Batches(
            self.data.validation,
            batch_size,
            threads=self.workers,
            devices=settings.gpus,
            targets=self._targets(self.data.validation),
        )
        return training, validation

    def _training_targets(self) -> np.ndarray:
        smoothing, by_reader = self.settings.label_smoothing, self.data.reader_grades
        if by_reader is None:
            return self._targets(self.data.training, smoothing)
        grades = self.data.training.grades
        return soft_targets(self.settings.objective, grades, by_reader, self.grade_count, smoothing)

    def _targets(self, images: Images, smoothing: float = 0.0) -> np.ndarray:
        return objectives.targets(self.settings.objective, images.grades, self.grade_count, smoothing)


def train(
    settings: TrainingSettings,
    data: TrainingData,
    *,
    checkpoint: Checkpoint,
    seed: int,
    weights: Path | None = None,
    workers: int = 1,
    deadline: float = math.inf,
    shared: Shared | None = None,
) -> tuple[keras.Model, list[dict[str, Any]], dict[str, Any]]:
    """Fine-tune a network.

    With ``head_epochs``, the head is trained alone first. The whole network then starts from the best epoch of the
    head. Each epoch is saved in ``checkpoint``. Training resumes after the last epoch there, with the same result as
    without an interruption. If the memory of the device is too small and ``on_out_of_memory`` is ``halve``, training
    starts again with half the batch size.

    Args:
        settings: Settings of the model. ``devices.resolve`` has resolved ``precision`` and ``jit``.
        data: Images of the training run.
        checkpoint: Checkpoint of the training run.
        seed: Seed of the training run.
        weights: Weights file of the backbone, Keras file of an earlier model, or None for random weights.
        workers: Number of threads that read batches ahead.
        deadline: Latest end on the clock of ``time.monotonic``.
        shared: Steps that other models have computed.

    Returns:
        The network with the weights of the best epoch by ``monitor``, in float32 on one device. Its history, a row
        with ``HISTORY_COLUMNS`` an epoch, those of the head first. A summary for ``training_run.json``: class weights,
        channel statistics, batch size, best epoch and its monitored metric, parameters.

    Raises:
        RetinaflowError: A grade has no training image, the weights do not fit, the loss is not finite, or the memory
            is too small.
        OutOfTimeError: ``deadline`` would pass before the end of the next epoch.
    """
    balance = class_weights(settings.class_weights, data.training.grades, data.grade_names)
    fit = Fit(
        settings=settings,
        data=data,
        checkpoint=checkpoint,
        seed=seed,
        workers=workers,
        deadline=deadline,
        weights=weights,
        class_weights=balance,
        statistics=_statistics(settings, data.training),
        shared=shared,
    )
    if not checkpoint.batch_size:
        checkpoint.restart(settings.batch_size)
    model = _fit_in_memory(fit)
    best = best_epoch(checkpoint.rows, settings)
    checkpoint.load(_without_optimizer(model), best)
    summary = _summary(fit, model, best)
    if settings.precision != "float32" or settings.gpus > 1:
        model = in_float32(model, settings, fit.grade_count, fit.statistics)
    return model, checkpoint.rows, summary


def _statistics(settings: TrainingSettings, training: Images) -> Statistics | None:
    if settings.normalisation != "dataset":
        return None
    mean, deviation = training.channel_statistics()
    return mean.tolist(), deviation.tolist()


def _summary(fit: Fit, model: keras.Model, best: int) -> dict[str, Any]:
    names, weights, rows = fit.data.grade_names, fit.class_weights, fit.checkpoint.rows
    return {
        "class_weights": None if weights is None else {names[grade]: weight for grade, weight in weights.items()},
        "channel_statistics": fit.statistics,
        "batch_size": fit.checkpoint.batch_size,
        "epochs_run": len(rows),
        "best_epoch": best,
        "monitored": monitored(rows, fit.settings)[best - 1],
        "parameters": model.count_params(),
        "trainable_parameters": _trainable(model),
        "photographs": {"train": len(fit.data.training), "validation": len(fit.data.validation)},
    }


def _fit_in_memory(fit: Fit) -> keras.Model:
    """Train, with smaller batches if memory is too small and the settings allow it."""
    name, size = fit.settings.backbone, fit.settings.image_size
    while True:
        batch_size = fit.checkpoint.batch_size
        try:
            return _fit_phases(fit, batch_size)
        except Exception as error:
            if not devices.out_of_memory(error):
                raise
            half = batch_size // 2
            if fit.settings.on_out_of_memory == "error" or half == 0 or half % fit.settings.gpus:
                raise RetinaflowError(
                    f"{name}: out of memory with batches of {batch_size} images of {size} x {size} pixels. Lower "
                    f"batch_size or image_size of {name}, or set its on_out_of_memory to halve. Other programs on the "
                    "same device use memory, too."
                ) from error
        fit.checkpoint.restart(half)
        log.warning("%s: out of memory; starting again with batches of %d images", name, half)
        keras.utils.clear_session(free_memory=True)


def _fit_phases(fit: Fit, batch_size: int) -> keras.Model:
    """Build the network, train its head, then all of it."""
    settings, training = fit.settings, fit.data.training
    devices.prepare_process(fit.seed, settings.cpu_threads, bool(settings.jit))
    batches = fit.batches(batch_size)
    of_file = extractor_file(settings.backbone)
    earlier = earlier_model(fit.weights) if fit.weights and not of_file else None
    with devices.parallel(settings.gpus):
        model = build(
            settings,
            fit.grade_count,
            weights=None if earlier else fit.weights,
            statistics=fit.statistics,
            precision=settings.precision,
            frequencies=np.bincount(training.grades, fit.image_weights, fit.grade_count),
        )
        if earlier:
            take_weights(model, earlier, settings, fit.data.grade_names)
        devices.adopt(model)
        pace = Pace(settings.head_epochs, settings.epochs, len(training), len(fit.data.validation))
        parameters = f"{model.count_params():,} parameters, {_trainable(model):,} trainable"
        log.info("%s: %s", settings.backbone, parameters)
        if settings.head_epochs:
            if len(fit.checkpoint.rows) < settings.head_epochs:
                _fit_head_once(fit, model, batches, pace)
            fit.checkpoint.drop_arrays()
        _fit_phase(fit, model, batches, pace)
    return model


def _fit_head_once(fit: Fit, model: keras.Model, batches: tuple[Batches, Batches], pace: Pace) -> None:
    """Train the head of ``model``, unless another model has the same epochs of the head."""
    if fit.shared and fit.shared.take_head(fit.checkpoint):
        return
    _fit_head(fit, model, batches, pace)
    if fit.shared:
        fit.shared.keep_head(fit.checkpoint)


def _fit_head(fit: Fit, model: keras.Model, batches: tuple[Batches, Batches], pace: Pace) -> None:
    """Train the head of ``model`` alone, from the last epoch of the checkpoint."""

    def check(step: str, seconds: float) -> None:
        saved = "The features so far are saved"
        check_time(model.name, fit.deadline, step=step, seconds=seconds, saved=saved)

    start = time.monotonic()
    backbone, head = split(model)
    features = feature_batches(
        backbone,
        batches,
        views=views_of(fit.settings),
        checkpoint=fit.checkpoint,
        shared=fit.shared,
        before=check,
        after=pace.passed,
    )
    standardise(model, features[0])
    _fit_phase(fit, model, features, pace, head=head, preparation_seconds=time.monotonic() - start)


def _fit_phase(
    fit: Fit,
    model: keras.Model,
    batches: tuple[Batches, Batches],
    pace: Pace,
    *,
    head: keras.Model | None = None,
    preparation_seconds: float = 0.0,
) -> None:
    """Train from the last epoch of the checkpoint to the end of the phase.

    Args:
        fit: Settings, images and checkpoint.
        model: Whole network.
        batches: Batches of training and of validation: of images, or of features for the head.
        pace: Measured speed of each phase.
        head: Head of ``model``, to train it alone.
        preparation_seconds: Duration of the preparation of this phase.
    """
    checkpoint, settings = fit.checkpoint, fit.settings
    if checkpoint.finished:
        return
    trained = model if head is None else head
    first, count = (settings.head_epochs, settings.epochs) if head is None else (0, settings.head_epochs)
    epochs = range(first, first + count)
    done = len(checkpoint.rows)
    _prepare(fit, model, trained, epochs)
    # Make the variables of the metrics here. TensorFlow would trace the first step again. With JAX and torch, Keras
    # would make them from a first batch, which would change the order of the next.
    training, validation = batches
    trained.evaluate(validation, steps=1, verbose=0)
    pace.resume(checkpoint.rows)
    progress = Progress(len(training.images), training.batch_size, pace, is_head=head is not None)
    save = SaveEpochs(
        *(model, settings, checkpoint),
        epochs=epochs,
        epoch_seconds=progress.seconds,
        preparation_seconds=preparation_seconds,
        deadline=fit.deadline,
    )
    averaged = [AveragedWeights(averaged=done > epochs.start)] if settings.ema else []
    trained.fit(
        training,
        validation_data=validation,
        epochs=epochs.stop,
        initial_epoch=done,
        shuffle=False,
        verbose=0,
        callbacks=[
            training.follow_epochs(),
            keras.callbacks.TerminateOnNaN(),
            *averaged,
            progress,
            LearningRate(settings, checkpoint),
            DropoutSeeds(fit.seed),
            FiniteLoss(settings),
            save,
        ],
    )


def _prepare(fit: Fit, model: keras.Model, trained: keras.Model, epochs: range) -> None:
    """Compile ``model`` and ``trained``, itself or its head, and load the last epoch before this phase resumes."""
    checkpoint, settings = fit.checkpoint, fit.settings
    done = len(checkpoint.rows)
    if epochs.start == done > 0:
        checkpoint.load(_without_optimizer(model), best_epoch(checkpoint.rows, settings))
    # TensorFlow traces a step again if variables are made within it: those of the optimizer are made first.
    optimizer = build_optimizer(settings, trained)
    for each in {model, trained}:  # the checkpoint holds the whole network with the optimizer of the head
        compile_model(each, settings, fit.grade_count, jit=bool(settings.jit), optimizer=optimizer)
    if done > epochs.start:
        checkpoint.load(model, done)
    if done:
        log.info("resuming after epoch %d", done)


def _without_optimizer(model: keras.Model) -> keras.Model:
    """``model`` without its optimizer, to load weights that were saved with another one."""
    return keras.Model(model.input, model.output)


def _trainable(model: keras.Model) -> int:
    return sum(math.prod(weight.shape) for weight in model.trainable_weights)
