"""Reading of feature files. Imports no backend, so that linear models start fast."""

from pathlib import Path

import numpy as np

from retinaflow.errors import RetinaflowError
from retinaflow.preprocessing.shards import read_image_names
from retinaflow.storage.integrity import REBUILD, verify


def read_features(features: Path, rows: Path) -> tuple[np.ndarray, list[str]]:
    """Read the files of ``features.write_features``.

    Args:
        features: File of the features.
        rows: Table of image and digest.

    Returns:
        Features, float16 (n, 2 d), and the names of the n images.

    Raises:
        RetinaflowError: A file is missing or damaged, or the files do not belong together.
    """
    verify(features)
    try:
        array = np.load(features, allow_pickle=False)
    except Exception as error:  # NumPy raises many types for a file that is not an array.
        raise RetinaflowError(f"{features}: cannot be read as an array of features ({error}). {REBUILD}") from error
    if array.dtype != np.float16 or array.ndim != 2 or array.shape[1] % 2 or not np.isfinite(array).all():
        raise RetinaflowError(
            f"{features}: found {array.dtype} {array.shape}; expected finite float16 (n, 2 d). {REBUILD}"
        )
    return array, read_image_names(rows, features, len(array))
