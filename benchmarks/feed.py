"""Speed of reading training batches of 224 px from shards, against other ways to feed Keras.

Two workers on two cores read batches of 32, and nothing consumes them. All sides read images that already have 224 px.
Ours and `tf.data` read shards. The others read JPEG files in class folders, as the article does. The augmentation is
the article's: flips, shifts of 10 %, zoom of 20 %, rotation of 20 degrees. Ours does it in one warp, Keras in one layer
after the other. `tf.data` runs for some batches before it is timed.

    python benchmarks/feed.py
"""

import os

os.environ["CUDA_VISIBLE_DEVICES"] = ""
import itertools
import tempfile
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import cv2
import keras
import numpy as np
import tensorflow as tf

import common
from retinaflow.preprocessing import augmentation
from retinaflow.preprocessing.batches import Batches, Images
from retinaflow.preprocessing.shards import read_shard

SIZE, BATCH = common.sized((224, 32), (32, 8))
WORKERS, QUEUE = 2, 8
# Batches in a round: of ours, and of ever slower sides.
MANY, SOME, FEW, LEAST = common.sized((120, 60, 20, 6), (8, 4, 2, 1))


def consume(batches: Any, count: int, workers: int = WORKERS) -> int:
    """Request ``count`` batches from workers, as Keras does with a PyDataset. Return the number of images."""
    seen = 0
    waiting: deque[Future[Any]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        for number in range(count):
            waiting.append(pool.submit(batches.__getitem__, number % batches.num_batches))
            if len(waiting) == QUEUE:
                seen += len(waiting.popleft().result()[0])
        return seen + sum(len(batch.result()[0]) for batch in waiting)


def drain(batches: Iterator[Any], count: int) -> int:
    """Take ``count`` batches from a `tf.data` pipeline, which has its own threads. Return the number of images."""
    return sum(len(pixels) for pixels, _ in itertools.islice(batches, count))


def image_data_generator(tree: Path) -> Any:
    """Return Keras's ImageDataGenerator with the article's augmentation."""
    generator = keras.src.legacy.preprocessing.image.ImageDataGenerator(**common.ARTICLE_AUGMENTATION)
    return generator.flow_from_directory(tree, (SIZE, SIZE), batch_size=BATCH, class_mode="sparse", seed=1)


def layers() -> Callable[[Any], Any]:
    """Return the same augmentation as layers of Keras."""
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
    """Return `image_dataset_from_directory` with Keras's layers."""
    augment = layers()
    batches = keras.utils.image_dataset_from_directory(
        tree, image_size=(SIZE, SIZE), batch_size=BATCH, seed=1, verbose=False
    )
    batches = batches.map(lambda pixels, grades: (augment(pixels), grades), num_parallel_calls=WORKERS)
    return batches.repeat().prefetch(2)


def from_shards(images: Images, augmented: bool) -> Any:
    """Return a `tf.data` pipeline on shuffled rows of shards, with our warp (``augmented``) or with Keras's layers."""
    random = np.random.default_rng(1)

    def row(number: int) -> np.ndarray:
        pixels = images[number]
        if not augmented:
            return pixels
        out = np.empty_like(pixels)
        augmentation.augment(pixels, common.AUGMENT, random, out)
        return out

    def read(number: Any) -> Any:
        image = tf.numpy_function(row, [number], tf.uint8)
        return tf.ensure_shape(image, (SIZE, SIZE, 3)), tf.gather(images.grades, number)

    batches = tf.data.Dataset.range(len(images)).shuffle(len(images), seed=1).repeat()
    batches = batches.map(read, num_parallel_calls=WORKERS).batch(BATCH)
    if not augmented:
        augment = layers()
        batches = batches.map(
            lambda pixels, grades: (augment(tf.cast(pixels, tf.float32)), grades), num_parallel_calls=WORKERS
        )
    return batches.prefetch(2)


def gather(arrays: list[np.ndarray], order: np.ndarray) -> int:
    """Copy images in the given order from mapped shards to batches, in one thread: the limit of the memory."""
    places = [(array, row) for array in arrays for row in range(len(array))]
    for start in range(0, len(order), BATCH):
        chosen = order[start : start + BATCH]
        pixels = np.empty((len(chosen), SIZE, SIZE, 3), np.uint8)
        for out, number in zip(pixels, chosen, strict=True):
            array, row = places[number]
            out[:] = array[row]
    return len(order)


def write_tree(images: Images, tree: Path) -> None:
    """Write the same pixels as JPEG files in class folders."""
    for number, image in enumerate(images.names):
        folder = tree / common.GRADE_NAMES[images.grades[number]]
        folder.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(folder / f"{image}.jpeg"), images[number][..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 95])


def open_shards(folder: Path) -> tuple[Images, list[tuple[Path, Path]]]:
    """Return the images below ``folder``, and the files of their shards."""
    shards = [(pixels, pixels.with_suffix(".csv")) for pixels in sorted(folder.glob("*.npy"))]
    return Images([folder / "organized" / "index.csv"], shards, common.GRADE_NAMES), shards


def others(folder: Path) -> dict[str, Callable[[], int]]:
    """Return the other sides, on the same images."""
    set_up()
    images, shards = open_shards(folder)
    write_tree(images, folder / "tree")
    generator = image_data_generator(folder / "tree")
    pipelines = [
        iter(from_directory(folder / "tree")),
        *(iter(from_shards(images, warp)) for warp in (False, True)),
    ]
    for pipeline in pipelines:
        drain(pipeline, 10)
    read = [read_shard(*files) for files in shards]
    arrays = [array for array, _ in read]
    names = [name for _, shard_names in read for name in shard_names]
    shuffled = np.resize(np.random.default_rng(1).permutation(len(names)), MANY * BATCH)
    in_order = np.argsort(names)  # positions in the shards, in the order of the names
    return {
        "ImageDataGenerator.flow_from_directory, two workers": lambda: consume(generator, 2 * LEAST),
        "ImageDataGenerator.flow_from_directory, one worker as in fit": lambda: consume(generator, LEAST, 1),
        "image_dataset_from_directory + Keras layers": lambda: drain(pipelines[0], FEW),
        "tf.data on the shards + Keras layers": lambda: drain(pipelines[1], FEW),
        "tf.data on the shards + our warp": lambda: drain(pipelines[2], SOME),
        "plain memory-mapped gather, one thread (limit)": lambda: gather(arrays, shuffled),
        "plain memory-mapped gather": lambda: gather(arrays, in_order),
    }


def compare(folder: Path) -> list[common.Row]:
    """Compare augmented batches with all other sides, and plain ones with a gather in the same order."""
    images, _ = open_shards(folder)
    process = common.OtherProcess(others, folder)
    *names, plain = process.names
    limit = names[-1]
    augmented, evaluation = (
        Batches(images, BATCH, threads=WORKERS, seed=1, augment=common.AUGMENT),
        Batches(images, BATCH, threads=WORKERS),
    )
    sides = process.sides()
    single_thread = {"ours": lambda: sum(len(evaluation[number][0]) for number in range(evaluation.num_batches))}
    seconds = common.alternate({**single_thread, plain: sides.pop(plain)})
    rows = common.rates(f"evaluation batches, {SIZE} px, one thread", seconds, {plain: 0.7}, "images/s")
    targets = dict.fromkeys(names, 1.0) | dict.fromkeys(names[:2], 40.0) | {limit: None}
    seconds = common.alternate({"ours": lambda: consume(augmented, MANY), **sides})
    rows = common.rates(f"augmented training batches, {SIZE} px, two cores", seconds, targets, "images/s") + rows
    return rows + with_everything(images, augmented)


def with_everything(images: Images, article: Batches) -> list[common.Row]:
    """Compare batches with crops, colours and MixUp with batches with the article's augmentation."""
    settings = common.AUGMENT.model_copy(
        update={
            "rotation": 180,
            "crop": 0.6,
            "mixup": 0.4,
            **{"brightness": 0.2, "contrast": 0.2, "saturation": 0.2, "hue": 5},
        }
    )
    one_hot = np.eye(len(common.GRADE_NAMES), dtype=np.float32)[images.grades]
    batches = Batches(images, BATCH, threads=WORKERS, seed=1, augment=settings, targets=one_hot)
    plain = "ours, the article's augmentation"
    seconds = common.alternate({"ours": lambda: consume(batches, MANY), plain: lambda: consume(article, MANY)})
    return common.rates("training batches with crops, colours and MixUp, two cores", seconds, {plain: 0.7}, "images/s")


def cold(images: Images, shards: list[tuple[Path, Path]]) -> list[common.Row]:
    """Time shuffled images that are not in memory: prefetched, in the order of the files, and not prefetched."""
    numbers = np.random.default_rng(1).permutation(len(images))
    out = np.empty((SIZE, SIZE, 3), np.uint8)

    def read(order: np.ndarray, ahead: bool) -> int:
        for pixels, _ in shards:
            with open(pixels, "rb") as file:
                os.fsync(file.fileno())
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        for start in range(0, len(order), BATCH):
            if ahead:
                images.prefetch(order[start + WORKERS * BATCH : start + (WORKERS + 1) * BATCH])
            for number in order[start : start + BATCH]:
                images.read_into(out, number)
        return len(order)

    places = {name: place for place, name in enumerate(name for files in shards for name in read_shard(*files)[1])}
    in_files = np.argsort([places[name] for name in images.names])
    targets = {"in the order of the files": None, "shuffled, not prefetched": None}
    work = (lambda: read(numbers, True), lambda: read(in_files, False), lambda: read(numbers, False))
    seconds = common.alternate(dict(zip(("ours", *targets), work, strict=True)))
    return common.rates("images from a cold disk, shuffled, prefetched", seconds, targets, "images/s")


def set_up() -> None:
    """Set the seed, and as many threads as there are workers."""
    keras.utils.set_random_seed(1)
    tf.config.threading.set_intra_op_parallelism_threads(WORKERS)
    tf.config.threading.set_inter_op_parallelism_threads(WORKERS)


def main() -> None:
    """Measure, print and write the rows."""
    collection = common.collection()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        common.shards(collection, SIZE, common.sized(250, 10), folder)
        images, shards = open_shards(folder)
        rows = cold(images, shards)  # first, because mapped pages stay in memory
        rows = compare(folder) + rows
    common.publish("feed", rows, {"images": f"{len(images)} of {collection.name}, in {len(shards)} shards"})


if __name__ == "__main__":
    main()
