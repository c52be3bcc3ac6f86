"""Peak memory of preprocessing, feeding and scoring, against the same with ten times the photographs.

Each is done in a process of its own, whose largest resident size the system tells.

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


def prepare(what: str, count: int, folder: Path) -> None:
    """What the work starts from; made beforehand, as it takes memory itself."""
    if what == "preprocess":
        few = common.collection()
        names = [folder / "photographs" / f"{number}.jpeg" for number in range(count)]
        names[0].parent.mkdir()
        for name, source in zip(names, cycle(few.paths), strict=False):
            name.symlink_to(source.resolve())
        common.index(common.Collection(few.name, names, list(islice(cycle(few.levels), count))), folder)
    else:
        common.repeated(np.zeros((100, SIZE, SIZE, 3), np.uint8), count, folder)


def preprocess(folder: Path) -> None:
    """One of the shards that the photographs make: the workflow has a process for each."""
    from retinaflow.preprocessing.preprocess import ShardJob, build_shard
    from retinaflow.preprocessing.variant import Variant
    from retinaflow.storage.tables import stream_table

    table = folder / "index.csv"
    shards = sum(1 for _ in stream_table(table)) // COUNT
    files = folder / "0.npy", folder / "0.csv"
    build_shard(ShardJob(table, 0, shards, Variant(SIZE, "trim", "keep", "none"), *files, "benchmark"))


def photographs(folder: Path) -> Any:
    """All photographs below ``folder``."""
    from retinaflow.preprocessing.batches import Images

    return Images(
        [folder / "index.csv"], [(file, file.with_suffix(".csv")) for file in folder.glob("*.npy")], common.CLASSES
    )


def feed(folder: Path) -> None:
    """An epoch of augmented batches, by two workers."""
    from retinaflow.preprocessing.batches import Batches

    batches = Batches(photographs(folder), 32, threads=2, seed=1, augment=common.AUGMENT)
    with ThreadPoolExecutor(2) as pool:
        for start in range(0, batches.num_batches, 8):
            for batch in pool.map(batches.__getitem__, range(start, min(start + 8, batches.num_batches))):
                del batch


def score(folder: Path) -> None:
    """Predictions of a model that does next to nothing."""
    import keras

    from retinaflow.networks import devices
    from retinaflow.scoring.score import predict

    devices.prepare(1, 2)
    pixels = keras.Input((SIZE, SIZE, 3), dtype="uint8")
    means = keras.layers.GlobalAveragePooling2D()(keras.layers.Rescaling(1 / 255)(pixels))
    model = keras.Model(pixels, keras.layers.Dense(len(common.CLASSES), activation="softmax")(means))
    predict(model, photographs(folder), threads=2)


WORK: dict[str, Callable[[Path], None]] = {"preprocess": preprocess, "feed": feed, "score": score}


def peak(what: str, folder: Path) -> float:
    """Largest resident size in MB of a process that does ``what`` with the photographs of ``folder``."""
    process = subprocess.Popen([sys.executable, __file__, what, str(folder)], stderr=subprocess.PIPE)
    errors = process.stderr.read().decode() if process.stderr else ""
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(errors)
    return usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)


def main() -> None:
    """Measure and print."""
    rows = []
    for what in WORK:
        peaks = {}
        for count in (COUNT, COUNT * TIMES):
            with tempfile.TemporaryDirectory() as name:
                prepare(what, count, Path(name))
                peaks[count] = [peak(what, Path(name)) for _ in range(common.ROUNDS)]
        few, many = (float(np.median(peaks[count])) for count in peaks)
        measured, against = (f"{what}, peak memory, {count} photographs" for count in (COUNT * TIMES, COUNT))
        figure = f"{many / few - 1:+.1%}"
        rows.append(common.Row(measured, against, many, few, "MB", figure, "within 10 %", many <= 1.1 * few))
    common.publish("memory", rows, {})


if __name__ == "__main__":
    if len(sys.argv) > 1:
        WORK[sys.argv[1]](Path(sys.argv[2]))
    else:
        main()
