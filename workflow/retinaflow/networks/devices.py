"""Set up the device that Keras runs on and say what it is. The one place that knows which backend that is."""

import contextlib
import functools
import logging
import os
import platform
from collections.abc import Iterator, Mapping
from importlib import import_module, metadata
from typing import Any

import keras

from retinaflow.errors import RetinaflowError

log = logging.getLogger(__name__)

# https://openxla.org/xla/determinism
ONE_ORDER = " --xla_gpu_deterministic_ops=true"


def prepare(seed: int, threads: int, compiled: bool = False) -> None:
    """Seed Keras, compute in ``threads`` CPU threads and let GPU memory grow as needed. Call before any tensor is made.

    On one machine, the same seed and number of threads give the same result to the last bit, on however many cores.
    Another number of threads adds up in another order: its results differ by rounding, which training amplifies.
    ``compiled`` says that XLA will compile the steps: Keras does not let TensorFlow see to the order of sums then.
    """
    keras.utils.set_random_seed(seed)
    backend = keras.backend.backend()
    if compiled or backend == "jax":
        # XLA looks there when the first array is made.
        os.environ["XLA_FLAGS"] = os.environ.get("XLA_FLAGS", "").removesuffix(ONE_ORDER) + ONE_ORDER
    if backend == "tensorflow":
        tf = import_module("tensorflow")
        # Otherwise the order of parallel sums, and with it the metrics, differs from run to run.
        if not compiled:
            tf.config.experimental.enable_op_determinism()
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        for gpu in tf.config.list_physical_devices("GPU"):
            tf.config.experimental.set_memory_growth(gpu, True)
    elif backend == "jax":
        os.environ.update(NPROC=str(threads), XLA_PYTHON_CLIENT_PREALLOCATE="false")
    else:
        torch = import_module("torch")
        os.environ["CUBLAS_WORKSPACE_CONFIG"] = ":4096:8"  # cuBLAS adds up in one order only with a buffer of its own
        torch.use_deterministic_algorithms(True)
        torch.set_num_threads(threads)


def full_float32() -> None:
    """Multiply in all 24 bits of float32: by default, GPUs that have TF32 keep 11 of them in products."""
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
    """Whether XLA is to compile the steps of training: ``jit``, or what the backend does by itself if that is ``auto``.

    JAX always compiles. With TensorFlow, Keras cannot while operations are held to one order of sums; on a CPU the
    compiler also takes longer than it saves.
    """
    return keras.backend.backend() == "jax" if jit == "auto" else bool(jit)


def resolve(settings: Mapping[str, Any]) -> dict[str, Any]:
    """What ``auto`` stands for here, in training settings: ``precision``, a policy of Keras, and ``jit``, a bool.

    ``precision`` is mixed_bfloat16 on GPUs with tensor cores for it (compute capability 8.0 or higher), mixed_float16
    on those of 7.x, else float32 (https://docs.nvidia.com/deeplearning/performance/mixed-precision-training).
    Call after ``prepare``. Where float32 was asked for by name, products are in all of its bits.
    """
    native = _native_precisions(settings["gpus"])
    precision = native[0] if settings["precision"] == "auto" else settings["precision"]
    if precision not in native:
        log.warning("precision: this device computes %s no faster than %s", precision, native[0])
    if settings["precision"] == "float32":
        full_float32()
    return {"precision": precision, "jit": compiles(settings["jit"])}


def _native_precisions(count: int) -> tuple[str, ...]:
    """What each of the first ``count`` devices computes fast, the best one first."""
    capability = min(map(_capability, range(count))) if has_gpu() else (0, 0)
    if capability >= (8, 0):
        return "mixed_bfloat16", "mixed_float16", "float32"
    return ("mixed_float16", "float32") if capability >= (7, 0) else ("float32",)


def _capability(number: int) -> tuple[int, int]:
    """Compute capability of a GPU by NVIDIA, (0, 0) of any other or if there are not so many."""
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
    except (LookupError, ValueError, AttributeError, AssertionError, RuntimeError):  # of torch without CUDA or driver
        return 0, 0


def names(count: int) -> list[str]:
    """What the first ``count`` devices are, by their makers' names, or CPU.

    Raises ``RetinaflowError`` if there are fewer.
    """
    backend, kind = keras.backend.backend(), "GPU" if has_gpu() else "CPU"
    if backend == "tensorflow":
        config = import_module("tensorflow").config
        found = [device.name for device in config.list_logical_devices(kind)]
        if kind == "GPU":
            details = map(config.experimental.get_device_details, config.list_physical_devices(kind))
            found = [told.get("device_name", kind) for told in details]
    elif backend == "jax":
        found = [device.device_kind for device in import_module("jax").devices()]
    else:
        cuda = import_module("torch").cuda
        found = [cuda.get_device_name(number) for number in range(cuda.device_count())] or [kind]
    if len(found) < count:
        raise RetinaflowError(
            f"gpus: {count}, but this job sees {len(found)} {kind}. Lower gpus, or let jobs have more: the resource "
            "gpu in the profile, and CUDA_VISIBLE_DEVICES where it is set."
        )
    return found[:count] if kind == "GPU" else [kind] * count


@contextlib.contextmanager
def parallel(count: int) -> Iterator[None]:
    """What is built, compiled and fitted within is computed on the first ``count`` devices, a part of a batch on each.

    Losses, metrics, gradients and statistics are those of the whole batch: one step of one device, to rounding.
    Raises ``RetinaflowError`` if there are fewer devices.
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
    """TensorFlow's way to several devices: one in a process, as the sums of a second would meet those of the first."""
    kind = "GPU" if has_gpu() else "CPU"
    devices = [f"{kind}:{number}" for number in range(count)]
    return import_module("tensorflow").distribute.MirroredStrategy(devices)


class _WholeBatches(keras.distribution.DataParallel):
    """Data parallelism that takes batches of any size, where Keras's own takes multiples of the number of devices.

    Arrays must be cut into equal parts, values within a compiled step need not be: batches are handed to all devices,
    and each computes the layers for its part.
    """

    def get_data_layout(self, data_shape: tuple[int, ...]) -> keras.distribution.TensorLayout:
        return keras.distribution.TensorLayout([None] * len(data_shape), self.device_mesh)

    def get_tensor_layout(self, path: str) -> keras.distribution.TensorLayout:  # noqa: ARG002
        return keras.distribution.TensorLayout([self.batch_dim_name], self.device_mesh)


def has_gpu() -> bool:
    """Whether Keras computes on a GPU."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        return bool(import_module("tensorflow").config.list_physical_devices("GPU"))
    if backend == "jax":
        return import_module("jax").default_backend() == "gpu"
    return bool(import_module("torch").cuda.is_available())


def weigh_by_share(losses: keras.KerasTensor) -> keras.KerasTensor:
    """``losses`` (n,) of the photographs on this device, with gradients that make their mean one over the whole batch.

    TensorFlow averages the means of the devices, as if each had as many photographs: of a batch that cannot be divided
    evenly, some would count less. The values stay as they are; Keras weighs them by their number where it reports them.
    """
    context = _replica()
    if context is None:
        return losses
    mine = keras.ops.cast(keras.ops.shape(losses)[0], losses.dtype)
    share = mine * context.num_replicas_in_sync / context.all_reduce("SUM", mine)
    return losses + (share - 1) * (losses - keras.ops.stop_gradient(losses))


def everywhere(condition: keras.KerasTensor) -> keras.KerasTensor:
    """Whether ``condition``, a bool scalar, holds on each device that computes this step."""
    context = _replica()
    if context is None:
        return condition
    return keras.ops.equal(context.all_reduce("SUM", keras.ops.cast(keras.ops.logical_not(condition), "float32")), 0)


def _replica() -> Any:
    """TensorFlow's link between the devices that compute one step; None where there is one device or no such link."""
    return import_module("tensorflow").distribute.get_replica_context() if _replica_count() > 1 else None


def _replica_count() -> int:
    if keras.backend.backend() != "tensorflow":
        return 1
    return int(import_module("tensorflow").distribute.get_strategy().num_replicas_in_sync)


def adopt(model: keras.Model) -> None:
    """Have ``model``, built within ``parallel``, be trained there as on one device."""
    # JAX needs not be told: what it divides among devices stays one array.
    if _replica_count() == 1:
        return
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.synchronized = True
    # With it, Keras 3.15 takes a batch out of the queue before `fit` begins, and reads all later ones late by as many.
    model._distribute_strategy = None


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
