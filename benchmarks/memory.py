"""Peak memory of preprocessing, feeding and scoring, against the same work with ten times the images.

Each runs in its own process, and the system reports the largest resident size.

    python benchmarks/memory.py
"""

import os

os.environ["CUDA_VISIBLE_DEVICES"] = ""
import subprocess
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np

import common

COUNT, TIMES, SIZE = common.sized((400, 10, 224), (10, 2, 32))


def prepare(work: str, count: int, folder: Path) -> None:
    """Make the inputs of the work beforehand, because this also needs memory."""
    if work == "preprocess":
        few = common.collection()
        names = [folder / "images" / f"{number}.jpeg" for number in range(count)]
        names[0].parent.mkdir()
        for name, source in zip(names, cycle(few.paths), strict=False):
            name.symlink_to(source.resolve())
        common.index(common.Collection(few.name, names, list(islice(cycle(few.grades), count))), folder)
    else:
        common.repeated(np.zeros((100, SIZE, SIZE, 3), np.uint8), count, folder)


def preprocess(folder: Path) -> None:
    """Make one of the shards. The workflow has a process for each."""
    from retinaflow.preprocessing.preprocess import ShardJob, build_shard
    from retinaflow.preprocessing.variant import Variant
    from retinaflow.storage.tables import stream_table

    table = folder / "index.csv"
    shards = sum(1 for _ in stream_table(table)) // COUNT
    files = folder / "0.npy", folder / "0.csv"
    build_shard(ShardJob(table, 0, shards, Variant(SIZE, "trim", "keep", "none"), *files, "benchmark"))


def open_images(folder: Path) -> Any:
    """Open all images below ``folder``."""
    from retinaflow.preprocessing.batches import Images

    return Images(
        [folder / "index.csv"], [(file, file.with_suffix(".csv")) for file in folder.glob("*.npy")], common.GRADE_NAMES
    )


def feed(folder: Path) -> None:
    """Read an epoch of augmented batches with two workers."""
    from retinaflow.preprocessing.batches import Batches

    batches = Batches(open_images(folder), 32, threads=2, seed=1, augment=common.AUGMENT)
    with ThreadPoolExecutor(2) as pool:
        for start in range(0, batches.num_batches, 8):
            for batch in pool.map(batches.__getitem__, range(start, min(start + 8, batches.num_batches))):
                del batch


def score(folder: Path) -> None:
    """Predict with a model of a few operations."""
    import keras

    from retinaflow.networks import devices
    from retinaflow.scoring.score import predict_outputs

    devices.prepare_process(1, 2)
    pixels = keras.Input((SIZE, SIZE, 3), dtype="uint8")
    means = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / 255)(pixels))
    model = keras.Model(pixels, keras.layers.Dense(len(common.GRADE_NAMES), activation="softmax")(means))
    predict_outputs(model, open_images(folder), threads=2)


WORK: dict[str, Callable[[Path], None]] = {"preprocess": preprocess, "feed": feed, "score": score}


def peak(work: str, folder: Path) -> float:
    """Return the largest resident size in MB of a process that does ``work`` with the images of ``folder``."""
    process = subprocess.Popen([sys.executable, __file__, work, str(folder)], stderr=subprocess.PIPE)
    errors = process.stderr.read().decode() if process.stderr else ""
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(errors)
    return usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)


def main() -> None:
    """Measure, print and write the rows."""
    rows = []
    for work in WORK:
        peaks = {}
        for count in (COUNT, COUNT * TIMES):
            with tempfile.TemporaryDirectory() as name:
                prepare(work, count, Path(name))
                peaks[count] = [peak(work, Path(name)) for _ in range(common.ROUNDS)]
        few, many = (float(np.median(peaks[count])) for count in peaks)
        measured, against = (f"{work}, peak memory, {count} images" for count in (COUNT * TIMES, COUNT))
        figure = f"{many / few - 1:+.1%}"
        rows.append(common.Row(measured, against, many, few, "MB", figure, "within 10 %", many <= 1.1 * few))
    common.publish("memory", rows, {})


if __name__ == "__main__":
    if len(sys.argv) > 1:
        WORK[sys.argv[1]](Path(sys.argv[2]))
    else:
        main()
