"""Speed of the whole chain, from images to compared scores, against the article's scripts on the same images.

Ours is one call of `snakemake` for everything from the inventory to the comparison. The other side does the work of
the article's scripts, in our own code (`article_prepare`, `article_train`). It copies images to class folders, decodes
each in full, resizes it and writes it back as JPEG. An `ImageDataGenerator` then reads these files in every epoch.

Both sides have the same images, backbone, initial weights, image size, head, batch size, optimizer and epochs. Both
train BatchNormalization, weight classes by their inverse frequency, and score the validation fifth. Each side includes
its processes and imports. Ours starts a process for each job and loads TensorFlow twice: in the job that trains and
scores, and in the one that writes the network as a graph. It also fits and grades two models of both eyes, draws
figures and writes model cards. The article's side starts one process to prepare, and one that trains and predicts.

Each side has three figures, in seconds:

- the first complete run of one epoch: a run of `--epochs` without the time of its epochs after the first;
- each further epoch, training and validation together;
- a second run of one epoch with another learning rate. Ours is a second `snakemake`, which keeps the shards. On the
  article's side, the class folders are ready, so it is the training process alone.

On a CPU, the arithmetic of the network limits both sides: no input pipeline makes an epoch shorter. "The network
alone" is the median time of a step on a batch in memory, times the steps of an epoch. The article's epoch divided by it
is the highest possible gain. So there are two cases. InceptionV3 at 224 px is nearly all arithmetic, and in
MobileNetV3Small at 96 px the input weighs more. Whole runs have another lower limit. Both sides load TensorFlow, build
the network and trace its training and prediction, which takes longer than an epoch of a small network.

The figures show nothing about a GPU, where the arithmetic shrinks and input decides. They show nothing about larger
images, which cost the article's side more to decode in full, about images outside the page cache, or about the quality
of grading. If the article leaves a choice, the cheaper one is taken: known means instead of computed ones, no reload of
the best epoch, no progress bar.
"""

import argparse
import csv
import json
import multiprocessing
import random
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import yaml

import common

BATCH_SIZE = 32
DENSE_UNITS = (512, 256)
DROPOUT = 0.5
LEARNING_RATE = 0.0001
# Channel means of ImageNet in the order of OpenCV (BGR). The article subtracts them for every network.
MEANS = (103.939, 116.779, 123.68)
ARTICLE, FLOOR = "the article's scripts", "the network alone"
FLOOR_STEPS = common.sized(9, 1)
# Field of Times, its title, and the target: how many times faster than the article's scripts ours has to be.
TARGETS = (
    ("first", "first complete run, one epoch", 1),
    ("epoch", "each further epoch", 3),
    ("second", "second run, one epoch", 3),
)


class Case(NamedTuple):
    """A network to measure with.

    Attributes:
        backbone: Name in `keras.applications`.
        size: Side of its input in pixels.
        weights: Name of a file below ``RETINAFLOW_DATA``/weights; None for random weights.
        rounds: Number of rounds.
    """

    backbone: str
    size: int
    weights: str | None
    rounds: int

    def weights_file(self) -> Path | None:
        """Return the file of initial weights, or None for random weights."""
        if self.weights is None:
            return None
        file = common.DATA / "weights" / self.weights
        return file if file.is_file() else None


CASES = {
    "cheap": Case("MobileNetV3Small", common.sized(96, 32), None, common.ROUNDS),
    "heavy": Case("InceptionV3", 224, common.WEIGHTS["InceptionV3"], 1),
}


class Times(NamedTuple):
    """Seconds of one side in one round, for each figure. ``epoch`` is None if the run had one epoch only."""

    first: float
    epoch: float | None
    second: float


# Ours ---------------------------------------------------------------------------------------------------------------


def run_ours(case: Case, images: Path, labels: Path, epochs: int) -> Times:
    """Time both runs of the workflow, in a new project."""
    config: dict[str, Any] = {
        "data": {"train": {"images": str(images), "labels": str(labels)}},
        "train": {
            "image_size": case.size,
            "weights": str(case.weights_file() or "random"),
            "batch_norm": "train",
            "dense_units": list(DENSE_UNITS),
            "dropout": DROPOUT,
            "class_weights": "inverse",
            "batch_size": BATCH_SIZE,
            "learning_rate": LEARNING_RATE,
            "epochs": epochs,
        },
        "models": {case.backbone: {}},
    }
    with tempfile.TemporaryDirectory() as name:
        folder = common.project(Path(name), config)
        total, _ = common.snakemake(folder)
        with open(folder / "results/models" / case.backbone / "history.csv", newline="", encoding="utf-8") as file:
            seconds = [float(row["seconds"]) for row in csv.DictReader(file)]
        config["train"] |= {"learning_rate": 2 * LEARNING_RATE, "epochs": 1}
        (folder / "config/config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
        second, _ = common.snakemake(folder)
    return Times(total - sum(seconds[1:]), further(seconds), second)


def further(seconds: list[float]) -> float | None:
    """Return the median time of the epochs after the first, or None if there are none."""
    return statistics.median(seconds[1:]) if len(seconds) > 1 else None


# The article's scripts ----------------------------------------------------------------------------------------------


def run_article(case: Case, images: Path, labels: Path, epochs: int) -> Times:
    """Time the work of the article's two scripts, in a new folder."""
    with tempfile.TemporaryDirectory() as name:
        start = time.perf_counter()
        in_a_process(article_prepare, images, labels, Path(name), case.size)
        prepared = time.perf_counter()
        seconds = in_a_process(article_train, Path(name), case, epochs)
        end = time.perf_counter()
    return Times(end - start - sum(seconds[1:]), further(seconds), end - prepared - sum(seconds[1:]))


def in_a_process(function: Callable[..., Any], *arguments: object) -> Any:
    """Call ``function`` in a new process and return its result."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def article_prepare(images: Path, labels: Path, folder: Path, size: int) -> None:
    """Copy images to class folders. Then resize each with OpenCV, subtract the means and write it back."""
    import cv2

    with open(labels, newline="", encoding="utf-8") as file:
        grades = {row["image"]: row["level"] for row in csv.DictReader(file)}
    files = sorted(images.iterdir())
    random.Random(2015).shuffle(files)  # noqa: S311 - as `train_test_split` would, not a secret
    cut = round(0.8 * len(files))
    for split, members in (("train", files[:cut]), ("validation", files[cut:])):
        for name in common.GRADE_NAMES:
            (folder / split / name).mkdir(parents=True)
        for path in members:
            # The article moves the files. Both sides use these, and they may be links to the only copy.
            shutil.copyfile(path, folder / split / common.GRADE_NAMES[int(grades[path.stem])] / path.name)
    for path in sorted(folder.glob("*/*/*")):
        image: Any = cv2.imread(str(path))
        image = cv2.resize(image, (size, size))
        cv2.imwrite(str(path), cv2.subtract(image, (*MEANS, 0)))


def article_train(folder: Path, case: Case, epochs: int) -> list[float]:
    """Train, predict and score. Return the seconds of each epoch."""
    import keras
    import numpy as np
    from sklearn.metrics import accuracy_score, cohen_kappa_score
    from sklearn.utils.class_weight import compute_class_weight
    from tensorflow.keras.preprocessing.image import ImageDataGenerator

    augmented = ImageDataGenerator(**common.ARTICLE_AUGMENTATION)
    square = (case.size, case.size)
    training = augmented.flow_from_directory(folder / "train", square, batch_size=BATCH_SIZE)
    validation = ImageDataGenerator().flow_from_directory(
        folder / "validation", square, batch_size=BATCH_SIZE, shuffle=False
    )
    present = np.unique(training.classes)
    weights = compute_class_weight("balanced", classes=present, y=training.classes)
    model = article_model(case)
    clock = epoch_clock()
    model.fit(
        training,
        validation_data=validation,
        epochs=epochs,
        class_weight=dict(zip(present.tolist(), weights.tolist(), strict=True)),
        verbose=0,
        callbacks=[
            keras.callbacks.ReduceLROnPlateau("val_loss", factor=0.5, patience=3, min_lr=1e-6),
            keras.callbacks.EarlyStopping("val_loss", patience=10),
            keras.callbacks.ModelCheckpoint(folder / "best.keras", monitor="val_loss", save_best_only=True),
            keras.callbacks.CSVLogger(folder / "history.csv"),
            clock,
        ],
    )
    predicted = model.predict(validation, verbose=0).argmax(axis=1)
    scores = {
        "accuracy": accuracy_score(validation.classes, predicted),
        "quadratic_weighted_kappa": cohen_kappa_score(validation.classes, predicted, weights="quadratic"),
    }
    (folder / "scores.json").write_text(json.dumps(scores), encoding="utf-8")
    return clock.seconds


def article_model(case: Case, frozen: int = 0) -> Any:
    """Build and compile backbone and head of the article. The first ``frozen`` layers keep their weights."""
    import keras

    network = getattr(keras.applications, case.backbone)(
        include_top=False, weights=case.weights_file(), input_shape=(case.size, case.size, 3)
    )
    for layer in network.layers[:frozen]:
        layer.trainable = False
    x = keras.layers.GlobalAveragePooling2D()(network.output)
    for units in DENSE_UNITS:
        x = keras.layers.Dense(units, activation="relu")(x)
        x = keras.layers.Dropout(DROPOUT)(x)
    x = keras.layers.Dense(len(common.GRADE_NAMES), activation="softmax")(x)
    model = keras.Model(network.input, x)
    model.compile(keras.optimizers.Adam(LEARNING_RATE), "categorical_crossentropy", metrics=["accuracy"])
    return model


def epoch_clock() -> Any:
    """Return a callback that stores the seconds of each epoch, from begin to end, as our history does."""
    import keras

    class Clock(keras.callbacks.Callback):
        def __init__(self) -> None:
            super().__init__()
            self.seconds: list[float] = []

        def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:  # noqa: ARG002
            self.start = time.perf_counter()

        def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:  # noqa: ARG002
            self.seconds.append(time.perf_counter() - self.start)

    return Clock()


# The floor ----------------------------------------------------------------------------------------------------------


def network_alone(case: Case, count: int) -> float:
    """Return the seconds of all steps of an epoch of ``count`` images, a fifth of them for validation."""
    import keras
    import numpy as np

    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (BATCH_SIZE, case.size, case.size, 3)).astype(np.float32)
    targets = keras.utils.to_categorical(rng.integers(0, len(common.GRADE_NAMES), BATCH_SIZE), len(common.GRADE_NAMES))
    model = article_model(case)
    total = 0.0
    for step, share in ((model.train_on_batch, 0.8), (model.test_on_batch, 0.2)):
        step(pixels, targets)  # The first call traces the step.
        seconds = []
        for _ in range(FLOOR_STEPS):
            start = time.perf_counter()
            step(pixels, targets)
            seconds.append(time.perf_counter() - start)
        total += statistics.median(seconds) * share * count / BATCH_SIZE
    return total


# Measure ------------------------------------------------------------------------------------------------------------


def measure(case: Case, images: Path, labels: Path, count: int, epochs: int) -> list[common.Row]:
    """Measure one case and return its rows."""
    sides = {"ours": run_ours, ARTICLE: run_article}
    times: dict[str, list[Times]] = {name: [] for name in sides}

    def once(name: str) -> None:
        times[name].append(sides[name](case, images, labels, epochs))
        print(f"{case.backbone}, {name}: {times[name][-1]}", flush=True)

    common.alternate({name: partial(once, name) for name in sides}, case.rounds)
    rows = []
    for field, title, least in TARGETS:
        if field == "epoch" and epochs == 1:
            continue
        ours, other = ([getattr(round_times, field) for round_times in times[name]] for name in sides)
        measured = f"{case.backbone} at {case.size} px, {count} images: {title}"
        rows.append(compared(measured, ARTICLE, ours, other, least))
        if field == "epoch":
            floor = in_a_process(network_alone, case, count)
            rows.append(compared(measured, FLOOR, ours, [floor] * len(ours), None))
    return rows


def compared(measured: str, against: str, ours: list[float], other: list[float], least: float | None) -> common.Row:
    """Return a row of seconds. The figure is the median over the rounds of the ratio, other by ours."""
    ratio = statistics.median(other_time / our_time for our_time, other_time in zip(ours, other, strict=True))
    return common.Row(
        measured,
        against,
        statistics.median(ours),
        statistics.median(other),
        "s",
        f"{ratio:.2f} x",
        *common.compare_with_target(ratio, least),
    )


def main() -> None:
    """Measure one case."""
    parser = argparse.ArgumentParser(description="Time the whole chain against the article's scripts.")
    parser.add_argument("--case", choices=CASES, default="cheap", help="the network; heavy takes many minutes")
    parser.add_argument("--epochs", type=int, default=2, help="epochs of the first run; 1 leaves out further epochs")
    parser.add_argument("--images", type=int, default=common.sized(960, 60), help="number of images")
    arguments = parser.parse_args()
    source = common.collection()
    case = CASES[arguments.case]
    with tempfile.TemporaryDirectory() as name:
        images, labels = Path(name) / "images", Path(name) / "labels.csv"
        common.repeat_collection(source, arguments.images, images, labels)
        rows = measure(case, images, labels, arguments.images, arguments.epochs)
    notes = {
        "images": source.name,
        "initial weights": case.weights if case.weights_file() else "random",
        "first complete run": f"a run of {arguments.epochs} epochs without the time of its later epochs",
    }
    common.publish("chain" if arguments.case == "cheap" else "chain-heavy", rows, notes, case.rounds)


if __name__ == "__main__":
    main()
