"""Raw outputs of a trained network for the images of a split."""

from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np

from retinaflow.errors import RetinaflowError
from retinaflow.networks import devices, objectives
from retinaflow.networks.batch_progress import BatchProgress
from retinaflow.networks.keras_files import load_safely
from retinaflow.preprocessing.batches import Batches, Images, ImageSource
from retinaflow.scoring.raw_outputs import RawOutputs, write_raw_outputs
from retinaflow.storage.integrity import verify

BATCH = 32
TRAIN_AGAIN = "Delete the model and run again to train it again."


def load_model(
    path: Path, grade_names: Sequence[str], *, objective: str = "softmax", seed: int, threads: int
) -> keras.Model:
    """Load a trained network. Code inside the file is never run.

    Args:
        path: Keras file of the network.
        grade_names: Names of the k grades.
        objective: Objective of the network.
        seed: Seed of Keras.
        threads: Threads of the backend.

    Raises:
        RetinaflowError: The file is no Keras model, or its model does not map uint8 RGB (n, size, size, 3) to raw
            outputs of this objective.
    """
    devices.prepare_process(seed, threads)
    devices.full_float32()
    verify(path, TRAIN_AGAIN)
    model = load_safely(path, "model", TRAIN_AGAIN)
    # A model that was never built has neither.
    if [len(getattr(model, ends, None) or ()) for ends in ("inputs", "outputs")] != [1, 1]:
        raise RetinaflowError(f"{path}: expected a model with one input and one output. {TRAIN_AGAIN}")
    (pixels,), (outputs,) = model.inputs, model.outputs
    if pixels.dtype != "uint8" or len(pixels.shape) != 4 or pixels.shape[3] != 3 or pixels.shape[1] != pixels.shape[2]:
        raise RetinaflowError(
            f"{path}: the model takes {pixels.dtype} {pixels.shape}, expected uint8 RGB (None, size, size, 3). "
            f"{TRAIN_AGAIN}"
        )
    expected = objectives.width(objective, len(grade_names))
    if len(outputs.shape) != 2 or outputs.shape[1] != expected:
        raise RetinaflowError(
            f"{path}: the model has {outputs.shape[-1]} outputs, expected the {expected} of objective {objective} for "
            f"the {len(grade_names)} of data.grade_names. {TRAIN_AGAIN}"
        )
    return model


def score_images(
    model: keras.Model, images: Images, table: Path, *, objective: str, tta_views: int, threads: int
) -> None:
    """Write the raw outputs of a network for images, as ``predict_tta`` computes them."""
    outputs, no_tta = predict_tta(model, images, objective=objective, tta_views=tta_views, threads=threads)
    raw_outputs = RawOutputs(images.names, images.filenames, images.patients, images.eyes, images.grades, outputs)
    write_raw_outputs(table, raw_outputs, no_tta)


def predict_tta(
    model: keras.Model, images: ImageSource, *, objective: str, tta_views: int, threads: int
) -> tuple[np.ndarray, np.ndarray | None]:
    """Compute raw outputs with test-time augmentation.

    Args:
        model: A network.
        images: The n images.
        objective: Objective of the network.
        tta_views: Number of views of each image, at least 1. The first view is the image itself.
        threads: Threads that prepare batches.

    Returns:
        Mean raw outputs over the views, float64 (n, width); and those of the first view, None if it is the only one.

    Raises:
        RetinaflowError: As ``predict_outputs``.
    """
    # All images in one view, then in the next: as fast as all views of a few images at a time.
    no_tta = predict_outputs(model, images, objective=objective, threads=threads, tta_views=tta_views)
    total = no_tta.copy()
    for view in range(1, tta_views):
        total += predict_outputs(model, images, objective=objective, threads=threads, view=view, tta_views=tta_views)
    return total / tta_views, no_tta if tta_views > 1 else None


def predict_outputs(
    model: keras.Model,
    images: ImageSource,
    *,
    objective: str = "softmax",
    threads: int,
    view: int = 0,
    tta_views: int = 1,
) -> np.ndarray:
    """Compute the raw outputs of a network in one view of each image.

    Args:
        model: A network.
        images: The n images.
        objective: Objective of the network.
        threads: Threads that prepare batches.
        view: Number of the view (``augmentation.write_view``); 0 is the image itself.
        tta_views: Number of all views, for the report of progress.

    Returns:
        float64 (n, width) in the order of the images, as module ``objectives`` describes. Rows of softmax sum to 1.

    Raises:
        RetinaflowError: The model expects images of another size, or gives values that its objective excludes.
    """
    if model.input_shape[1] not in (None, images.size):
        raise RetinaflowError(
            f"{model.name}: the model takes images of {model.input_shape[1]} px, those of the shards have "
            f"{images.size}. {TRAIN_AGAIN}"
        )
    step = f"{len(images):,} images" + (f", view {view + 1} of {tta_views}" if tta_views > 1 else "")
    reported = BatchProgress(step, first=view / tta_views, last=(view + 1) / tta_views)
    batches = Batches(images, BATCH, threads=threads, view=view)
    outputs = model.predict(batches, verbose=0, callbacks=[reported]).astype(np.float64)
    totals = outputs.sum(axis=1) if objective == "softmax" else np.ones(len(outputs))
    wrong = objectives.impossible_rows(objective, outputs) | (totals <= 0)
    if wrong.any():
        first = images.names[int(wrong.argmax())]
        raise RetinaflowError(
            f"{model.name}: the raw outputs for {wrong.sum()} of {len(wrong)} images are impossible for objective "
            f"{objective}, first {outputs[wrong.argmax()].tolist()} for {first!r}. {TRAIN_AGAIN}"
        )
    return outputs / totals[:, np.newaxis]
