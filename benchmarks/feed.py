"""How fast training batches of 224 px come out of the shards, against what else one would feed Keras with.

Two workers on two cores, batches of 32, nothing consumes them. Everybody reads photographs that are already 224 px:
ours and `tf.data` from shards, the others from JPEG files in class folders, as the article leaves them. The
augmentation is the article's (flips, shifts of 10 %, zoom of 20 %, rotation of 20 degrees), fused into one warp here,
one step after the other in Keras's layers.

    python benchmarks/feed.py
"""

import os

os.environ["CUDA_VISIBLE_DEVICES"] = ""
import itertools
import tempfile
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import keras
import numpy as np
import tensorflow as tf

import common
from retinaflow import augment
from retinaflow.loader import Batches, Photographs
from retinaflow.shards import read_shard

SIZE, BATCH, WORKERS, QUEUE = 224, 32, 2, 8
CLASSES = [f"class{level}" for level in range(5)]
AUGMENT = {"rotation": 20, "shift": 0.1, "zoom": [0.8, 1.2], "flip_horizontal": True, "flip_vertical": True}


def consume(batches: Any, count: int) -> int:
    """Ask two workers for ``count`` batches, as Keras does of a PyDataset; returns the number of photographs."""
    seen = 0
    waiting: deque[Future[Any]] = deque()
    with ThreadPoolExecutor(WORKERS) as pool:
        for number in range(count):
            waiting.append(pool.submit(batches.__getitem__, number % batches.num_batches))
            if len(waiting) == QUEUE:
                seen += len(waiting.popleft().result()[0])
        return seen + sum(len(batch.result()[0]) for batch in waiting)


def drain(batches: Iterable[Any], count: int) -> int:
    """Take ``count`` batches from a `tf.data` pipeline, which has threads of its own."""
    return sum(len(pixels) for pixels, _ in itertools.islice(batches, count))


def image_data_generator(tree: Path) -> Any:
    """Keras's ImageDataGenerator with the article's augmentation."""
    generator = keras.src.legacy.preprocessing.image.ImageDataGenerator(
        horizontal_flip=True,
        vertical_flip=True,
        width_shift_range=0.1,
        height_shift_range=0.1,
        zoom_range=0.2,
        rotation_range=20,
    )
    return generator.flow_from_directory(tree, (SIZE, SIZE), batch_size=BATCH, class_mode="sparse", seed=1)


def layers() -> Callable[[Any], Any]:
    """The same augmentation as layers of Keras."""
    steps = [
        keras.layers.RandomFlip("horizontal_and_vertical"),
        keras.layers.RandomTranslation(0.1, 0.1, fill_mode="nearest"),
        keras.layers.RandomZoom((-0.2, 0.2), (-0.2, 0.2), fill_mode="nearest"),
        keras.layers.RandomRotation(20 / 360, fill_mode="nearest"),
    ]

    def apply(pixels: Any) -> Any:
        for step in steps:
            pixels = step(pixels, training=True)
        return pixels

    return apply


def from_directory(tree: Path) -> Any:
    """`image_dataset_from_directory` with Keras's layers."""
    change = layers()
    batches = keras.utils.image_dataset_from_directory(
        tree, image_size=(SIZE, SIZE), batch_size=BATCH, seed=1, verbose=False
    )
    batches = batches.map(lambda pixels, levels: (change(pixels), levels), num_parallel_calls=WORKERS)
    return batches.repeat().prefetch(2)


def from_shards(pixels: np.ndarray, levels: np.ndarray, augmented: bool) -> Any:
    """`tf.data` that shuffles the rows of a mapped shard, with Keras's layers or with our warp on top."""
    warp = np.random.default_rng(1)

    def row(number: int) -> np.ndarray:
        out = np.empty((SIZE, SIZE, 3), np.uint8)
        augment.apply(pixels[number], augment.draw(AUGMENT, SIZE, warp), out)
        return out

    def read(number: Any) -> Any:
        image = tf.numpy_function(row if augmented else lambda n: pixels[n], [number], tf.uint8)
        return tf.ensure_shape(image, (SIZE, SIZE, 3)), tf.gather(levels, number)

    batches = tf.data.Dataset.range(len(pixels)).shuffle(len(pixels), seed=1).repeat()
    batches = batches.map(read, num_parallel_calls=WORKERS).batch(BATCH)
    if not augmented:
        change = layers()
        batches = batches.map(
            lambda photographs, grades: (change(tf.cast(photographs, tf.float32)), grades), num_parallel_calls=WORKERS
        )
    return batches.prefetch(2)


def gather(arrays: list[np.ndarray], order: np.ndarray) -> int:
    """Copy photographs in the given order from mapped shards to batches, one thread: what memory gives."""
    places = [(array, row) for array in arrays for row in range(len(array))]
    for start in range(0, len(order), BATCH):
        chosen = order[start : start + BATCH]
        pixels = np.empty((len(chosen), SIZE, SIZE, 3), np.uint8)
        for out, number in zip(pixels, chosen, strict=True):
            array, row = places[number]
            out[:] = array[row]
    return len(order)


def write_tree(photographs: Photographs, tree: Path) -> None:
    """The same pixels as JPEG files in class folders."""
    for number, image in enumerate(photographs.images):
        folder = tree / CLASSES[photographs.levels[number]]
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / f"{image}.jpeg"), photographs[number][..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])


def training(photographs: Photographs, arrays: list[np.ndarray], folder: Path) -> list[common.Row]:
    """Augmented batches, ours against everybody."""
    write_tree(photographs, folder)
    ours = Batches(photographs, BATCH, WORKERS, 1, AUGMENT)
    generator = image_data_generator(folder)
    directory = from_directory(folder)
    pixels = np.concatenate(arrays)
    layered, warped = (from_shards(pixels, photographs.levels, augmented) for augmented in (False, True))
    order = np.random.default_rng(1).permutation(len(photographs))
    targets = {
        "ImageDataGenerator.flow_from_directory": 40.0,
        "image_dataset_from_directory + Keras layers": 1.0,
        "tf.data on the shards + Keras layers": 1.0,
        "tf.data on the shards + our warp": 1.0,
        "plain memory-mapped gather (limit)": None,
    }
    work = (
        lambda: consume(ours, 120),
        lambda: consume(generator, 6),
        lambda: drain(directory, 6),
        lambda: drain(layered, 6),
        lambda: drain(warped, 60),
        lambda: gather(arrays, np.resize(order, 120 * BATCH)),
    )
    seconds = common.alternate(dict(zip(("ours", *targets), work, strict=True)))
    return common.rates("augmented training batches, 224 px, two cores", seconds, targets, "images/s")


def evaluation(photographs: Photographs, arrays: list[np.ndarray]) -> list[common.Row]:
    """Plain batches, one thread on both sides."""
    ours = Batches(photographs, BATCH, WORKERS)

    def in_order() -> int:
        return sum(len(ours[number][0]) for number in range(ours.num_batches))

    # Photographs come in the order of their names, and lie in shards by a hash of them.
    order = np.random.default_rng(1).permutation(len(photographs))
    sides = {"ours": in_order, "plain memory-mapped gather": lambda: gather(arrays, order)}
    return common.rates(
        "evaluation batches, 224 px, one thread",
        common.alternate(sides),
        {"plain memory-mapped gather": 0.7},
        "images/s",
    )


def main() -> None:
    """Measure and print."""
    keras.utils.set_random_seed(1)
    tf.config.threading.set_intra_op_parallelism_threads(WORKERS)
    tf.config.threading.set_inter_op_parallelism_threads(WORKERS)
    collection = common.collection()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        indices, shards = common.shards(collection, SIZE, 250, folder)
        photographs = Photographs(indices, shards, CLASSES)
        arrays = [read_shard(*files)[0] for files in shards]
        rows = training(photographs, arrays, folder / "tree") + evaluation(photographs, arrays)
    common.publish("feed", rows, {"photographs": f"{len(photographs)} of {collection.name}, in {len(shards)} shards"})


if __name__ == "__main__":
    main()
