"""How fast photographs become pixels of a shard, against the bare decode and against what others would write.

The limit is libjpeg-turbo alone: `cv2.imdecode` of the same bytes at the reduced scale that we choose. The others crop
nothing. Ours is `build_shard` as the workflow runs it: reading the file, checking its digest, decoding, cropping,
resizing and writing. All on one core, except for the rows that say otherwise.

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

AT_MOST = 480  # photographs a round: a second or so
SIZE = common.sized(224, 32)


def few(photographs: common.Collection) -> common.Collection:
    """As many as a round takes."""
    return common.Collection(photographs.name, photographs.paths[:AT_MOST], photographs.levels[:AT_MOST])


def others(paths: list[Path], size: int) -> dict[str, Callable[[], int]]:
    """What reads the same photographs elsewhere; the limit has their bytes in memory already."""
    cv2.setNumThreads(1)
    recipe = Variant(size, "trim", "keep", "none")
    contents = [path.read_bytes() for path in paths]
    jobs = []
    for content in contents:
        flag = DECODE_FLAGS[reduced_scale(*Image.open(io.BytesIO(content)).size, recipe)]
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
    """A full decode, then OpenCV's resize with what it does unasked."""
    return lambda content: cv2.resize(cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR), (size, size))


def tensorflow(size: int) -> Callable[[bytes], object]:
    """TensorFlow's own decode and resize, with what they do unasked, on one core as all the others."""
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)

    def convert(content: bytes) -> object:
        return tf.cast(tf.image.resize(tf.io.decode_jpeg(content, channels=3), (size, size)), tf.uint8).numpy()

    return convert


def pillow(size: int) -> Callable[[bytes], object]:
    """Pillow at its best: reduced decode (draft) and a resize that averages."""

    def convert(content: bytes) -> object:
        with Image.open(io.BytesIO(content)) as image:
            image.draft("RGB", (size, size))
            return np.asarray(image.resize((size, size), Image.Resampling.BOX))

    return convert


def compare(photographs: common.Collection, size: int, folder: Path) -> list[common.Row]:
    """One core, ours against everybody."""
    some, recipe = few(photographs), Variant(size, "trim", "keep", "none")
    index = common.index(some, folder)
    elsewhere = common.Elsewhere(others, some.paths, size)
    targets = dict.fromkeys(elsewhere.names, 1.0) | {"bare reduced decode (limit)": 0.85}
    if photographs.name.endswith("original"):
        targets["full decode + resize (article)"] = 3.0
    seconds = common.alternate({"ours": lambda: build(index, recipe), **elsewhere.sides()})
    return common.rates(f"{photographs.name} to {size} px, one core", seconds, targets, "images/s")


def build(index: Path, recipe: Variant, number: int = 0, shards: int = 1) -> int:
    """Make one shard from nothing."""
    target = Path(tempfile.mkdtemp(dir=index.parent))
    job = ShardJob(index, number, shards, recipe, target / "0.npy", target / "0.csv", "benchmark")
    return build_shard(job).images


def decode(index: Path, recipe: Variant, number: int, shards: int) -> int:
    """Decode what the shard would hold and no more."""
    rows = [row for row in read_table(index) if shard_of(row["image"], shards) == number]
    for row in rows:
        content = (index.parent / row["grade_name"] / row["filename"]).read_bytes()
        flag = DECODE_FLAGS[reduced_scale(int(row["width"]), int(row["height"]), recipe)]
        cv2.imdecode(np.frombuffer(content, np.uint8), flag)
    return len(rows)


def both(work: Callable[..., int], *arguments: object) -> int:
    """Two shards one after the other."""
    return sum(work(*arguments, number, 2) for number in range(2))


def scaling(photographs: common.Collection, folder: Path) -> list[common.Row]:
    """Two shards side by side in two processes, as the workflow runs them, against one after the other in one."""
    index, recipe = common.index(few(photographs), folder), Variant(SIZE, "trim", "keep", "none")
    halves = [(index, recipe, number, 2) for number in range(2)]
    rows = []
    with multiprocessing.get_context("spawn").Pool(2, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        pool.starmap(decode, halves, chunksize=1)
        for name, work, least in (("two cores", build, 1.85), ("bare decode, two cores: what they give", decode, None)):
            sides = {
                "ours": lambda work=work: sum(pool.starmap(work, halves, chunksize=1)),
                "one core": lambda work=work: pool.apply(both, (work, index, recipe)),
            }
            seconds = common.alternate(sides)
            rows += common.rates(f"{photographs.name} to {SIZE} px, {name}", seconds, {"one core": least}, "images/s")
    return rows


def main() -> None:
    """Measure and print."""
    rows: list[common.Row] = []
    cases = [(common.collection(), SIZE)]
    originals = common.originals()
    if originals:
        cases += [(originals, SIZE), (originals, 512)]
    for photographs, size in cases:
        with tempfile.TemporaryDirectory() as folder:
            rows += compare(photographs, size, Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        rows += scaling(cases[0][0], Path(folder))
    common.publish("preprocess", rows, {})


if __name__ == "__main__":
    main()
