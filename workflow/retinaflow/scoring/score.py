"""Run a trained model over the photographs of a part."""

from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np

from retinaflow.errors import RetinaflowError
from retinaflow.networks import devices, objectives
from retinaflow.preprocessing.batches import Batches, ImageSource

BATCH = 32
TRAIN_ANEW = "Delete the model and run again to train it anew."


def load_model(path: Path, classes: Sequence[str], seed: int, threads: int, objective: str = "softmax") -> keras.Model:
    """Load a trained model; code inside the file is refused.

    Raises ``RetinaflowError`` if the file is no Keras model, or none from uint8 RGB (n, size, size, 3) to what a
    network of this ``objective`` says of ``classes``.
    """
    devices.prepare(seed, threads)
    devices.full_float32()
    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # a damaged file fails anywhere in Keras, h5py, zipfile or zlib
        told = " ".join(str(error).split())
        # Keras puts what went wrong behind the whole description of the model.
        cause = told if len(told) < 500 else f"{told[:100]} ... {told[-400:]}"
        raise RetinaflowError(f"{path}: Keras cannot load this model safely ({cause}). {TRAIN_ANEW}") from error
    # A model that was never built has neither.
    if [len(getattr(model, ends, None) or ()) for ends in ("inputs", "outputs")] != [1, 1]:
        raise RetinaflowError(f"{path}: expected a model with one input and one output. {TRAIN_ANEW}")
    (pixels,), (outputs,) = model.inputs, model.outputs
    if pixels.dtype != "uint8" or len(pixels.shape) != 4 or pixels.shape[3] != 3 or pixels.shape[1] != pixels.shape[2]:
        raise RetinaflowError(
            f"{path}: the model takes {pixels.dtype} {pixels.shape}, expected uint8 RGB (None, size, size, 3). "
            f"{TRAIN_ANEW}"
        )
    expected = objectives.width(objective, len(classes))
    if len(outputs.shape) != 2 or outputs.shape[1] != expected:
        raise RetinaflowError(
            f"{path}: the model has {outputs.shape[-1]} outputs, expected the {expected} of objective {objective} for "
            f"the {len(classes)} of data.grade_names. {TRAIN_ANEW}"
        )
    return model


def predict_views(
    model: keras.Model, photographs: ImageSource, threads: int, objective: str, views: int
) -> tuple[np.ndarray, np.ndarray | None]:
    """Mean of what ``predict`` gives over ``views`` of each photograph; of several, also what the first one gives."""
    # All photographs in one view, then in the next: as fast as all views of a few at a time.
    single = predict(model, photographs, threads, objective)
    total = single.copy()
    for view in range(1, views):
        total += predict(model, photographs, threads, objective, view)
    return total / views, single if views > 1 else None


def predict(
    model: keras.Model, photographs: ImageSource, threads: int, objective: str = "softmax", view: int = 0
) -> np.ndarray:
    """Outputs float64 (n, width) in the order of ``photographs``, as ``objectives`` has them; rows of softmax sum to 1.

    ``view``: how the photographs are seen (``augment.view``).

    Raises ``RetinaflowError`` if the model takes photographs of another size, or gives what no network of this
    ``objective`` does.
    """
    if model.input_shape[1] not in (None, photographs.size):
        raise RetinaflowError(
            f"{model.name}: the model takes photographs of {model.input_shape[1]} px, those of the shards have "
            f"{photographs.size}. {TRAIN_ANEW}"
        )
    outputs = model.predict(Batches(photographs, BATCH, threads=threads, view=view), verbose=0).astype(np.float64)
    totals = outputs.sum(axis=1) if objective == "softmax" else np.ones(len(outputs))
    wrong = objectives.impossible_rows(objective, outputs) | (totals <= 0)
    if wrong.any():
        first = photographs.names[int(wrong.argmax())]
        raise RetinaflowError(
            f"{model.name}: the answers to {wrong.sum()} of {len(wrong)} photographs are none of objective {objective},"
            f" first {outputs[wrong.argmax()].tolist()} to {first!r}. {TRAIN_ANEW}"
        )
    return outputs / totals[:, np.newaxis]
