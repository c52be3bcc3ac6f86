"""Run a trained model over the photographs of a part."""

from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np

from retinaflow import device
from retinaflow.errors import RetinaflowError
from retinaflow.loader import Batches, Photographs

BATCH = 32
TRAIN_ANEW = "Delete the model and run again to train it anew."


def load_model(path: Path, classes: Sequence[str], seed: int, threads: int) -> keras.Model:
    """Load a trained model; code inside the file is refused.

    Raises ``RetinaflowError`` if the file is no Keras model, or none from uint8 RGB (n, size, size, 3) to one
    probability for each of ``classes``.
    """
    device.prepare(seed, threads)
    device.full_float32()
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
    (pixels,), (probabilities,) = model.inputs, model.outputs
    if pixels.dtype != "uint8" or len(pixels.shape) != 4 or pixels.shape[3] != 3 or pixels.shape[1] != pixels.shape[2]:
        raise RetinaflowError(
            f"{path}: the model takes {pixels.dtype} {pixels.shape}, expected uint8 RGB (None, size, size, 3). "
            f"{TRAIN_ANEW}"
        )
    if len(probabilities.shape) != 2 or probabilities.shape[1] != len(classes):
        raise RetinaflowError(
            f"{path}: the model has {probabilities.shape[-1]} classes, expected the {len(classes)} of data.classes. "
            f"{TRAIN_ANEW}"
        )
    return model


def predict(model: keras.Model, photographs: Photographs, threads: int, views: int) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities float64 (n, classes) in the order of ``photographs``; each row sums to 1.

    First their mean over ``views`` of each photograph (``augment.view``), then those of the photograph as it is.

    Raises ``RetinaflowError`` if the model takes photographs of another size or gives no probabilities.
    """
    if model.input_shape[1] not in (None, photographs.size):
        raise RetinaflowError(
            f"{model.name}: the model takes photographs of {model.input_shape[1]} px, those of the shards have "
            f"{photographs.size}. {TRAIN_ANEW}"
        )
    total = single = _outputs(model, photographs, threads, 0)
    for view in range(1, views):
        total = total + _outputs(model, photographs, threads, view)
    return total / views, single


def _outputs(model: keras.Model, photographs: Photographs, threads: int, view: int) -> np.ndarray:
    # All photographs in one view, then in the next: as fast as all views of a few at a time.
    probabilities = model.predict(Batches(photographs, BATCH, threads, view=view), verbose=0).astype(np.float64)
    totals = probabilities.sum(axis=1)
    wrong = ~((probabilities >= 0).all(axis=1) & (totals > 0) & np.isfinite(totals))  # NaN fails each comparison
    if wrong.any():
        first = photographs.images[wrong.argmax()]
        raise RetinaflowError(
            f"{model.name}: the answers to {wrong.sum()} of {len(wrong)} photographs are no probabilities, first "
            f"{probabilities[wrong.argmax()].tolist()} to {first!r}. {TRAIN_ANEW}"
        )
    return probabilities / totals[:, np.newaxis]
