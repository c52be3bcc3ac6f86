"""Training on one GPU: images/s fed from shards and with no input work, what the device waits for, bfloat16.

Each backbone is built, compiled and fed as in training, with the default settings, in float32 and in mixed bfloat16;
weights are random, which speed does not depend on. The same photographs fill as many shards as an epoch needs. Sides
take turns, the first three with both precisions:

- shards: augmented batches from files;
- memory: one such batch again and again, which leaves the transfer to the device;
- device: the same batch, already there (JAX alone can be fed that way);
- input: as shards, but nobody trains; how many times what the device takes tells whether a full queue hides a lack.

Rates are those of whole epochs without what `fit` sets up before, and all is compiled beforehand. The device waits from
batch to batch, and once an epoch for the first batch and for Keras's threads to end (0.1 s however long the epoch is).
The table gives the first as a share and, in brackets, both together in an epoch as short as these; in one of four
fifths of Kaggle's training photographs, 440 batches of 64, the share lies between. The target is about the first.

Prints a table and writes `results/benchmarks/gpu.json` after each case, and a copy to the folder of `--out`.

    python benchmarks/gpu.py [--backbones NAME ...] [--sizes PIXELS ...] [--steps N] [--batch-size N] [--any-device]

TensorFlow is not needed: with KERAS_BACKEND=jax, a machine that has JAX, and with it NumPy, SciPy and ml-dtypes, takes
the wheels of keras (which needs absl-py, h5py, namex, optree, packaging, and rich with markdown-it-py, mdurl and
pygments), opencv-python-headless, pillow and pyyaml. Without EyePACS photographs 960 are drawn, which takes minutes;
fewer, drawn beforehand by `retinaflow.data.demo` into `results/benchmarks/drawn`, serve as well.
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
    CLASSES,
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
    """Seconds of each round: of the whole epoch, and from the end of its first batch to that of the last but one.

    What Keras does once an epoch falls before the first of these ends and after the second.
    """

    whole: list[float]
    between: list[float]


Sides = dict[tuple[str, str], Times]  # by precision and source


class Case(NamedTuple):
    """What is measured at once."""

    backbone: str
    size: int
    batch_size: int
    steps: int

    @property
    def name(self) -> str:
        """As in the table."""
        return f"{self.backbone}, {self.size} px, batch {self.batch_size}"

    @property
    def photographs(self) -> int:
        """Photographs in an epoch."""
        return self.batch_size * self.steps


class Stopwatch(keras.callbacks.Callback):
    """Times epochs; each loss is known before its batch ends, so nothing is left in a queue."""

    def __init__(self) -> None:
        super().__init__()
        self.times = Times([], [])

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:  # noqa: ARG002
        """Start."""
        self.ends: list[float] = []
        self.start = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:  # noqa: ARG002
        """Note the time."""
        self.ends.append(time.perf_counter())

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:  # noqa: ARG002
        """Stop."""
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


def write_part(photographs: Collection, size: int, count: int, folder: Path) -> tuple[list[Path], Shards]:
    """Index table and shards of ``count`` photographs: those there are, as often as it takes."""
    how = PreprocessSettings()
    recipe = Variant(size, how.crop, how.aspect, how.enhance)
    with ThreadPoolExecutor(CORES) as pool:
        pixels = list(pool.map(functools.partial(_prepare, recipe=recipe), photographs.paths[:count]))
    return repeated(np.stack(pixels), count, folder)


def _prepare(path: Path, recipe: Variant) -> np.ndarray:
    with Image.open(path) as image:
        width, height = image.size
    return prepare(path.read_bytes(), width, height, recipe)


def compiled(settings: TrainingSettings, precision: str) -> keras.Model:
    """The model of ``settings``, built in ``precision`` and compiled as ``retinaflow.training.fit`` does."""
    model = build(settings, len(CLASSES), precision=precision)
    compile_model(model, settings, len(CLASSES), jit=devices.compiles())
    return model


def sources(batches: Batches) -> dict[str, keras.utils.PyDataset]:
    """What the model is fed from, by name; the last is the one with the least work."""
    batch, steps = batches[0], batches.num_batches
    found: dict[str, keras.utils.PyDataset] = {"shards": batches, "memory": Repeated(batch, steps)}
    if keras.backend.backend() == "jax":
        pixels, levels = (keras.ops.convert_to_tensor(array) for array in batch)
        found["device"] = Repeated((pixels, levels), steps)
    return found


def train_epoch(model: keras.Model, data: keras.utils.PyDataset, stopwatch: Stopwatch) -> None:
    """One epoch; ``RuntimeError`` if it was cut short."""
    callbacks = [stopwatch, keras.callbacks.TerminateOnNaN()]
    if isinstance(data, Batches):
        callbacks.append(data.follow_epochs())
    model.fit(data, shuffle=False, verbose=0, callbacks=callbacks)
    if model.stop_training:
        raise RuntimeError(f"{model.name}: the loss is no longer finite, so the epoch was cut short; nothing to time.")


def read_epoch(batches: Batches) -> int:
    """Read and augment one epoch with as many threads as in training; returns the number of photographs."""
    with ThreadPoolExecutor(CORES) as pool:
        return sum(len(pixels) for pixels, _ in pool.map(batches.__getitem__, range(batches.num_batches)))


def measure(case: Case, indices: list[Path], shards: Shards) -> tuple[Sides, list[float], dict[str, float]]:
    """Times of each side, seconds a photograph of the input alone, and peak device memory in GB if that is known."""
    devices.prepare(SEED, CORES)
    changes = {"backbone": case.backbone, "image_size": case.size, **RESOLVED}
    settings = TrainingSettings.model_validate(TrainSection().model_dump() | changes)
    photographs = Images(indices, shards, CLASSES)
    answers = targets(settings.objective, photographs.grades, len(CLASSES))
    batches = Batches(photographs, case.batch_size, threads=CORES, seed=SEED, augment=settings.augment, targets=answers)
    fed = sources(batches)
    stopwatches: dict[tuple[str, str], Stopwatch] = {}
    epochs: dict[str, Callable[[], int | None]] = {"input": functools.partial(read_epoch, batches)}
    peaks = {}
    for precision in PRECISIONS:
        before, _ = memory()
        model = compiled(settings, precision)
        for source, data in fed.items():
            train_epoch(model, data, Stopwatch())  # compiles
            stopwatch = stopwatches[precision, source] = Stopwatch()
            epochs[f"{precision} {source}"] = functools.partial(train_epoch, model, data, stopwatch)
        # Float32 comes second and needs more, so the peak of the process is its own.
        _, peak = memory()
        if peak:
            peaks[precision] = round((peak - before) / 2**30, 2)
    seconds = alternate(epochs)  # with `fit`, they hold what it sets up: the stopwatches know better
    return {side: stopwatch.times for side, stopwatch in stopwatches.items()}, seconds["input"], peaks


def memory() -> tuple[int, int]:
    """Bytes of device memory in use, and the most there were; zeros where the backend does not tell."""
    if keras.backend.backend() == "jax":
        told = import_module("jax").local_devices()[0].memory_stats() or {}
        return told.get("bytes_in_use", 0), told.get("peak_bytes_in_use", 0)
    if keras.backend.backend() == "tensorflow" and devices.has_gpu():
        told = import_module("tensorflow").config.experimental.get_memory_info("GPU:0")
        return told["current"], told["peak"]
    return 0, 0


def gpu_name() -> str | None:
    """What Keras computes on, if that is a GPU."""
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
    """The rows of a case: shards against each resident side, the two precisions, and the input alone."""
    resident = list(dict.fromkeys(source for _, source in sides if source != "shards"))
    for precision, source in itertools.product(PRECISIONS, resident):
        yield waiting(case, precision, source, sides[precision, "shards"], sides[precision, source])
    reduced, full = PRECISIONS
    each = {side: [seconds / case.photographs for seconds in times.whole] for side, times in sides.items()}
    for source, least in (("shards", None), (resident[-1], LEAST_GAIN)):
        seconds = {"ours": each[reduced, source], full: each[full, source]}
        yield from rates(f"{case.name}, {reduced}, {source}", seconds, {full: least}, "images/s")
    other = f"{reduced}, {resident[-1]}"
    seconds = {"ours": reading, other: each[reduced, resident[-1]]}
    yield from rates(f"{case.name}, input", seconds, {other: None}, "images/s")


def waiting(case: Case, precision: str, source: str, fed: Times, resident: Times) -> Row:
    """How much of its time training from shards spends on what training from ``source`` does without."""
    share, with_ends = (_share(*pair) for pair in ((fed.between, resident.between), (fed.whole, resident.whole)))
    judged = case.size == WAIT_SIZE and CORES >= WAIT_CORES
    return Row(
        f"{case.name}, {precision}, shards",
        source,
        case.photographs / statistics.median(fed.whole),
        case.photographs / statistics.median(resident.whole),
        "images/s",
        f"waits {100 * share:.1f} % ({100 * with_ends:.1f} %)",
        f"under {100 * LONGEST_WAIT:g} %" if judged else "",
        share < LONGEST_WAIT if judged else None,
    )


def _share(fed: list[float], resident: list[float]) -> float:
    return statistics.median(1 - less / whole for whole, less in zip(fed, resident, strict=True))


def in_own_process(function: Callable[..., Any], *arguments: Any) -> Any:
    """Call ``function`` where no earlier case has left anything on the device or in its statistics."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def read_arguments() -> tuple[list[Case], bool, Path | None]:
    """Cases, whether they may run without a GPU, and the folder for a copy of the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--backbones", nargs="+", choices=BACKBONES, help="default: VGG16 ResNet50 InceptionV3")
    parser.add_argument("--sizes", nargs="+", type=int, help="default with --backbones: 224")
    parser.add_argument(
        "--steps", type=int, default=sized(100, 3), help="batches in an epoch, from 3; default: %(default)s"
    )
    parser.add_argument("--batch-size", type=int, help="default: 64, and 16 from 512 px on")
    parser.add_argument("--any-device", action="store_true", default=QUICK, help="run without a GPU too")
    parser.add_argument("--out", type=Path, default=os.environ.get("OUT"), help="default: environment variable OUT")
    given = parser.parse_args()
    if given.steps < 3:
        parser.error(f"--steps: found {given.steps}; expected 3 or more")
    pairs: Any = CASES
    if given.backbones or given.sizes:
        backbones = given.backbones or list(dict.fromkeys(backbone for backbone, _ in CASES))
        pairs = itertools.product(backbones, given.sizes or [224])
    cases = [
        Case(name, size, given.batch_size or sized(64 if size < 512 else 16, 8), given.steps) for name, size in pairs
    ]
    return sorted(cases, key=lambda case: case.size), given.any_device, given.out


def main() -> None:
    """Measure, print and write each case."""
    cases, any_device, out = read_arguments()
    name = in_own_process(gpu_name)
    if not (name or any_device):
        sys.exit(f"Keras on {keras.backend.backend()} finds no GPU; --any-device measures without one.")
    photographs = collection()
    peaks: dict[str, dict[str, float]] = {}
    notes = {
        "device": name or "CPU",
        "backend": keras.backend.backend(),
        "photographs": photographs.name,
        "batches in an epoch": cases[0].steps,
        "float32": "products as the backend computes them by default: in TF32 on GPUs that have it",
        "peak device memory, GB, with what the compiler tried": peaks,
    }
    rows: list[Row] = []
    with tempfile.TemporaryDirectory() as folder:
        for size, group in itertools.groupby(cases, key=lambda case: case.size):
            same_size = list(group)
            indices, shards = write_part(photographs, size, same_size[0].photographs, Path(folder) / str(size))
            for case in same_size:
                sides, reading, peaks[case.name] = in_own_process(measure, case, indices, shards)
                rows += table(case, sides, reading)
                publish("gpu", rows, notes)  # now, so that a run cut short keeps what it measured
                if out:
                    out.mkdir(parents=True, exist_ok=True)
                    shutil.copy(TARGET / "gpu.json", out)


if __name__ == "__main__":
    main()
