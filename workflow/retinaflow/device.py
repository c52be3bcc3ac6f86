"""Set up the device that Keras runs on and say what it is. The one place that knows which backend that is."""

import platform
from importlib import import_module, metadata
from typing import Any

import keras


def prepare(seed: int, threads: int) -> None:
    """Seed Keras, compute in ``threads`` CPU threads and let GPU memory grow as needed. Call before any tensor is made.

    On one machine, the same seed and number of threads give the same result to the last bit, on however many cores.
    Another number of threads adds up in another order: its results differ by rounding, which training amplifies.
    """
    keras.utils.set_random_seed(seed)
    if keras.backend.backend() == "tensorflow":
        tf = import_module("tensorflow")
        # Otherwise the order of parallel sums, and with it the metrics, differs from run to run.
        tf.config.experimental.enable_op_determinism()
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        for gpu in tf.config.list_physical_devices("GPU"):
            tf.config.experimental.set_memory_growth(gpu, True)


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
        return isinstance(error, import_module("torch").OutOfMemoryError)
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
