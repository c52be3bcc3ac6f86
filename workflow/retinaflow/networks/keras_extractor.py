"""Feature extractors in Keras form, loaded from a file."""

from pathlib import Path

import keras

from retinaflow.errors import RetinaflowError
from retinaflow.networks.extractor_files import OnnxValue, pixel_layout, rank_error
from retinaflow.networks.keras_files import load_safely

SAVE_AGAIN = "Save a network of Keras's own layers, without Lambda layers and classes of your own, with model.save()."


def load_extractor(file: Path, size: int) -> keras.Model:
    """Load a network from images of ``size`` px to features. Code inside the file is never run.

    Raises:
        RetinaflowError: The file cannot be loaded safely, or the network has other inputs or outputs.
    """
    network = load_safely(file, "network", SAVE_AGAIN)
    inputs, outputs = (list(getattr(network, ends, None) or ()) for ends in ("inputs", "outputs"))
    if len(inputs) != 1 or not outputs:
        raise RetinaflowError(f"{file}: found {len(inputs)} inputs, expected one for images. {SAVE_AGAIN}")
    pixel_layout(file, OnnxValue(inputs[0].name, 0, tuple(inputs[0].shape)), size)
    for output in outputs:
        if len(output.shape) not in (2, 3, 4):
            raise rank_error(file, output.name, tuple(output.shape))
    return network
