"""Set up the device that Keras runs on and say what it is. The one place that knows which backend that is."""

import os
import platform
from importlib import import_module, metadata
from typing import Any

import keras

# https://openxla.org/xla/flags_guidance
DETERMINISTIC = " --xla_gpu_deterministic_ops=true"


def prepare(seed: int, threads: int) -> None:
    """Seed Keras, compute in ``threads`` CPU threads and let GPU memory grow as needed. Call before any tensor is made.

    On one machine, the same seed and number of threads give the same result to the last bit, on however many cores.
    Another number of threads adds up in another order: its results differ by rounding, which training amplifies.
    """
    keras.utils.set_random_seed(seed)
    backend = keras.backend.backend()
    if backend == "tensorflow":
        tf = import_module("tensorflow")
        # Otherwise the order of parallel sums, and with it the metrics, differs from run to run.
        tf.config.experimental.enable_op_determinism()
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        for gpu in tf.config.list_physical_devices("GPU"):
            tf.config.experimental.set_memory_growth(gpu, True)
    elif backend == "jax":
        # XLA has no function for these; it looks when JAX makes its first array.
        flags = os.environ.get("XLA_FLAGS", "").removesuffix(DETERMINISTIC)
        os.environ.update(NPROC=str(threads), XLA_PYTHON_CLIENT_PREALLOCATE="false", XLA_FLAGS=flags + DETERMINISTIC)
    else:
        torch = import_module("torch")
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # cuBLAS adds up in one order only with a buffer of its own
        torch.use_deterministic_algorithms(True)
        torch.set_num_threads(threads)


def has_gpu() -> bool:
    """Whether Keras computes on a GPU."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        return bool(import_module("tensorflow").config.list_physical_devices("GPU"))
    if backend == "jax":
        return import_module("jax").default_backend() == "gpu"
    return bool(import_module("torch").cuda.is_available())


def out_of_memory(error: BaseException) -> bool:
    """Whether ``error`` says that the device, or the machine, has not enough memory."""
    if isinstance(error, MemoryError):
        return True
    backend = keras.backend.backend()
    if backend == "tensorflow":
        return isinstance(error, import_module("tensorflow").errors.ResourceExhaustedError)
    if backend == "torch":
        # On a CPU, torch has no type of its own for it.
        return isinstance(error, import_module("torch").OutOfMemoryError) or "DefaultCPUAllocator" in str(error)
    return isinstance(error, RuntimeError) and "RESOURCE_EXHAUSTED" in str(error)


def compiles() -> bool:
    """Whether to let Keras compile the steps of training with XLA.

    JAX always does. With TensorFlow, Keras cannot while operations are held to one order of sums; on a CPU the compiler
    also takes longer than it saves.
    """
    return keras.backend.backend() == "jax"


def describe() -> dict[str, Any]:
    """What computed a result: backend, device, machine and the versions of the packages that decide it."""
    packages = ("keras", keras.backend.backend(), "numpy", "opencv-python-headless", "scikit-learn")
    return {
        "backend": keras.backend.backend(),
        "device": "GPU" if has_gpu() else "CPU",
        "machine": platform.machine(),
        "system": platform.system(),
        "python": platform.python_version(),
        "packages": {package: metadata.version(package) for package in packages},
    }
