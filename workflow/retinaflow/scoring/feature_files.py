"""Read features of photographs back: for those who need no network, and wait for none to load."""

from pathlib import Path

import numpy as np

from retinaflow.errors import RetinaflowError
from retinaflow.preprocessing.shards import read_images
from retinaflow.storage.tables import REBUILD


def read_features(features: Path, rows: Path) -> tuple[np.ndarray, list[str]]:
    """Features float16 (n, 2 d) of ``features.write_features`` and the names of the n images.

    Raises ``RetinaflowError`` if either file is missing, damaged or they do not belong together.
    """
    try:
        array = np.load(features, allow_pickle=False)
    except Exception as error:  # NumPy has no one exception for a file that is not an array
        raise RetinaflowError(f"{features}: cannot be read as an array of features ({error}). {REBUILD}") from error
    if array.dtype != np.float16 or array.ndim != 2 or array.shape[1] % 2 or not np.isfinite(array).all():
        raise RetinaflowError(
            f"{features}: found {array.dtype} {array.shape}; expected finite float16 (n, 2 d). {REBUILD}"
        )
    return array, read_images(rows, features, len(array))
