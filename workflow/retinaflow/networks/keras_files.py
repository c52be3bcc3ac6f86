"""Keras files, which may come from other people."""

from pathlib import Path

import keras

from retinaflow.errors import RetinaflowError


def load_safely(path: Path, kind: str, again: str) -> keras.Model:
    """Load a network. Code inside the file is never run.

    Args:
        path: The file.
        kind: Kind of the content for messages, such as ``model``.
        again: Advice at the end of messages.

    Raises:
        RetinaflowError: The file cannot be loaded safely.
    """
    try:
        return keras.saving.load_model(path, compile=False, safe_mode=True)
    except Exception as error:  # a damaged file fails anywhere in Keras, h5py, zipfile or zlib
        message = " ".join(str(error).split())
        # Keras writes the cause after a description of the whole model.
        cause = message if len(message) < 500 else f"{message[:100]} ... {message[-400:]}"
        raise RetinaflowError(f"{path}: Keras cannot load this {kind} safely ({cause}). {again}") from error
