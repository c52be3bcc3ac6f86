"""The lit part of a fundus image: pixels of the retina, and their bounding box."""

from typing import NamedTuple

import cv2
import numpy as np

# Grey values of JPEG noise in a black border.
BORDER_NOISE = 8
# A row or column with a smaller share of lit pixels has specks only. A disc loses less than 0.1 % of its height by it.
SPECKS = 0.02


class Retina(NamedTuple):
    """Lit pixels, uint8 0 or 1 (height, width), and the box (rows, columns) around them. No box if no pixel is lit."""

    lit: np.ndarray
    box: tuple[slice, slice] | None


def find_retina(grey: np.ndarray, *, mean: float, share: float) -> Retina:
    """Find the retina in an image with a black border.

    A pixel is lit if it is brighter than ``share`` times ``mean`` and than noise in the border.

    Args:
        grey: uint8 (height, width).
        mean: Mean of ``grey``. The caller computes it: OpenCV and NumPy can differ in the last digit.
        share: Share of the mean, 0 to 1. With a larger share, less of a halo around the retina is lit.

    Returns:
        Lit pixels and the box around them, without rows and columns of specks.
    """
    lit = cv2.threshold(grey, max(BORDER_NOISE, share * mean), 1, cv2.THRESH_BINARY)[1]
    height, width = lit.shape
    rows = np.flatnonzero(cv2.reduce(lit, 1, cv2.REDUCE_SUM, dtype=cv2.CV_32S) > SPECKS * width)
    columns = np.flatnonzero(cv2.reduce(lit, 0, cv2.REDUCE_SUM, dtype=cv2.CV_32S) > SPECKS * height)
    if not len(rows) or not len(columns):
        return Retina(lit, None)
    return Retina(lit, (slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)))
