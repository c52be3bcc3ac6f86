"""Devices that Keras runs on. Only this module depends on which backend that is."""

import contextlib
import functools
import logging
import os
import platform
from collections.abc import Iterator
from importlib import import_module, metadata
from typing import Any

import keras

from retinaflow.errors import RetinaflowError
from retinaflow.settings.train import TrainingSettings

log = logging.getLogger(__name__)

# https://openxla.org/xla/determinism
DETERMINISTIC = " --xla_gpu_deterministic_ops=true"


def prepare_process(seed: int, threads: int, compiled: bool = False) -> None:
    """Seed Keras, set the number of CPU threads and let GPU memory grow as needed. Call before any tensor is made.

    On one machine, the same seed and number of threads give the same result to the last bit, on any number of cores.
    Another number of threads adds in another order. Its results differ by rounding, which training amplifies.

    Args:
        seed: Seed of the random generators.
        threads: Number of CPU threads of one operation.
        compiled: Whether XLA compiles the steps. Keras then does not let TensorFlow fix the order of sums.
    """
    keras.utils.set_random_seed(seed)
    backend = keras.backend.backend()
    if compiled or backend == "jax":
        # XLA reads this when the first array is made.
        os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "").removesuffix(DETERMINISTIC) + DETERMINISTIC
    if backend == "tensorflow":
        tf = import_module("tensorflow")
        # Otherwise the order of parallel sums, and with it the metrics, differs between runs.
        if not compiled:
            tf.config.experimental.enable_op_determinism()
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        for gpu in tf.config.list_physical_devices("GPU"):
            tf.config.experimental.set_memory_growth(gpu, True)
    elif backend == "jax":
        os.environ.update(NPROC=str(threads), XLA_PYTHON_CLIENT_PREALLOCATE="false")
    else:
        torch = import_module("torch")
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # cuBLAS needs its own buffer for a fixed order of sums.
        torch.use_deterministic_algorithms(True)
        torch.set_num_threads(threads)


def full_float32() -> None:
    """Multiply in all 24 bits of float32. By default, GPUs with TF32 use 11 of them in products."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import_module("tensorflow").config.experimental.enable_tensor_float_32_execution(False)
    elif backend == "jax":
        import_module("jax").config.update("jax_default_matmul_precision", "highest")
    else:
        torch = import_module("torch")
        torch.set_float32_matmul_precision("highest")
        torch.backends.cudnn.allow_tf32 = False


def compiles(jit: bool | str = "auto") -> bool:
    """Return whether XLA compiles the steps of training: ``jit``, or the default of the backend for ``auto``.

    JAX always compiles. With TensorFlow, Keras cannot compile operations with a fixed order of sums. On a CPU, the
    compilation also takes longer than it saves.
    """
    return keras.backend.backend() == "jax" if jit == "auto" else bool(jit)


def resolve(settings: TrainingSettings) -> dict[str, Any]:
    """Resolve ``auto`` in training settings for the devices of this job. Call after ``prepare_process``.

    The precision is mixed_bfloat16 on GPUs with tensor cores for it (compute capability 8.0 or higher), mixed_float16
    on those of 7.x, else float32 (https://docs.nvidia.com/deeplearning/performance/mixed-precision-training). If the
    settings name float32, products use all of its bits.

    Returns:
        ``precision``, a dtype policy of Keras, and ``jit``, a bool.
    """
    native = _native_precisions(settings.gpus)
    precision = native[0] if settings.precision == "auto" else settings.precision
    if precision not in native:
        log.warning("precision: this device computes %s no faster than %s", precision, native[0])
    if settings.precision == "float32":
        full_float32()
    return {"precision": precision, "jit": compiles(settings.jit)}


def _native_precisions(count: int) -> tuple[str, ...]:
    """Precisions that each of the first ``count`` devices computes fast, the best first."""
    capability = min(map(_capability, range(count))) if has_gpu() else (0, 0)
    if capability >= (8, 0):
        return "mixed_bfloat16", "mixed_float16", "float32"
    return ("mixed_float16", "float32") if capability >= (7, 0) else ("float32",)


def _capability(number: int) -> tuple[int, int]:
    """Compute capability of an NVIDIA GPU, (0, 0) for any other device or if there is none of this number."""
    backend = keras.backend.backend()
    try:
        if backend == "tensorflow":
            config = import_module("tensorflow").config
            found = config.experimental.get_device_details(config.list_physical_devices("GPU")[number])
            return tuple(found["compute_capability"])
        if backend == "jax":
            major, minor = import_module("jax").devices()[number].compute_capability.split(".")
            return int(major), int(minor)
        return tuple(import_module("torch").cuda.get_device_capability(number))
    # Torch without CUDA or driver raises the last two.
    except (LookupError, ValueError, AttributeError, AssertionError, RuntimeError):
        return 0, 0


def names(count: int) -> list[str]:
    """Return the product names of the first ``count`` devices, or ``CPU``.

    Raises:
        RetinaflowError: There are fewer devices.
    """
    backend, kind = keras.backend.backend(), "GPU" if has_gpu() else "CPU"
    if backend == "tensorflow":
        config = import_module("tensorflow").config
        found = [device.name for device in config.list_logical_devices(kind)]
        if kind == "GPU":
            details = map(config.experimental.get_device_details, config.list_physical_devices(kind))
            found = [each.get("device_name", kind) for each in details]
    elif backend == "jax":
        found = [device.device_kind for device in import_module("jax").devices()]
    else:
        cuda = import_module("torch").cuda
        found = [cuda.get_device_name(number) for number in range(cuda.device_count())] or [kind]
    if len(found) < count:
        raise RetinaflowError(
            f"gpus: {count}, but this job sees {len(found)} {kind}. Lower gpus, or let jobs have more: raise the "
            "resource gpu in the profile, and check CUDA_VISIBLE_DEVICES."
        )
    return found[:count] if kind == "GPU" else [kind] * count


@contextlib.contextmanager
def parallel(count: int) -> Iterator[None]:
    """Build, compile and fit models on the first ``count`` devices, each with a part of every batch.

    Losses, metrics, gradients and statistics are those of the whole batch. A step equals the step of one device, except
    for rounding.

    Raises:
        RetinaflowError: There are fewer devices.
    """
    names(count)
    if count == 1:
        yield
    elif keras.backend.backend() == "jax":
        with _WholeBatches(devices=keras.distribution.list_devices()[:count]).scope():
            yield
    else:
        with _mirrored(count).scope():
            yield


@functools.cache
def _mirrored(count: int) -> Any:
    """Return the strategy of TensorFlow for several devices.

    A process has one strategy only: sums of a second one would be mixed with those of the first.
    """
    kind = "GPU" if has_gpu() else "CPU"
    devices = [f"{kind}:{number}" for number in range(count)]
    return import_module("tensorflow").distribute.MirroredStrategy(devices)


class _WholeBatches(keras.distribution.DataParallel):
    """Data parallelism for batches of any size. The class of Keras needs multiples of the number of devices.

    Arrays must be cut into equal parts, values within a compiled step need not. Each device therefore gets the whole
    batch and computes the layers for its part.
    """

    def get_data_layout(self, data_shape: tuple[int, ...]) -> keras.distribution.TensorLayout:
        return keras.distribution.TensorLayout([None] * len(data_shape), self.device_mesh)

    def get_tensor_layout(self, path: str) -> keras.distribution.TensorLayout:  # noqa: ARG002
        return keras.distribution.TensorLayout([self.batch_dim_name], self.device_mesh)


def has_gpu() -> bool:
    """Return whether Keras computes on a GPU."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        return bool(import_module("tensorflow").config.list_physical_devices("GPU"))
    if backend == "jax":
        return import_module("jax").default_backend() == "gpu"
    return bool(import_module("torch").cuda.is_available())


def weigh_by_share(losses: keras.KerasTensor) -> keras.KerasTensor:
    """Rescale the gradients of ``losses`` to the share that this device has of the batch.

    TensorFlow averages the means of the devices, as if each had equally many images. In a batch that cannot be divided
    evenly, some images would count less. The values stay as they are: Keras weighs them by their number when it reports
    them.

    Args:
        losses: Loss of each image on this device, (n,).

    Returns:
        The same values, with gradients of the mean over the whole batch.
    """
    context = _replica()
    if context is None:
        return losses
    mine = keras.ops.cast(keras.ops.shape(losses)[0], losses.dtype)
    share = mine * context.num_replicas_in_sync / context.all_reduce("SUM", mine)
    return losses + (share - 1) * (losses - keras.ops.stop_gradient(losses))


def everywhere(condition: keras.KerasTensor) -> keras.KerasTensor:
    """Return whether ``condition``, a bool scalar, is true on each device that computes this step."""
    context = _replica()
    if context is None:
        return condition
    return keras.ops.equal(context.all_reduce("SUM", keras.ops.cast(keras.ops.logical_not(condition), "float32")), 0)


def _replica() -> Any:
    """Return the link of TensorFlow between the devices that compute one step. None for a single device."""
    return import_module("tensorflow").distribute.get_replica_context() if _replica_count() > 1 else None


def _replica_count() -> int:
    if keras.backend.backend() != "tensorflow":
        return 1
    return int(import_module("tensorflow").distribute.get_strategy().num_replicas_in_sync)


def adopt(model: keras.Model) -> None:
    """Prepare ``model``, built within ``parallel``, for the same training as on one device."""
    # JAX needs no preparation: an array on several devices is one array.
    if _replica_count() == 1:
        return
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.synchronized = True
    # With a strategy, Keras 3.15 takes a batch out of the queue before `fit` begins. Later batches are late by one.
    model._distribute_strategy = None


def out_of_memory(error: BaseException) -> bool:
    """Return whether ``error`` means that the device or the machine has too little memory."""
    if isinstance(error, MemoryError):
        return True
    backend = keras.backend.backend()
    if backend == "tensorflow":
        return isinstance(error, import_module("tensorflow").errors.ResourceExhaustedError)
    if backend == "torch":
        # On a CPU, torch has no exception type for this.
        return isinstance(error, import_module("torch").OutOfMemoryError) or "DefaultCPUAllocator" in str(error)
    return isinstance(error, RuntimeError) and "RESOURCE_EXHAUSTED" in str(error)


def describe_environment() -> dict[str, Any]:
    """Return backend, device, machine and the versions of packages that decide a result."""
    packages = ("keras", keras.backend.backend(), "numpy", "opencv-python-headless", "scikit-learn")
    return {
        "backend": keras.backend.backend(),
        "device": "GPU" if has_gpu() else "CPU",
        "machine": platform.machine(),
        "system": platform.system(),
        "python": platform.python_version(),
        "packages": {package: metadata.version(package) for package in packages},
    }
