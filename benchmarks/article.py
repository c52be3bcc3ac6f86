"""Quality of the article's scripts, on the same folds as the other rows of `methods.py`.

The article's method, in our words:

- OpenCV reads each image in BGR. `cv2.resize` gets its interpolation flag in the position of `dst`, so it resizes
  bilinearly and without averaging.
- The means of ImageNet are subtracted, as VGG16 needs and InceptionV3 does not.
- `ImageDataGenerator` flips, shifts by 10 %, zooms by 20 % and rotates by 20 degrees.
- Dense layers of 512 and 256 units with dropout of 0.5 follow the global average pooling of InceptionV3.
- The first ten layers are frozen, BatchNormalization learns, and classes have weights by their inverse frequency.
- Adam starts at 1e-4. `ReduceLROnPlateau` and `EarlyStopping` use the validation loss.
- The most probable class is the answer.

Differences from the article:

- The split. Its 80 % of the files put fellow eyes on both sides. This script uses the folds by patient that the
  workflow makes, so that its metrics and ours are of the same images.
- Class weights. The article has constants of another data set. Here they are counted in the training split.
- If the article leaves a choice, the one with the better grading is taken. Pixels without their means stay floats
  instead of JPEG files that end at 0. The epoch with the lowest validation loss is kept.

    python benchmarks/article.py aptos-224 eyepacs-256 --folds 2
    python benchmarks/article.py eyepacs-256

The outputs of a fold are stored below `results/benchmarks/methods/{data set}/{folds}x{epochs}x{size}/article`, in the
layout of the workflow. A fold with outputs is not trained again.
"""

import argparse
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

os.environ["CUDA_VISIBLE_DEVICES"] = ""

import numpy as np

import chain
import common
import methods
from retinaflow.scoring.predictions import GradingJob, grade_model
from retinaflow.scoring.raw_outputs import RawOutputs, pool, write_raw_outputs
from retinaflow.storage.files import write_json

FROZEN = 10
THREADS = 2
WEIGHTS = common.sized(chain.CASES["heavy"].weights, None)


def train_and_predict(
    training: Sequence[dict[str, str]], held_out: Sequence[dict[str, str]], size: int, epochs: int, seed: int
) -> tuple[np.ndarray, dict[str, Any]]:
    """Train on one side of a fold and predict the other.

    Args:
        training: Rows of the split table to train on.
        held_out: Rows of the split table to predict.
        size: Side of the input in pixels.
        epochs: Most epochs.
        seed: Of everything random.

    Returns:
        float64 (n, 5) probabilities of the held-out images, and a record of the training.
    """
    import keras
    from sklearn.utils.class_weight import compute_class_weight
    from tensorflow.keras.preprocessing.image import ImageDataGenerator

    from retinaflow.networks import devices

    devices.prepare_process(seed, THREADS)
    start = time.perf_counter()
    pixels, grades = read_pixels(training, size)
    held_out_pixels, held_out_grades = read_pixels(held_out, size)
    present = np.unique(grades)
    weights = compute_class_weight("balanced", classes=present, y=grades)
    model = chain.article_model(chain.Case(methods.BACKBONE, size, WEIGHTS, 1), FROZEN)
    classes = len(common.GRADE_NAMES)
    history = model.fit(
        ImageDataGenerator(**common.ARTICLE_AUGMENTATION).flow(
            pixels, keras.utils.to_categorical(grades, classes), batch_size=chain.BATCH_SIZE, seed=seed
        ),
        validation_data=(held_out_pixels, keras.utils.to_categorical(held_out_grades, classes)),
        epochs=epochs,
        class_weight=dict(zip(present.tolist(), weights.tolist(), strict=True)),
        verbose=2,
        callbacks=[
            keras.callbacks.ReduceLROnPlateau("val_loss", factor=0.5, patience=3, min_lr=1e-6),
            keras.callbacks.EarlyStopping("val_loss", patience=10, restore_best_weights=True),
        ],
    )
    probabilities = model.predict(held_out_pixels, batch_size=chain.BATCH_SIZE, verbose=0).astype(np.float64)
    record = {
        "epochs_run": len(history.epoch),
        "threads": THREADS,
        "seconds": round(time.perf_counter() - start, 1),
        "history": {name: [float(value) for value in values] for name, values in history.history.items()},
    }
    return probabilities / probabilities.sum(axis=1, keepdims=True), record


def read_pixels(rows: Sequence[dict[str, str]], size: int) -> tuple[np.ndarray, np.ndarray]:
    """Read the images of a split table as the article does.

    Returns:
        float32 (n, size, size, 3), BGR without the means of ImageNet, and int64 (n,) grades, 0 to 4.
    """
    import cv2

    pixels = np.empty((len(rows), size, size, 3), np.float32)
    for row, out in zip(rows, pixels, strict=True):
        # With the flag in the position of `dst`, the default applies, which is bilinear.
        out[:] = cv2.resize(cv2.imread(row["path"]), (size, size))  # type: ignore[arg-type]
    pixels -= np.array(chain.MEANS, np.float32)
    return pixels, np.array([int(row["grade"]) for row in rows])


def fold(data_set: str, number: int, mode: methods.Mode) -> None:
    """Train one fold and write its record and outputs, unless they exist."""
    results = folder(data_set, mode)
    outputs, record = (
        outputs_of(results, number),
        results / f"models/{methods.BACKBONE}/fold-{number}/training_run.json",
    )
    if outputs.is_file():
        return
    training, held_out = methods.split(data_set, mode.folds)[number - 1]
    arguments = training, held_out, mode.size, mode.epochs, methods.SEED
    probabilities, training_record = chain.in_a_process(train_and_predict, *arguments)
    write_json(record, training_record)
    write_raw_outputs(outputs, make_outputs(held_out, probabilities))


def make_outputs(rows: Sequence[dict[str, str]], probabilities: np.ndarray) -> RawOutputs:
    """Return raw outputs for the images of a split table."""
    columns = ([row[name] for row in rows] for name in ("image", "patient", "eye"))
    images, patients, eyes = columns
    filenames = [Path(row["path"]).name for row in rows]
    return RawOutputs(images, filenames, patients, eyes, np.array([int(row["grade"]) for row in rows]), probabilities)


def folder(data_set: str, mode: methods.Mode) -> Path:
    """Return the results folder of a data set."""
    return methods.TARGET / data_set / mode.name / "article/results"


def outputs_of(results: Path, number: int) -> Path:
    """Return the file of the raw outputs of a fold."""
    return results / f"scores/{methods.BACKBONE}/fold-{number}/validation/raw_outputs.csv"


def publish(data_set: str, mode: methods.Mode) -> None:
    """Print the metrics of all finished folds, and write them to `results/benchmarks/article-{data_set}.json`."""
    results = folder(data_set, mode)
    tables = {f"fold-{i}": path for i in range(1, mode.folds + 1) if (path := outputs_of(results, i)).is_file()}
    rows = {name: grade(path, path.parent) for name, path in tables.items()}
    if len(tables) == mode.folds:
        pooled = results / f"scores/{methods.BACKBONE}/out-of-fold/raw_outputs.csv"
        pool(list(tables.values()), pooled, objective="softmax", grade_count=len(common.GRADE_NAMES))
        rows["out-of-fold"] = grade(pooled, pooled.parent)
    content = {**mode._asdict(), "machine": common.machine(), "rows": rows}
    write_json(common.TARGET / f"article-{data_set}.json", content)
    print(f"\n{data_set}, {mode.size} px, {mode.epochs} epochs\n\n| fold | kappa | accuracy | always 0 |")
    print("|---|---|---|---|")
    for name, row in rows.items():
        print(f"| {name} | {' | '.join(methods.shown(row, figure) for figure in ('kappa', 'accuracy', 'always_0'))} |")
    print(flush=True)


def grade(outputs: Path, target: Path) -> dict[str, Any]:
    """Grade raw outputs as the workflow does, and write the tables to ``target``.

    Returns:
        Kappa and accuracy of the argmax prediction, and the accuracy of always answering 0.
    """
    job = GradingJob(
        model=methods.BACKBONE,
        objective="softmax",
        raw_outputs={"out-of-fold": outputs},
        inventories=[],
        grade_names=common.GRADE_NAMES,
        referable_grade=2,
        referable_sensitivity=0.9,
        bootstrap_samples=methods.BOOTSTRAP_SAMPLES,
        seed=methods.SEED,
        decision_rule=target / "decision_rule.json",
        predictions={"out-of-fold": target / "predictions.csv"},
        metrics={"out-of-fold": target / "metrics.json"},
    )
    grade_model(job)
    predictions = methods.read_graded(target, argmax=True)
    zeros = predictions._replace(predicted=np.zeros_like(predictions.predicted))
    always = {
        f"always_0{name.removeprefix('accuracy')}": value
        for name, value in methods.metrics_of(zeros).items()
        if name.startswith("accuracy")
    }
    return {**methods.metrics_of(predictions), **always}


def main() -> None:
    """Train the requested folds one after the other, and print the metrics after each."""
    parser = argparse.ArgumentParser(description="Measure the quality of the article's scripts.")
    parser.add_argument(
        "data_sets", nargs="+", choices=methods.DATA_SETS, metavar="data-set", help="below RETINAFLOW_DATA"
    )
    parser.add_argument("--folds", type=int, default=methods.FOLDS)
    parser.add_argument("--epochs", type=int, default=methods.EPOCHS)
    parser.add_argument("--size", type=int, default=methods.SIZE, help="side of the network's input in pixels")
    arguments = parser.parse_args()
    mode = methods.Mode(arguments.folds, arguments.epochs, arguments.size)
    for number in range(1, mode.folds + 1):
        for data_set in arguments.data_sets:
            fold(data_set, number, mode)
            publish(data_set, mode)


if __name__ == "__main__":
    main()
