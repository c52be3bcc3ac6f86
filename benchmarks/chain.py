"""The whole chain, photographs to compared scores, against the article's recipe on the same photographs.

Ours is one call of `snakemake` for everything from the inventory to the comparison. The recipe is what the article has
its readers run, in our words (`recipe_prepare`, `recipe_train`): photographs are copied to class folders, each is
decoded in full, resized and written back as JPEG, and an `ImageDataGenerator` reads those again in every epoch. Both
have the same photographs, backbone, initial weights, image size, head, batch size, optimiser and epochs, learn the
statistics of BatchNormalization, weigh classes by their inverse frequency and score the validation fifth. Each pays for
its processes and their imports: ours starts one a job and loads TensorFlow twice, to train and to score; the recipe
starts one to prepare and one that trains and predicts.

Three figures a side, in seconds:

- the first complete run of one epoch: a run of `--epochs` less what its epochs after the first took;
- each further epoch, training and validation together;
- a second run, with another learning rate, of one epoch: ours is a second `snakemake`, which keeps the shards; for the
  recipe we take its class folders as prepared, so it is its training process alone.

On a CPU the network's own arithmetic is the floor of both sides: no way of feeding it makes an epoch shorter than its
steps take with a batch that lies in memory ("the network alone": the median step, times the steps of an epoch). The
recipe's epoch divided by that is the most that can be gained. So there are two cases: InceptionV3 at 224 px, where
arithmetic is nearly everything, and MobileNetV3Small at 96 px, where input weighs more. Whole runs have another floor:
both sides load TensorFlow, build the network and trace its training and prediction, which takes a small network longer
than its epoch.

What the figures do not say: anything about a GPU, where the arithmetic shrinks and input decides; about larger
photographs, where decoding in full costs the recipe more; about photographs that are not in the page cache; about how
well the networks grade. Where the recipe leaves a choice, the cheaper one is taken: means that are known rather than
computed, no reloading of the best epoch, no progress bar.
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
# Of ImageNet in OpenCV's order of channels: the article subtracts them whatever the network.
MEANS = (103.939, 116.779, 123.68)
RECIPE, FLOOR = "the article's recipe", "the network alone"
FLOOR_STEPS = common.sized(9, 1)
# Field of Times, what it is called, and how many times faster than the recipe ours is meant to be.
TARGETS = (
    ("first", "first complete run, one epoch", 1),
    ("epoch", "each further epoch", 3),
    ("second", "second run, one epoch", 3),
)


class Case(NamedTuple):
    """A network to measure with.

    ``size``: side of its input in pixels; ``weights``: a file below ``RETINAFLOW_DATA``/weights, random ones without.
    """

    backbone: str
    size: int
    weights: str | None
    rounds: int

    def weights_file(self) -> Path | None:
        """The initial weights, or None for random ones."""
        if self.weights is None:
            return None
        file = common.DATA / "weights" / self.weights
        return file if file.is_file() else None


CASES = {
    "cheap": Case("MobileNetV3Small", common.sized(96, 32), None, common.ROUNDS),
    "heavy": Case("InceptionV3", 224, "inception_v3_notop_imagenet_fp16.weights.h5", 1),
}


class Times(NamedTuple):
    """Seconds of one side in one round; ``epoch`` is None where there was only one."""

    first: float
    epoch: float | None
    second: float


# Ours ---------------------------------------------------------------------------------------------------------------


def run_ours(case: Case, images: Path, labels: Path, epochs: int) -> Times:
    """Both runs of the workflow, in a project of its own."""
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
        again, _ = common.snakemake(folder)
    return Times(total - sum(seconds[1:]), further(seconds), again)


def further(seconds: list[float]) -> float | None:
    """What each epoch after the first took, in the middle."""
    return statistics.median(seconds[1:]) if len(seconds) > 1 else None


# The article's recipe -----------------------------------------------------------------------------------------------


def run_recipe(case: Case, images: Path, labels: Path, epochs: int) -> Times:
    """Its two scripts, in a folder of their own."""
    with tempfile.TemporaryDirectory() as name:
        start = time.perf_counter()
        in_a_process(recipe_prepare, images, labels, Path(name), case.size)
        prepared = time.perf_counter()
        seconds = in_a_process(recipe_train, Path(name), case, epochs)
        end = time.perf_counter()
    return Times(end - start - sum(seconds[1:]), further(seconds), end - prepared - sum(seconds[1:]))


def in_a_process(function: Callable[..., Any], *arguments: object) -> Any:
    """What ``function`` returns in a new process of this interpreter."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def recipe_prepare(images: Path, labels: Path, folder: Path, size: int) -> None:
    """Put photographs into class folders, then take each through OpenCV and write it back."""
    import cv2

    with open(labels, newline="", encoding="utf-8") as file:
        levels = {row["image"]: row["grade"] for row in csv.DictReader(file)}
    photographs = sorted(images.iterdir())
    random.Random(2015).shuffle(photographs)  # noqa: S311 - as `train_test_split` would, not a secret
    cut = round(0.8 * len(photographs))
    for part, those in (("train", photographs[:cut]), ("validation", photographs[cut:])):
        for name in common.CLASSES:
            (folder / part / name).mkdir(parents=True)
        for path in those:
            # The article moves them. These belong to both sides and may be links to the only copy there is.
            shutil.copyfile(path, folder / part / f"class{levels[path.stem]}" / path.name)
    for path in sorted(folder.glob("*/*/*")):
        image: Any = cv2.imread(str(path))
        image = cv2.resize(image, (size, size))
        cv2.imwrite(str(path), cv2.subtract(image, (*MEANS, 0)))


def recipe_train(folder: Path, case: Case, epochs: int) -> list[float]:
    """Train, predict and score; returns the seconds of each epoch."""
    import keras
    import numpy as np
    from sklearn.metrics import accuracy_score, cohen_kappa_score
    from sklearn.utils.class_weight import compute_class_weight
    from tensorflow.keras.preprocessing.image import ImageDataGenerator

    augmented = ImageDataGenerator(**common.ARTICLE)
    square = (case.size, case.size)
    training = augmented.flow_from_directory(folder / "train", square, batch_size=BATCH_SIZE)
    validation = ImageDataGenerator().flow_from_directory(
        folder / "validation", square, batch_size=BATCH_SIZE, shuffle=False
    )
    present = np.unique(training.classes)
    weights = compute_class_weight("balanced", classes=present, y=training.classes)
    model = recipe_model(case)
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


def recipe_model(case: Case, frozen: int = 0) -> Any:
    """The backbone with the head, compiled; its first ``frozen`` layers keep their weights."""
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
    x = keras.layers.Dense(len(common.CLASSES), activation="softmax")(x)
    model = keras.Model(network.input, x)
    model.compile(keras.optimizers.Adam(LEARNING_RATE), "categorical_crossentropy", metrics=["accuracy"])
    return model


def epoch_clock() -> Any:
    """A callback that keeps the seconds of each epoch, from where to where our own history has them."""
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
    """Seconds that the steps of an epoch of ``count`` photographs take, a fifth of them for validation."""
    import keras
    import numpy as np

    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (BATCH_SIZE, case.size, case.size, 3)).astype(np.float32)
    answers = keras.utils.to_categorical(rng.integers(0, len(common.CLASSES), BATCH_SIZE), len(common.CLASSES))
    model = recipe_model(case)
    total = 0.0
    for step, share in ((model.train_on_batch, 0.8), (model.test_on_batch, 0.2)):
        step(pixels, answers)  # traces
        seconds = []
        for _ in range(FLOOR_STEPS):
            start = time.perf_counter()
            step(pixels, answers)
            seconds.append(time.perf_counter() - start)
        total += statistics.median(seconds) * share * count / BATCH_SIZE
    return total


# Measure ------------------------------------------------------------------------------------------------------------


def measure(case: Case, images: Path, labels: Path, count: int, epochs: int) -> list[common.Row]:
    """The rows of one case."""
    sides = {"ours": run_ours, RECIPE: run_recipe}
    times: dict[str, list[Times]] = {name: [] for name in sides}

    def once(name: str) -> None:
        times[name].append(sides[name](case, images, labels, epochs))
        print(f"{case.backbone}, {name}: {times[name][-1]}", flush=True)

    common.alternate({name: partial(once, name) for name in sides}, case.rounds)
    rows = []
    for field, what, least in TARGETS:
        if field == "epoch" and epochs == 1:
            continue
        ours, other = ([getattr(each, field) for each in times[name]] for name in sides)
        measured = f"{case.backbone} at {case.size} px, {count} photographs: {what}"
        rows.append(compared(measured, RECIPE, ours, other, least))
        if field == "epoch":
            floor = in_a_process(network_alone, case, count)
            rows.append(compared(measured, FLOOR, ours, [floor] * len(ours), None))
    return rows


def compared(measured: str, against: str, ours: list[float], other: list[float], least: float | None) -> common.Row:
    """A row of seconds; the figure is the median of how many times faster ours was within each round."""
    ratio = statistics.median(theirs / own for own, theirs in zip(ours, other, strict=True))
    return common.Row(
        measured,
        against,
        statistics.median(ours),
        statistics.median(other),
        "s",
        f"{ratio:.2f} x",
        *common.judged(ratio, least),
    )


def main() -> None:
    """Measure all cases or the one that is asked for."""
    parser = argparse.ArgumentParser(description="The whole chain against the article's recipe.")
    parser.add_argument("--case", choices=CASES, default="cheap", help="the network; heavy takes many minutes")
    parser.add_argument("--epochs", type=int, default=2, help="epochs of the first run; 1 leaves out further epochs")
    parser.add_argument("--photographs", type=int, default=common.sized(960, 60), help="how many")
    arguments = parser.parse_args()
    photographs = common.collection()
    case = CASES[arguments.case]
    with tempfile.TemporaryDirectory() as name:
        images, labels = Path(name) / "photographs", Path(name) / "labels.csv"
        common.stand_in(photographs, arguments.photographs, images, labels)
        rows = measure(case, images, labels, arguments.photographs, arguments.epochs)
    notes = {
        "photographs": photographs.name,
        "initial weights": case.weights if case.weights_file() else "random",
        "first complete run": f"a run of {arguments.epochs} epochs less its later epochs",
    }
    common.publish("chain" if arguments.case == "cheap" else "chain-heavy", rows, notes, case.rounds)


if __name__ == "__main__":
    main()
