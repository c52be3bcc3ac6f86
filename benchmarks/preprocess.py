"""Speed of preprocessing: from image files to the pixels of a shard, against the bare decode and other libraries.

The limit is libjpeg-turbo alone: `cv2.imdecode` of the same bytes at the reduced scale that we choose. The other sides
crop nothing. Ours is `build_shard`, as the workflow runs it: read the file, check its digest, decode, crop, resize and
write. All of it runs on one core, except for the rows that name two.

    python benchmarks/preprocess.py
"""

import os

os.environ["CUDA_VISIBLE_DEVICES"] = ""
import io
import multiprocessing
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

import common
from retinaflow.preprocessing.preprocess import DECODE_FLAGS, ShardJob, build_shard, reduced_scale
from retinaflow.preprocessing.shards import shard_of
from retinaflow.preprocessing.variant import Variant
from retinaflow.storage.tables import read_table

AT_MOST = 480  # images in a round: about a second
SIZE = common.sized(224, 32)


def few(source: common.Collection) -> common.Collection:
    """Return the first images, as many as a round needs."""
    return common.Collection(source.name, source.paths[:AT_MOST], source.grades[:AT_MOST])


def others(paths: list[Path], size: int) -> dict[str, Callable[[], int]]:
    """Return the other sides, which read the same images. The limit has their bytes in memory already."""
    cv2.setNumThreads(1)
    variant = Variant(size, "trim", "keep", "none")
    contents = [path.read_bytes() for path in paths]
    jobs = []
    for content in contents:
        flag = DECODE_FLAGS[reduced_scale(*Image.open(io.BytesIO(content)).size, variant)]
        jobs.append((np.frombuffer(content, np.uint8), flag))

    def limit() -> int:
        for content, flag in jobs:
            cv2.imdecode(content, flag)
        return len(jobs)

    def each(convert: Callable[[bytes], object]) -> int:
        for path in paths:
            convert(path.read_bytes())
        return len(paths)

    return {
        "bare reduced decode (limit)": limit,
        "full decode + resize (article)": partial(each, article(size)),
        "tf.io.decode_jpeg + tf.image.resize": partial(each, tensorflow(size)),
        "Pillow draft + resize": partial(each, pillow(size)),
    }


def article(size: int) -> Callable[[bytes], object]:
    """Return a function that decodes in full and resizes with the defaults of OpenCV."""
    return lambda content: cv2.resize(cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR), (size, size))


def tensorflow(size: int) -> Callable[[bytes], object]:
    """Return a function that decodes and resizes with the defaults of TensorFlow, on one core."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)

    def convert(content: bytes) -> object:
        return tf.cast(tf.image.resize(tf.io.decode_jpeg(content, channels=3), (size, size)), tf.uint8).numpy()

    return convert


def pillow(size: int) -> Callable[[bytes], object]:
    """Return the fastest way of Pillow: reduced decode (draft) and a resize that averages."""

    def convert(content: bytes) -> object:
        with Image.open(io.BytesIO(content)) as image:
            image.draft("RGB", (size, size))
            return np.asarray(image.resize((size, size), Image.Resampling.BOX))

    return convert


def compare(source: common.Collection, size: int, folder: Path) -> list[common.Row]:
    """Compare ours with all other sides on one core."""
    used, variant = few(source), Variant(size, "trim", "keep", "none")
    index = common.index(used, folder)
    process = common.OtherProcess(others, used.paths, size)
    targets = dict.fromkeys(process.names, 1.0) | {"bare reduced decode (limit)": 0.85}
    if source.name.endswith("original"):
        targets["full decode + resize (article)"] = 3.0
    seconds = common.alternate({"ours": lambda: build(index, variant), **process.sides()})
    return common.rates(f"{source.name} to {size} px, one core", seconds, targets, "images/s")


def build(index: Path, variant: Variant, number: int = 0, shards: int = 1) -> int:
    """Make one shard in a new folder. Return its number of images."""
    target = Path(tempfile.mkdtemp(dir=index.parent))
    job = ShardJob(index, number, shards, variant, target / "0.npy", target / "0.csv", "benchmark")
    return build_shard(job).images


def decode(index: Path, variant: Variant, number: int, shards: int) -> int:
    """Decode the images of one shard and do nothing else. Return their number."""
    rows = [row for row in read_table(index) if shard_of(row["image"], shards) == number]
    for row in rows:
        content = (index.parent / row["grade_name"] / row["filename"]).read_bytes()
        flag = DECODE_FLAGS[reduced_scale(int(row["width"]), int(row["height"]), variant)]
        cv2.imdecode(np.frombuffer(content, np.uint8), flag)
    return len(rows)


def both(work: Callable[..., int], *arguments: object) -> int:
    """Do the work for two shards, one after the other."""
    return sum(work(*arguments, number, 2) for number in range(2))


def scaling(source: common.Collection, folder: Path) -> list[common.Row]:
    """Compare two shards in two processes, as the workflow runs them, with one after the other in one process."""
    index, variant = common.index(few(source), folder), Variant(SIZE, "trim", "keep", "none")
    halves = [(index, variant, number, 2) for number in range(2)]
    rows = []
    with multiprocessing.get_context("spawn").Pool(2, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        pool.starmap(decode, halves, chunksize=1)
        for name, work, least in (("two cores", build, 1.85), ("bare decode, two cores: the limit", decode, None)):
            sides = {
                "ours": lambda work=work: sum(pool.starmap(work, halves, chunksize=1)),
                "one core": lambda work=work: pool.apply(both, (work, index, variant)),
            }
            seconds = common.alternate(sides)
            rows += common.rates(f"{source.name} to {SIZE} px, {name}", seconds, {"one core": least}, "images/s")
    return rows


def main() -> None:
    """Measure, print and write the rows."""
    rows: list[common.Row] = []
    cases = [(common.collection(), SIZE)]
    originals = common.originals()
    if originals:
        cases += [(originals, SIZE), (originals, 512)]
    for source, size in cases:
        with tempfile.TemporaryDirectory() as folder:
            rows += compare(source, size, Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        rows += scaling(cases[0][0], Path(folder))
    common.publish("preprocess", rows, {})


if __name__ == "__main__":
    main()
