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
from pathlib import Path

import cv2
import numpy as np
from PIL import Image

import common
from retinaflow.preprocess import DECODE_FLAGS, build_shard, reduced_scale
from retinaflow.recipe import Recipe
from retinaflow.shards import shard_of
from retinaflow.tables import read_table

AT_MOST = 480  # photographs a round: a second or so


class Case:
    """Some photographs of a collection and the index of them."""

    def __init__(self, photographs: common.Collection, folder: Path) -> None:
        """Write the index to ``folder``."""
        some = common.Collection(photographs.name, photographs.paths[:AT_MOST], photographs.levels[:AT_MOST])
        self.index = common.index(some, folder)
        self.paths = some.paths
        self.contents = [path.read_bytes() for path in self.paths]
        self.sizes = [Image.open(io.BytesIO(content)).size for content in self.contents]

    def limit(self, recipe: Recipe) -> Callable[[], int]:
        """The bare decode of the same bytes at the same scales."""
        jobs = [
            (np.frombuffer(content, np.uint8), DECODE_FLAGS[reduced_scale(width, height, recipe)])
            for content, (width, height) in zip(self.contents, self.sizes, strict=True)
        ]

        def decode() -> int:
            for content, flag in jobs:
                cv2.imdecode(content, flag)
            return len(jobs)

        return decode

    def each(self, convert: Callable[[bytes], object]) -> Callable[[], int]:
        """Read each file and convert it."""

        def run() -> int:
            for path in self.paths:
                convert(path.read_bytes())
            return len(self.paths)

        return run


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
    case, recipe = Case(photographs, folder), Recipe(size, "trim", "keep", "none")
    sides = {
        "ours": lambda: build(case.index, recipe),
        "bare reduced decode (limit)": case.limit(recipe),
        "full decode + resize (article)": case.each(article(size)),
        "tf.io.decode_jpeg + tf.image.resize": case.each(tensorflow(size)),
        "Pillow draft + resize": case.each(pillow(size)),
    }
    seconds = common.alternate(sides)
    least = 3.0 if photographs.name.endswith("original") else 1.0
    targets = dict.fromkeys(list(sides)[1:], 1.0) | {
        "bare reduced decode (limit)": 0.85,
        "full decode + resize (article)": least,
    }
    return common.rates(f"{photographs.name} to {size} px, one core", seconds, targets, "images/s")


def build(index: Path, recipe: Recipe, number: int = 0, shards: int = 1) -> int:
    """Make one shard from nothing."""
    target = Path(tempfile.mkdtemp(dir=index.parent))
    return build_shard(index, number, shards, recipe, target / "0.npy", target / "0.csv", "benchmark", 1).images


def decode(index: Path, recipe: Recipe, number: int, shards: int) -> int:
    """Decode what the shard would hold and no more."""
    rows = [row for row in read_table(index) if shard_of(row["image"], shards) == number]
    for row in rows:
        content = (index.parent / row["class"] / row["filename"]).read_bytes()
        flag = DECODE_FLAGS[reduced_scale(int(row["width"]), int(row["height"]), recipe)]
        cv2.imdecode(np.frombuffer(content, np.uint8), flag)
    return len(rows)


def both(work: Callable[..., int], *arguments: object) -> int:
    """Two shards one after the other."""
    return sum(work(*arguments, number, 2) for number in range(2))


def scaling(photographs: common.Collection, folder: Path) -> list[common.Row]:
    """Two shards side by side in two processes, as the workflow runs them, against one after the other in one."""
    case, recipe = Case(photographs, folder), Recipe(224, "trim", "keep", "none")
    halves = [(case.index, recipe, number, 2) for number in range(2)]
    rows = []
    with multiprocessing.get_context("spawn").Pool(2, initializer=cv2.setNumThreads, initargs=(1,)) as pool:
        pool.starmap(decode, halves, chunksize=1)
        for name, work, least in (("two cores", build, 1.85), ("bare decode, two cores: what they give", decode, None)):
            sides = {
                "ours": lambda work=work: sum(pool.starmap(work, halves, chunksize=1)),
                "one core": lambda work=work: pool.apply(both, (work, case.index, recipe)),
            }
            seconds = common.alternate(sides)
            rows += common.rates(f"{photographs.name} to 224 px, {name}", seconds, {"one core": least}, "images/s")
    return rows


def main() -> None:
    """Measure and print."""
    cv2.setNumThreads(1)
    rows: list[common.Row] = []
    cases = [(common.collection(), 224)]
    originals = common.originals()
    if originals:
        cases += [(originals, 224), (originals, 512)]
    for photographs, size in cases:
        with tempfile.TemporaryDirectory() as folder:
            rows += compare(photographs, size, Path(folder))
    with tempfile.TemporaryDirectory() as folder:
        rows += scaling(cases[0][0], Path(folder))
    common.publish("preprocess", rows, {})


if __name__ == "__main__":
    main()
