"""Backends of Keras: their choice, and equal outputs of a model with each of them."""

import json
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

import small
from common import CLASSES, ROOT
from configurations import configured
from retinaflow.config import checks
from retinaflow.config.checks import check_packages
from retinaflow.errors import RetinaflowError
from retinaflow.networks import backend

BACKENDS = ("tensorflow", "jax", "torch")
INSTALLED = [name for name in BACKENDS if find_spec(name)]
SETTINGS = {**small.SETTINGS, "image_size": 64, "dropout": 0.2}


def test_environment_does_not_change_the_backend():
    code = (
        "from retinaflow.networks.backend import choose; choose('tensorflow'); "
        "import keras; print(keras.backend.backend())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT / "workflow",
        env={**os.environ, "KERAS_BACKEND": "none"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.split() == ["tensorflow"], done.stderr


def test_missing_backend_is_an_error_before_any_job(monkeypatch):
    monkeypatch.setattr(backend, "find_spec", lambda name: None if name == "jax" else name)
    config = configured(train__backend="torch", models={"VGG16": {"backend": "jax"}, "ResNet50": {}})
    message = r"'jax' is not installed for .*; install it \(`make jax` does"
    with pytest.raises(RetinaflowError, match=rf"backend of VGG16: {message}") as error:
        check_packages(config)
    assert "ResNet50" not in str(error.value)
    with pytest.raises(RetinaflowError, match=f"backend: {message}"):
        backend.choose("jax")


def test_missing_tracker_is_an_error_before_any_job(monkeypatch):
    monkeypatch.setattr(checks, "find_spec", lambda _: None)
    check_packages(configured(models={"VGG16": {}}))
    with pytest.raises(RetinaflowError, match=r"tracking\.tensorboard: tensorboard is not installed") as error:
        check_packages(configured(models={"VGG16": {}}, tracking={"tensorboard": True, "mlflow": "runs"}))
    assert "tracking.mlflow: mlflow is not installed" in str(error.value)


# Run as `python -c CODE backend train|score settings folder`.
TRAIN = """
import json, sys
from pathlib import Path
from retinaflow.networks.backend import choose
name, settings, folder = sys.argv[1], json.loads(sys.argv[2]), Path(sys.argv[3])
choose(name)
import keras
import numpy as np
from retinaflow.networks import devices
from retinaflow.networks.building import build, compile_model
from retinaflow.settings.train import TrainingSettings
devices.prepare_process(1, 2)
settings = TrainingSettings.model_validate({"backbone": "MobileNetV3Small", **settings})
model = build(settings, 5)
for layer in model.get_layer("MobileNetV3Small").layers:
    if isinstance(layer, keras.layers.BatchNormalization):
        layer.momentum = 0.2  # After a few steps, the usual 0.99 would keep the initial statistics.
compile_model(model, settings, 5, jit=devices.compiles())
model.fit(np.load(folder / "pixels.npy"), np.eye(5)[np.arange(40) % 5], batch_size=20, epochs=3, verbose=0)
model.save(folder / f"{name}.keras")
"""
SCORE = """
import json, sys
from pathlib import Path
from retinaflow.networks.backend import choose
name, folder = sys.argv[1], Path(sys.argv[3])
choose(name)
import numpy as np
from retinaflow.preprocessing.batches import Images
from retinaflow.scoring.score import load_model, predict_outputs
index, shards, grade_names = json.loads((folder / "part.json").read_text())
images = Images([Path(index)], [tuple(map(Path, shard)) for shard in shards], grade_names)
for path in folder.glob("*.keras"):
    model = load_model(path, grade_names, seed=1, threads=2)
    np.save(folder / f"{path.stem}-{name}.npy", predict_outputs(model, images, threads=3))
"""


def run(code: str, name: str, folder: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", code, name, json.dumps(SETTINGS), str(folder)],
        cwd=ROOT / "workflow",
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.skipif(len(INSTALLED) < 2, reason="only one backend is installed: make test-backends")
def test_each_backend_has_the_same_outputs(tmp_path, make_part):
    """Outputs of all installed backends are equal to 1e-4. The images need several batches."""
    noise = np.random.default_rng(0).integers(0, 60, (40, 64, 64, 3))
    pixels = (noise + 40 * (np.arange(40) % 5)[:, None, None, None]).astype(np.uint8)
    np.save(tmp_path / "pixels.npy", pixels)
    (index,), shards = make_part("test", pixels, [number % 5 for number in range(40)])
    (tmp_path / "part.json").write_text(json.dumps([index, shards, CLASSES], default=str))
    for code in (TRAIN, SCORE):
        for name in INSTALLED:
            run(code, name, tmp_path)
    for trained in INSTALLED:
        own, *others = [np.load(tmp_path / f"{trained}-{name}.npy") for name in sorted(INSTALLED, key=trained.__ne__)]
        assert own.std(axis=0).max() > 0.01, "outputs differ between images"
        for other in others:
            assert np.abs(other - own).max() < 1e-4
