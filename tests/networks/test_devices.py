import json
import platform
import subprocess
import sys
from importlib import import_module

import keras
import numpy as np
import pytest

from common import ROOT
from retinaflow.networks import devices
from small import typed

# TensorFlow accepts a number of threads only until it has made its first tensor, also in other test files.
devices.prepare_process(seed=0, threads=1)


def drawn(seed: int) -> list[np.ndarray]:
    """Return random numbers of Keras and the first weights of a layer."""
    devices.prepare_process(seed, threads=1)
    layer = keras.layers.Dense(4)
    layer.build((None, 3))
    return [np.asarray(keras.random.normal((4,))), np.asarray(layer.kernel)]


def test_random_numbers_follow_from_the_seed():
    for one, other, another in zip(drawn(1), drawn(1), drawn(2), strict=True):
        assert np.array_equal(one, other)
        assert not np.array_equal(one, another)


# Code that prints the number of threads of each backend. Those of JAX are found by their name.
THREADS = {
    "tensorflow": "import tensorflow; print(tensorflow.config.threading.get_intra_op_parallelism_threads())",
    "torch": "import torch; print(torch.get_num_threads())",
    "jax": (
        "from pathlib import Path; names = [name.read_text() for name in Path('/proc/self/task').glob('*/comm')];"
        "print(names.count('tf_XLAEigen\\n'))"
    ),
}


def test_backend_has_the_requested_number_of_threads():
    """It runs in a new process, as the first tensor fixes the number."""
    code = (
        "from retinaflow.networks import devices; devices.prepare_process(1, 3); import keras; keras.ops.ones(1) + 1;"
        f"{THREADS[keras.backend.backend()]}"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT / "workflow", capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == ["3"]


def test_training_is_compiled_if_keras_would_compile_it():
    """Keras does not compile if operations use one order of sums, as TensorFlow does after ``prepare``."""
    devices.prepare_process(seed=1, threads=1)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, activation="softmax")])
    model.compile("adam", "sparse_categorical_crossentropy", jit_compile="auto")
    assert devices.compiles() == model.jit_compile


@pytest.mark.parametrize(
    ("capabilities", "precision"),
    [
        ([(9, 0)], "mixed_bfloat16"),
        ([(8, 0), (8, 6)], "mixed_bfloat16"),
        ([(8, 0), (7, 5)], "mixed_float16"),
        ([(7, 0)], "mixed_float16"),
        ([(6, 1)], "float32"),
        ([(0, 0)], "float32"),
        ([], "float32"),
    ],
)
def test_auto_precision_is_fast_on_all_devices(monkeypatch, capabilities, precision):
    monkeypatch.setattr(devices, "has_gpu", lambda: bool(capabilities))
    monkeypatch.setattr(devices, "_capability", lambda number: capabilities[number])
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    settings = typed(precision="auto", jit="auto", gpus=max(1, len(capabilities)))
    assert devices.resolve(settings) == {"precision": precision, "jit": True}


@pytest.mark.parametrize(("wanted", "warned"), [("float32", False), ("mixed_float16", False), ("mixed_bfloat16", True)])
def test_slow_precision_is_used_with_a_warning(monkeypatch, caplog, wanted, warned):
    monkeypatch.setattr(devices, "has_gpu", lambda: True)
    monkeypatch.setattr(devices, "_capability", {0: (7, 5)}.get)
    assert devices.resolve(typed(precision=wanted, jit=False, gpus=1)) == {"precision": wanted, "jit": False}
    assert ("computes mixed_bfloat16 no faster than mixed_float16" in caplog.text) == warned


def test_gpu_without_a_reported_capability_has_none():
    if not devices.has_gpu():
        assert devices._capability(0) == (0, 0)


def test_description_names_device_and_packages():
    described = devices.describe_environment()
    assert json.loads(json.dumps(described)) == described
    assert described["backend"] == keras.backend.backend()
    assert described["device"] == ("GPU" if devices.has_gpu() else "CPU")
    assert described["python"] == platform.python_version()
    for package in ("keras", "numpy", described["backend"]):
        # The version of the module torch also names its CUDA.
        assert described["packages"][package] == import_module(package).__version__.split("+")[0]


def test_out_of_memory_errors_are_recognised():
    with pytest.raises(Exception, match=r"OOM|RESOURCE_EXHAUSTED|memory") as error:
        keras.ops.zeros((2**22, 2**22), "float32") + 1  # 70 TB
    assert devices.out_of_memory(error.value)
    assert devices.out_of_memory(MemoryError())
    assert not devices.out_of_memory(ValueError("RESOURCE_EXHAUSTED"))
