"""Speed of training on one GPU: fed from shards and with no input work, in float32 and in mixed bfloat16.

Each backbone is built, compiled and fed as in training, with the default settings. Weights are random, which does not
change the speed. The images are repeated until they fill the shards of an epoch. The sides take turns, the first three
with both precisions:

- shards: augmented batches from files;
- memory: one such batch in every step, which leaves the transfer to the device;
- device: the same batch, already on the device (JAX only);
- input: as shards, without training. The ratio to the rate of the device shows whether full queues hide a slow input.

Rates are those of whole epochs without the work of `fit` before the first batch. Everything is compiled beforehand. The
device waits between batches. Once an epoch it also waits for the first batch and for the end of Keras's threads (0.1 s
in any epoch). The table gives the first wait as a share and, in brackets, both together, in an epoch as short as these.
An epoch of four fifths of Kaggle's training images has 440 batches of 64. Its share lies between the two. The target is
for the first.

Prints a table and writes `results/benchmarks/gpu.json` after each case, and a copy to the folder of `--out`.

    python benchmarks/gpu.py [--backbones NAME ...] [--sizes PIXELS ...] [--steps N] [--batch-size N] [--any-device]

TensorFlow is not needed. On a machine with JAX (and with it NumPy, SciPy and ml-dtypes), set KERAS_BACKEND=jax and
install these wheels:

- keras, which needs absl-py, h5py, namex, optree, packaging, and rich with markdown-it-py, mdurl and pygments;
- opencv-python-headless, pillow and pyyaml.

Without EyePACS images, 960 images are drawn, which takes minutes. Fewer images can be drawn beforehand by
`retinaflow.data.demo` into `results/benchmarks/drawn`.
"""

import argparse
import functools
import itertools
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from importlib import import_module
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
from PIL import Image

from common import (
    GRADE_NAMES,
    QUICK,
    TARGET,
    Collection,
    Row,
    alternate,
    collection,
    machine,
    publish,
    rates,
    repeated,
    sized,
)
from retinaflow.networks import devices
from retinaflow.networks.backbones import BACKBONES
from retinaflow.networks.building import build, compile_model
from retinaflow.networks.objectives import targets
from retinaflow.preprocessing.batches import Batches, Images
from retinaflow.preprocessing.preprocess import prepare
from retinaflow.preprocessing.variant import Variant
from retinaflow.settings.preprocess import PreprocessSettings
from retinaflow.settings.train import TrainingSettings, TrainSection

CASES: tuple[tuple[str, int], ...] = sized(
    (("VGG16", 224), ("ResNet50", 224), ("InceptionV3", 224), ("InceptionV3", 299), ("ResNet50", 512)),
    (("MobileNetV3Small", 32),),
)
PRECISIONS = ("mixed_bfloat16", "float32")
SEED = 1
# `auto` with random weights.
RESOLVED = {"feature_layers": [], "head_epochs": 30, "learning_rate": 0.0001}
CORES: int = machine()["cores"]

LONGEST_WAIT = 0.03  # share of the time, at WAIT_SIZE with WAIT_CORES
WAIT_SIZE = 224
WAIT_CORES = 16
LEAST_GAIN = 2.0  # of bfloat16 over float32

Shards = list[tuple[Path, Path]]


class Times(NamedTuple):
    """Seconds of each round.

    Attributes:
        whole: Of the whole epoch.
        between: From the end of the first batch to the end of the last but one. The work that Keras does once an epoch
            is outside.
    """

    whole: list[float]
    between: list[float]


Sides = dict[tuple[str, str], Times]  # by precision and source


class Case(NamedTuple):
    """A network, an image size and an epoch to measure together."""

    backbone: str
    size: int
    batch_size: int
    steps: int

    @property
    def name(self) -> str:
        """Name in the table."""
        return f"{self.backbone}, {self.size} px, batch {self.batch_size}"

    @property
    def images(self) -> int:
        """Images in an epoch."""
        return self.batch_size * self.steps


class Stopwatch(keras.callbacks.Callback):
    """Time epochs. Each loss is known before its batch ends, so no work is left in a queue."""

    def __init__(self) -> None:
        super().__init__()
        self.times = Times([], [])

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:  # noqa: ARG002
        """Start the clock."""
        self.ends: list[float] = []
        self.start = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:  # noqa: ARG002
        """Store the end of a batch."""
        self.ends.append(time.perf_counter())

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:  # noqa: ARG002
        """Store the times of the epoch."""
        self.times.whole.append(time.perf_counter() - self.start)
        self.times.between.append(self.ends[-2] - self.ends[0])


class Repeated(keras.utils.PyDataset):
    """The same batch ``steps`` times."""

    def __init__(self, batch: tuple[Any, Any], steps: int) -> None:
        super().__init__()
        self.batch, self.steps = batch, steps

    @property
    def num_batches(self) -> int:
        """Batches in an epoch."""
        return self.steps

    def __getitem__(self, index: int) -> tuple[Any, Any]:
        """The batch."""
        return self.batch


def write_shards(source: Collection, size: int, count: int, folder: Path) -> tuple[list[Path], Shards]:
    """Write index table and shards of ``count`` images, which repeat those of ``source``."""
    settings = PreprocessSettings()
    variant = Variant(size, settings.crop, settings.aspect, settings.enhance)
    with ThreadPoolExecutor(CORES) as pool:
        pixels = list(pool.map(functools.partial(_prepare, variant=variant), source.paths[:count]))
    return repeated(np.stack(pixels), count, folder)


def _prepare(path: Path, variant: Variant) -> np.ndarray:
    with Image.open(path) as image:
        width, height = image.size
    return prepare(path.read_bytes(), width, height, variant)


def compiled(settings: TrainingSettings, precision: str) -> keras.Model:
    """The model of ``settings``, built in ``precision`` and compiled as ``retinaflow.training.fit`` does."""
    model = build(settings, len(GRADE_NAMES), precision=precision)
    compile_model(model, settings, len(GRADE_NAMES), jit=devices.compiles())
    return model


def sources(batches: Batches) -> dict[str, keras.utils.PyDataset]:
    """Return the inputs of the model by name. The last one has the least work."""
    batch, steps = batches[0], batches.num_batches
    found: dict[str, keras.utils.PyDataset] = {"shards": batches, "memory": Repeated(batch, steps)}
    if keras.backend.backend() == "jax":
        pixels, grades = (keras.ops.convert_to_tensor(array) for array in batch)
        found["device"] = Repeated((pixels, grades), steps)
    return found


def train_epoch(model: keras.Model, data: keras.utils.PyDataset, stopwatch: Stopwatch) -> None:
    """Train one epoch.

    Raises:
        RuntimeError: The epoch ended early.
    """
    callbacks = [stopwatch, keras.callbacks.TerminateOnNaN()]
    if isinstance(data, Batches):
        callbacks.append(data.follow_epochs())
    model.fit(data, shuffle=False, verbose=0, callbacks=callbacks)
    if model.stop_training:
        raise RuntimeError(f"{model.name}: the loss is no longer finite, so the epoch ended early and has no time.")


def read_epoch(batches: Batches) -> int:
    """Read and augment one epoch with as many threads as in training. Return the number of images."""
    with ThreadPoolExecutor(CORES) as pool:
        return sum(len(pixels) for pixels, _ in pool.map(batches.__getitem__, range(batches.num_batches)))


def measure(case: Case, indices: list[Path], shards: Shards) -> tuple[Sides, list[float], dict[str, float]]:
    """Measure one case.

    Returns:
        Times of each side, seconds of the input alone in each round, and peak device memory in GB by precision. The
        memory is empty if the backend does not report it.
    """
    devices.prepare_process(SEED, CORES)
    changes = {"backbone": case.backbone, "image_size": case.size, **RESOLVED}
    settings = TrainingSettings.model_validate(TrainSection().model_dump() | changes)
    images = Images(indices, shards, GRADE_NAMES)
    encoded = targets(settings.objective, images.grades, len(GRADE_NAMES))
    batches = Batches(images, case.batch_size, threads=CORES, seed=SEED, augment=settings.augment, targets=encoded)
    inputs = sources(batches)
    stopwatches: dict[tuple[str, str], Stopwatch] = {}
    epochs: dict[str, Callable[[], int | None]] = {"input": functools.partial(read_epoch, batches)}
    peaks = {}
    for precision in PRECISIONS:
        before, _ = memory()
        model = compiled(settings, precision)
        for source, data in inputs.items():
            train_epoch(model, data, Stopwatch())  # compiles
            stopwatch = stopwatches[precision, source] = Stopwatch()
            epochs[f"{precision} {source}"] = functools.partial(train_epoch, model, data, stopwatch)
        # Float32 is second and needs more, so the peak of the process belongs to it.
        _, peak = memory()
        if peak:
            peaks[precision] = round((peak - before) / 2**30, 2)
    seconds = alternate(epochs)  # of these, only the input is used: the times of `fit` include its set-up
    return {side: stopwatch.times for side, stopwatch in stopwatches.items()}, seconds["input"], peaks


def memory() -> tuple[int, int]:
    """Return bytes of device memory in use, and their peak; zeros if the backend does not report them."""
    if keras.backend.backend() == "jax":
        stats = import_module("jax").local_devices()[0].memory_stats() or {}
        return stats.get("bytes_in_use", 0), stats.get("peak_bytes_in_use", 0)
    if keras.backend.backend() == "tensorflow" and devices.has_gpu():
        stats = import_module("tensorflow").config.experimental.get_memory_info("GPU:0")
        return stats["current"], stats["peak"]
    return 0, 0


def gpu_name() -> str | None:
    """Return the name of the GPU that Keras uses, or None without a GPU."""
    if not devices.has_gpu():
        return None
    if keras.backend.backend() == "jax":
        return str(import_module("jax").local_devices()[0].device_kind)
    if keras.backend.backend() == "tensorflow":
        config = import_module("tensorflow").config
        gpu = config.list_physical_devices("GPU")[0]
        return str(config.experimental.get_device_details(gpu).get("device_name", gpu.name))
    return "GPU"


def table(case: Case, sides: Sides, reading: list[float]) -> Iterator[Row]:
    """Return the rows of a case: shards against each resident side, the two precisions, and the input alone."""
    resident = list(dict.fromkeys(source for _, source in sides if source != "shards"))
    for precision, source in itertools.product(PRECISIONS, resident):
        yield waiting(case, precision, source, sides[precision, "shards"], sides[precision, source])
    reduced, full = PRECISIONS
    per_image = {side: [seconds / case.images for seconds in times.whole] for side, times in sides.items()}
    for source, least in (("shards", None), (resident[-1], LEAST_GAIN)):
        seconds = {"ours": per_image[reduced, source], full: per_image[full, source]}
        yield from rates(f"{case.name}, {reduced}, {source}", seconds, {full: least}, "images/s")
    other = f"{reduced}, {resident[-1]}"
    seconds = {"ours": reading, other: per_image[reduced, resident[-1]]}
    yield from rates(f"{case.name}, input", seconds, {other: None}, "images/s")


def waiting(case: Case, precision: str, source: str, fed: Times, resident: Times) -> Row:
    """Return the share of its time that training from shards waits, compared with training from ``source``."""
    share, with_ends = (_share(*pair) for pair in ((fed.between, resident.between), (fed.whole, resident.whole)))
    has_target = case.size == WAIT_SIZE and CORES >= WAIT_CORES
    return Row(
        f"{case.name}, {precision}, shards",
        source,
        case.images / statistics.median(fed.whole),
        case.images / statistics.median(resident.whole),
        "images/s",
        f"waits {100 * share:.1f} % ({100 * with_ends:.1f} %)",
        f"under {100 * LONGEST_WAIT:g} %" if has_target else "",
        share < LONGEST_WAIT if has_target else None,
    )


def _share(fed: list[float], resident: list[float]) -> float:
    return statistics.median(1 - less / whole for whole, less in zip(fed, resident, strict=True))


def in_own_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call ``function`` in a new process, so that no earlier case affects the device or its statistics."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def read_arguments() -> tuple[list[Case], bool, Path | None]:
    """Return the cases, whether they may run without a GPU, and the folder for a copy of the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--backbones", nargs="+", choices=BACKBONES, help="default: VGG16 ResNet50 InceptionV3")
    parser.add_argument("--sizes", nargs="+", type=int, help="default with --backbones: 224")
    parser.add_argument(
        "--steps", type=int, default=sized(100, 3), help="batches in an epoch, from 3; default: %(default)s"
    )
    parser.add_argument("--batch-size", type=int, help="default: 64, and 16 from 512 px on")
    parser.add_argument("--any-device", action="store_true", default=QUICK, help="run without a GPU too")
    parser.add_argument("--out", type=Path, default=os.environ.get("OUT"), help="default: environment variable OUT")
    arguments = parser.parse_args()
    if arguments.steps < 3:
        parser.error(f"--steps: found {arguments.steps}; expected 3 or more")
    pairs: Any = CASES
    if arguments.backbones or arguments.sizes:
        backbones = arguments.backbones or list(dict.fromkeys(backbone for backbone, _ in CASES))
        pairs = itertools.product(backbones, arguments.sizes or [224])
    cases = [
        Case(name, size, arguments.batch_size or sized(64 if size < 512 else 16, 8), arguments.steps)
        for name, size in pairs
    ]
    return sorted(cases, key=lambda case: case.size), arguments.any_device, arguments.out


def main() -> None:
    """Measure, print and write each case."""
    cases, any_device, out = read_arguments()
    name = in_own_process(gpu_name)
    if not (name or any_device):
        sys.exit(f"Keras on {keras.backend.backend()} finds no GPU; --any-device measures without one.")
    source = collection()
    peaks: dict[str, dict[str, float]] = {}
    notes = {
        "device": name or "CPU",
        "backend": keras.backend.backend(),
        "images": source.name,
        "batches in an epoch": cases[0].steps,
        "float32": "products in the default precision of the backend: TF32 on GPUs that have it",
        "peak device memory, GB, including trials of the compiler": peaks,
    }
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for size, group in itertools.groupby(cases, key=lambda case: case.size):
            same_size = list(group)
            indices, shards = write_shards(source, size, same_size[0].images, Path(folder) / str(size))
            for case in same_size:
                sides, reading, peaks[case.name] = in_own_process(measure, case, indices, shards)
                rows += table(case, sides, reading)
                publish("gpu", rows, notes)  # after each case, so that an interrupted run keeps its results
                if out:
                    out.mkdir(parents=True, exist_ok=True)
                    shutil.copy(TARGET / "gpu.json", out)


if __name__ == "__main__":
    main()
