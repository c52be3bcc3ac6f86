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

# TensorFlow takes a number of threads only until it has made its first tensor, which other test files do, too.
devices.prepare(seed=0, threads=1)


def drawn(seed: int) -> list[np.ndarray]:
    """Random numbers of Keras and the first weights of a layer."""
    devices.prepare(seed, threads=1)
    layer = keras.layers.Dense(4)
    layer.build((None, 3))
    return [np.asarray(keras.random.normal((4,))), np.asarray(layer.kernel)]


def test_the_seed_decides_what_is_drawn():
    for one, other, another in zip(drawn(1), drawn(1), drawn(2), strict=True):
        assert np.array_equal(one, other)
        assert not np.array_equal(one, another)


# What prints the number of threads of each backend. JAX does not tell, but the system does: they have a name.
THREADS = {
    "tensorflow": "import tensorflow; print(tensorflow.config.threading.get_intra_op_parallelism_threads())",
    "torch": "import torch; print(torch.get_num_threads())",
    "jax": (
        "from pathlib import Path; names = [name.read_text() for name in Path('/proc/self/task').glob('*/comm')];"
        "print(names.count('tf_XLAEigen\\n'))"
    ),
}


def test_threads_are_those_asked_for():
    """In a process of its own, as only the first tensor fixes their number."""
    code = (
        "from retinaflow.networks import devices; devices.prepare(1, 3); import keras; keras.ops.ones(1) + 1;"
        f"{THREADS[keras.backend.backend()]}"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT / "workflow", capture_output=True, text=True, check=True
    )
    assert result.stdout.split() == ["3"]


def test_training_is_compiled_where_keras_itself_would():
    """Which is not where operations are held to one order of sums, as ``prepare`` has TensorFlow do."""
    devices.prepare(seed=1, threads=1)
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
def test_auto_is_what_all_devices_compute_fast(monkeypatch, capabilities, precision):
    monkeypatch.setattr(devices, "has_gpu", lambda: bool(capabilities))
    monkeypatch.setattr(devices, "_capability", lambda number: capabilities[number])
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    settings = typed(precision="auto", jit="auto", gpus=max(1, len(capabilities)))
    assert devices.resolve(settings) == {"precision": precision, "jit": True}


@pytest.mark.parametrize(("wanted", "said"), [("float32", False), ("mixed_float16", False), ("mixed_bfloat16", True)])
def test_a_precision_that_is_no_faster_is_used_and_said_so(monkeypatch, caplog, wanted, said):
    monkeypatch.setattr(devices, "has_gpu", lambda: True)
    monkeypatch.setattr(devices, "_capability", {0: (7, 5)}.get)
    assert devices.resolve(typed(precision=wanted, jit=False, gpus=1)) == {"precision": wanted, "jit": False}
    assert ("computes mixed_bfloat16 no faster than mixed_float16" in caplog.text) == said


def test_a_gpu_that_tells_no_capability_has_none():
    if not devices.has_gpu():
        assert devices._capability(0) == (0, 0)


def test_description_names_what_computed():
    described = devices.describe()
    assert json.loads(json.dumps(described)) == described
    assert described["backend"] == keras.backend.backend()
    assert described["device"] == ("GPU" if devices.has_gpu() else "CPU")
    assert described["python"] == platform.python_version()
    for package in ("keras", "numpy", described["backend"]):
        # Of torch, that of the module also names the CUDA it was built for.
        assert described["packages"][package] == import_module(package).__version__.split("+")[0]


def test_what_the_backend_says_of_too_little_memory_is_recognised():
    with pytest.raises(Exception, match=r"OOM|RESOURCE_EXHAUSTED|memory") as error:
        keras.ops.zeros((2**22, 2**22), "float32") + 1  # 70 TB
    assert devices.out_of_memory(error.value)
    assert devices.out_of_memory(MemoryError())
    assert not devices.out_of_memory(ValueError("RESOURCE_EXHAUSTED"))
