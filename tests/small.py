"""A network and images that train within a second, and a program that trains them.

    python tests/small.py DEVICES PARTS '[[FOLDER, SETTINGS], ...]'

It trains on virtual CPU devices. SETTINGS are those that differ from the constant ``SETTINGS``.
"""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from common import Part
from retinaflow.networks.backbones import BACKBONES, Backbone
from retinaflow.settings.augment import AugmentSettings
from retinaflow.settings.train import TrainingSettings
from retinaflow.training.callbacks import OutOfTimeError
from retinaflow.training.job import SplitFiles, TrainedFiles, TrainingJob, train_job

THREE = ["none", "mild", "severe"]
SETTINGS = {
    "image_size": 32,
    "normalisation": "imagenet",
    "freeze_layers": 0,
    "feature_layers": [],
    "batch_norm": "train",
    "objective": "softmax",
    "regression_loss": "mse",
    "label_smoothing": 0,
    "dense_units": [16, 8],
    "dropout": 0.1,
    "class_weights": "inverse",
    "balanced_sampling": 0,
    "balanced_epochs": 0,
    "batch_size": 8,
    "gpus": 1,
    "precision": "float32",
    "jit": "auto",
    "cpu_threads": 1,
    "head_epochs": 0,
    "head_learning_rate": 0.01,
    "epochs": 3,
    "learning_rate": 0.01,
    "warmup_epochs": 0,
    "schedule": "plateau",
    "layer_decay": 1,
    "optimizer": "adam",
    "weight_decay": 0,
    "clip_norm": 0,
    "ema": 0,
    "monitor": "val_loss",
    "monitor_smoothing": 1,
    "reduce_lr_factor": 0.5,
    "reduce_lr_patience": 3,
    "minimum_learning_rate": 1e-6,
    "early_stopping_patience": 10,
    "augment": AugmentSettings().model_dump(),
}


def typed(backbone: str = "Tiny", **changes: Any) -> TrainingSettings:
    """Settings of a training run of the small network."""
    return TrainingSettings.model_validate({**SETTINGS, "backbone": backbone, **changes})


# Augmentation that changes no pixel.
STILL = AugmentSettings(flip_horizontal=False, flip_vertical=False, shift=0, zoom=[1, 1], rotation=0).model_dump()
OUTPUTS = ("model.keras", "history.csv", "grade_names.json", "training_run.json", "trained_on.json")


def tiny(include_top: bool, weights: str | None, input_shape: tuple[int, int, int]) -> keras.Model:
    """Return a network that Keras compiles in a second. The smallest registered one needs twenty."""
    assert not include_top
    assert weights is None
    pixels = keras.Input(input_shape)
    x = keras.layers.Conv2D(16, 5, strides=4, use_bias=False, name="first")(pixels)
    x = keras.layers.ReLU(name="last")(keras.layers.BatchNormalization(momentum=0.5)(x))
    return keras.Model(pixels, x, name="tiny")


def register(patch: pytest.MonkeyPatch) -> None:
    """Register the network as Tiny."""
    patch.setitem(BACKBONES, "Tiny", Backbone("Tiny", "tf"))
    patch.setattr(keras.applications, "Tiny", tiny, raising=False)


def planted(number: int, seed: int = 0) -> tuple[np.ndarray, list[int]]:
    """Return images of three grades with different frequencies. Each grade has its own brightness."""
    rng = np.random.default_rng(seed)
    grades = [(0, 1, 2, 0, 1, 0)[place % 6] for place in range(number)]
    pixels = 20 + 80 * np.array(grades)[:, None, None, None] + rng.integers(0, 40, (number, 32, 32, 3))
    return pixels.astype(np.uint8), grades


def small_job(folder: Path, parts: tuple[Part, Part], settings: TrainingSettings, **fields: Any) -> TrainingJob:
    """Training job of the small network in ``folder``, with checkpoints beside it."""
    training, validation = (SplitFiles(*part) for part in parts)
    described = {
        "training_run": "Tiny",
        "settings": settings,
        "grade_names": THREE,
        "seed": 1,
        "outputs": TrainedFiles(*(folder / name for name in OUTPUTS)),
        "checkpoints": folder.with_name(f"{folder.name}-checkpoints"),
    }
    return TrainingJob(training=training, validation=validation, **{**described, **fields})


def train_small(folder: Path, parts: tuple[Part, Part], minutes: float | None = None, **changes: Any) -> None:
    """Train as the workflow does, in ``folder``, with checkpoints beside it."""
    try:
        train_job(small_job(folder, parts, typed(**changes), minutes=minutes, start=time.monotonic()))
    except OutOfTimeError:
        train_small(folder, parts, minutes, **changes)


def main() -> None:
    """Make the devices and train."""
    devices, parts, jobs = int(sys.argv[1]), json.loads(sys.argv[2]), json.loads(sys.argv[3])
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        cpu = tf.config.list_physical_devices("CPU")[0]
        tf.config.set_logical_device_configuration(cpu, [tf.config.LogicalDeviceConfiguration()] * devices)
    else:
        os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={devices}"
    with pytest.MonkeyPatch.context() as patch:
        register(patch)
        for folder, settings in jobs:
            train_small(Path(folder), read_parts(parts), **settings)


def read_parts(written: Any) -> tuple[Part, Part]:
    """Return parts from the JSON of their paths."""
    training, validation = (
        ([Path(index) for index in indices], [(Path(pixels), Path(rows)) for pixels, rows in shards])
        for indices, shards in written
    )
    return training, validation


if __name__ == "__main__":
    main()
