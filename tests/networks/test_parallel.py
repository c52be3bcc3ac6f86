"""Several devices for one training, and compiled steps. Each runs in a new process, as both are set up once."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from common import ROOT, Part
from retinaflow.errors import RetinaflowError
from retinaflow.networks import devices
from retinaflow.storage.tables import read_table
from small import STILL, THREE, planted, register, train_small

# TensorFlow accepts a number of threads only until it has made its first tensor, also in other test files.
devices.prepare_process(seed=0, threads=1)

# Without dropout and augmentation, which each device draws in its own way.
ALIKE = {"dropout": 0.0, "augment": STILL, "epochs": 2}
METHODS = {
    "head_epochs": 1,
    "class_weights": "sqrt_inverse",
    "balanced_sampling": 0.5,
    "optimizer": "adamw",
    "weight_decay": 0.05,
    "layer_decay": 0.8,
    "ema": 0.8,
}


@pytest.fixture
def parts(make_part) -> tuple[Part, Part]:
    """Return 37 training images and 21 validation images. Batches of 8 leave 5, an odd number for 2 devices."""
    return make_part("train", *planted(37), classes=THREE), make_part("validation", *planted(21, seed=1), classes=THREE)


def elsewhere(backend: str, devices: int, parts: tuple[Part, Part], jobs: dict[Path, dict[str, Any]]) -> None:
    """Train the small network in each of the folders, in a process with some virtual devices."""
    arguments = [str(devices), json.dumps(parts, default=str), json.dumps(list(jobs.items()), default=str)]
    result = subprocess.run(
        [sys.executable, "tests/small.py", *arguments],
        cwd=ROOT,
        env={**os.environ, "KERAS_BACKEND": backend, "TF_CPP_MIN_LOG_LEVEL": "3"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout


def outcome(folder: Path) -> tuple[np.ndarray, list[np.ndarray], dict[str, Any]]:
    """Return metrics of all epochs, weights, and the record of precision and devices."""
    metrics = [
        [float(value) for key, value in row.items() if key not in ("phase", "seconds")]
        for row in read_table(folder / "history.csv")
    ]
    weights = keras.saving.load_model(folder / "model.keras").get_weights()
    return np.array(metrics), weights, json.loads((folder / "training_run.json").read_text())["computed"]


@pytest.mark.parametrize("backend", ["tensorflow", "jax"])
def test_two_devices_train_as_one_device(tmp_path, parts, backend):
    """This includes batch statistics and an interruption after each epoch. In float16, only metrics are compared."""
    if not find_spec(backend):
        pytest.skip(f"{backend} is not installed")
    settings = {"float32": ALIKE | METHODS, "float16": ALIKE | {"precision": "mixed_float16", "epochs": 1}}
    jobs = {tmp_path / name / "one": setting for name, setting in settings.items()}
    jobs |= {tmp_path / name / "two": setting | {"gpus": 2, "minutes": 1} for name, setting in settings.items()}
    elsewhere(backend, 2, parts, jobs)
    for name, close in (("float32", 1e-4), ("float16", 1e-2)):
        one, two = (outcome(tmp_path / name / devices) for devices in ("one", "two"))
        assert two[0] == pytest.approx(one[0], rel=close)
        if name == "float32":
            for here, there in zip(one[1], two[1], strict=True):
                assert there == pytest.approx(here, rel=close, abs=close)
        assert (one[2]["devices"], two[2]["devices"]) == (["CPU"], ["CPU", "CPU"])


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="JAX always compiles, torch in its own way")
def test_compiled_steps_are_reproducible_and_close_to_others(tmp_path, make_part, monkeypatch):
    """All batches have one size, as each size is compiled separately."""
    register(monkeypatch)
    training, validation = (make_part(str(count), *planted(count), classes=THREE) for count in (24, 12))
    settings = ALIKE | {"batch_size": 12, "epochs": 1}
    jobs = {tmp_path / name: settings | {"jit": True} for name in ("compiled", "again")}
    elsewhere("tensorflow", 1, (training, validation), jobs)
    train_small(tmp_path / "plain", (training, validation), **settings)
    compiled, again, plain = (outcome(tmp_path / name) for name in ("compiled", "again", "plain"))
    assert (compiled[2]["jit"], plain[2]["jit"]) == (True, False)
    assert np.array_equal(compiled[0], again[0])
    assert all(np.array_equal(here, there) for here, there in zip(compiled[1], again[1], strict=True))
    assert compiled[0] == pytest.approx(plain[0], rel=1e-3)


def test_more_devices_than_available_is_an_error():
    with pytest.raises(RetinaflowError, match=r"gpus: 65, but this job sees \d+ [CG]PU\. Lower gpus, or let jobs have"):
        devices.names(65)
