"""How well the article's recipe grades, on the folds that all other rows of `methods.py` have.

The recipe, in our words: each photograph is read by OpenCV, in BGR, and resized by `cv2.resize` with its interpolation
flag where `dst` belongs, so bilinearly and without averaging; the means of ImageNet are subtracted, as VGG16 wants them
and InceptionV3 does not; `ImageDataGenerator` flips, shifts by 10 %, zooms by 20 % and rotates by 20 degrees; on
InceptionV3's global average pooling stand dense layers of 512 and 256 units with dropout of 0.5; its first ten layers
are frozen, BatchNormalization learns, classes weigh the inverse of their frequency, Adam starts at 1e-4 and
`ReduceLROnPlateau` and `EarlyStopping` watch the validation loss; the most probable class is the answer.

What is not the article's:

- the split. Its 80 % of the files put fellow eyes on both sides. Here it has the five folds by patient that the
  workflow makes, so that its figures and ours are of the same photographs.
- class weights. It had numbers from elsewhere; here they are counted in the training part.
- where it leaves a choice, the one that grades better is taken: pixels less their means stay floats instead of going to
  JPEG files that end at 0, and the epoch with the lowest validation loss answers.

    python benchmarks/article.py aptos-224 eyepacs-256 --folds 2
    python benchmarks/article.py eyepacs-256

What a fold puts out is kept below `results/benchmarks/methods/{dataset}/{folds}x{epochs}x{size}/article`, where the
workflow would have it, and is not asked for again.
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


def answer(
    training: Sequence[dict[str, str]], held_out: Sequence[dict[str, str]], size: int, epochs: int, seed: int
) -> tuple[np.ndarray, dict[str, Any]]:
    """Train on one part and answer the other: float64 (n, 5) probabilities, and how it was trained."""
    import keras
    from sklearn.utils.class_weight import compute_class_weight
    from tensorflow.keras.preprocessing.image import ImageDataGenerator

    from retinaflow.networks import devices

    devices.prepare(seed, THREADS)
    start = time.perf_counter()
    pixels, levels = photographs(training, size)
    others, answers = photographs(held_out, size)
    present = np.unique(levels)
    weights = compute_class_weight("balanced", classes=present, y=levels)
    model = chain.recipe_model(chain.Case(methods.BACKBONE, size, WEIGHTS, 1), FROZEN)
    classes = len(common.CLASSES)
    history = model.fit(
        ImageDataGenerator(**common.ARTICLE).flow(
            pixels, keras.utils.to_categorical(levels, classes), batch_size=chain.BATCH_SIZE, seed=seed
        ),
        validation_data=(others, keras.utils.to_categorical(answers, classes)),
        epochs=epochs,
        class_weight=dict(zip(present.tolist(), weights.tolist(), strict=True)),
        verbose=2,
        callbacks=[
            keras.callbacks.ReduceLROnPlateau("val_loss", factor=0.5, patience=3, min_lr=1e-6),
            keras.callbacks.EarlyStopping("val_loss", patience=10, restore_best_weights=True),
        ],
    )
    probabilities = model.predict(others, batch_size=chain.BATCH_SIZE, verbose=0).astype(np.float64)
    ran = {
        "epochs_run": len(history.epoch),
        "threads": THREADS,
        "seconds": round(time.perf_counter() - start, 1),
        "history": {name: [float(value) for value in values] for name, values in history.history.items()},
    }
    return probabilities / probabilities.sum(axis=1, keepdims=True), ran


def photographs(rows: Sequence[dict[str, str]], size: int) -> tuple[np.ndarray, np.ndarray]:
    """Float32 (n, size, size, 3) BGR less the means of ImageNet, and levels (n,)."""
    import cv2

    pixels = np.empty((len(rows), size, size, 3), np.float32)
    for row, out in zip(rows, pixels, strict=True):
        # The flag in the place of `dst` leaves the default, which is bilinear.
        out[:] = cv2.resize(cv2.imread(row["path"]), (size, size))  # type: ignore[arg-type]
    pixels -= np.array(chain.MEANS, np.float32)
    return pixels, np.array([int(row["grade"]) for row in rows])


def fold(dataset: str, number: int, mode: methods.Mode) -> None:
    """Write what a fold puts out where the workflow would, if it is not there."""
    results = folder(dataset, mode)
    outputs, record = (
        outputs_of(results, number),
        results / f"models/{methods.BACKBONE}/fold-{number}/training_run.json",
    )
    if outputs.is_file():
        return
    training, held_out = methods.split(dataset, mode.folds)[number - 1]
    probabilities, ran = chain.in_a_process(answer, training, held_out, mode.size, mode.epochs, methods.SEED)
    write_json(record, ran)
    write_raw_outputs(outputs, said(held_out, probabilities))


def said(rows: Sequence[dict[str, str]], probabilities: np.ndarray) -> RawOutputs:
    """Outputs for the photographs of a split table."""
    columns = ([row[name] for row in rows] for name in ("image", "patient", "eye"))
    images, patients, eyes = columns
    filenames = [Path(row["path"]).name for row in rows]
    return RawOutputs(images, filenames, patients, eyes, np.array([int(row["grade"]) for row in rows]), probabilities)


def folder(dataset: str, mode: methods.Mode) -> Path:
    """Where the results of a data set are."""
    return methods.TARGET / dataset / mode.name / "article/results"


def outputs_of(results: Path, number: int) -> Path:
    """The outputs of a fold."""
    return results / f"scores/{methods.BACKBONE}/fold-{number}/validation/raw_outputs.csv"


def publish(dataset: str, mode: methods.Mode) -> None:
    """Print what the folds that are there come to, and write it to `results/benchmarks/article-{dataset}.json`."""
    results = folder(dataset, mode)
    tables = {f"fold-{i}": path for i in range(1, mode.folds + 1) if (path := outputs_of(results, i)).is_file()}
    rows = {name: judge(path, path.parent) for name, path in tables.items()}
    if len(tables) == mode.folds:
        pooled = results / f"scores/{methods.BACKBONE}/out-of-fold/raw_outputs.csv"
        pool(list(tables.values()), pooled, objective="softmax", grade_count=len(common.CLASSES))
        rows["out-of-fold"] = judge(pooled, pooled.parent)
    content = {**mode._asdict(), "machine": common.machine(), "rows": rows}
    write_json(common.TARGET / f"article-{dataset}.json", content)
    print(f"\n{dataset}, {mode.size} px, {mode.epochs} epochs\n\n| fold | kappa | accuracy | always 0 |")
    print("|---|---|---|---|")
    for name, row in rows.items():
        print(f"| {name} | {' | '.join(methods.shown(row, figure) for figure in ('kappa', 'accuracy', 'always_0'))} |")
    print(flush=True)


def judge(outputs: Path, target: Path) -> dict[str, Any]:
    """Grade outputs as the workflow does, beside them; returns what the most probable class comes to, and always 0."""
    job = GradingJob(
        model=methods.BACKBONE,
        objective="softmax",
        raw_outputs={"out-of-fold": outputs},
        inventories=[],
        grade_names=common.CLASSES,
        referable_grade=2,
        referable_sensitivity=0.9,
        bootstrap_samples=methods.REPLICATES,
        seed=methods.SEED,
        decision_rule=target / "decision_rule.json",
        predictions={"out-of-fold": target / "predictions.csv"},
        metrics={"out-of-fold": target / "metrics.json"},
    )
    grade_model(job)
    its = methods.read_graded(target, plain=True)
    zeros = its._replace(predicted=np.zeros_like(its.predicted))
    always = {
        f"always_0{name.removeprefix('accuracy')}": value
        for name, value in methods.judged(zeros).items()
        if name.startswith("accuracy")
    }
    return {**methods.judged(its), **always}


def main() -> None:
    """Answer the folds that are asked for, one after the other, and print what all that are there say."""
    parser = argparse.ArgumentParser(description="How well the article's recipe grades.")
    parser.add_argument(
        "datasets", nargs="+", choices=methods.DATASETS, metavar="dataset", help="below RETINAFLOW_DATA"
    )
    parser.add_argument("--folds", type=int, default=methods.FOLDS)
    parser.add_argument("--epochs", type=int, default=methods.EPOCHS)
    parser.add_argument("--size", type=int, default=methods.SIZE, help="side of the network's input in pixels")
    arguments = parser.parse_args()
    mode = methods.Mode(arguments.folds, arguments.epochs, arguments.size)
    for number in range(1, mode.folds + 1):
        for dataset in arguments.datasets:
            fold(dataset, number, mode)
            publish(dataset, mode)


if __name__ == "__main__":
    main()
