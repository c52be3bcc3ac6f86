"""Run a trained model over the photographs of a part."""

from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np

from retinaflow import device
from retinaflow.errors import RetinaflowError
from retinaflow.loader import Batches, Photographs

BATCH = 32


def load_model(path: Path, classes: Sequence[str], seed: int, threads: int) -> keras.Model:
    """Load a trained model; code inside the file is refused.

    Raises ``RetinaflowError`` if the file is no Keras model or has another number of classes.
    """
    device.prepare(seed, threads)
    try:
        model = keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # a damaged file fails anywhere in Keras, h5py, zipfile or zlib
        raise RetinaflowError(
            f"{path}: Keras cannot load this model safely ({error}). Delete it and run again to train it anew."
        ) from error
    if model.output_shape[-1] != len(classes):
        raise RetinaflowError(
            f"{path}: the model has {model.output_shape[-1]} classes, expected the {len(classes)} of data.classes. "
            "Delete it and run again to train it anew."
        )
    return model


def predict(model: keras.Model, photographs: Photographs, threads: int) -> np.ndarray:
    """Probabilities float64 (n, classes) in the order of ``photographs``; each row sums to 1."""
    probabilities = model.predict(Batches(photographs, BATCH, threads), verbose=0).astype(np.float64)
    return probabilities / probabilities.sum(axis=1, keepdims=True)
