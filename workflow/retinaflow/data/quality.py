"""How good a fundus photograph is to look at: in focus, well exposed, its whole field to be seen.

These are what readers grade photographs by (Fu et al. 2019, Evaluation of Retinal Image Quality Assessment Networks in
Different Color-spaces, arXiv:1907.05345). The measures are plain ones: they rank photographs of a data set, and do not
say from where on one cannot be graded.
"""

import functools
from typing import NamedTuple

import cv2
import numpy as np

# Pixels that the disc of the retina is brought to, so that photographs of all sizes mean the same by a pixel.
DIAMETER = 256
# From which grey value on a pixel is of the disc: as a share of the mean, and above the noise of the border.
LIT_SHARE_OF_MEAN = 1 / 5
BORDER_NOISE = 8
# Where the rim of the disc, whose edge is sharp in any photograph, does not count.
INNER = 0.85
# Grey values at which a sensor says no more.
DARK, BRIGHT = 10, 250
# Grey values that noise may make up, which is all there is of fine structure where it is dark.
NOISE = 20
# Relative contrast of fine structures in the median of 960 photographs of EyePACS of 1,024 px.
USUAL_CONTRAST = 0.05


class Quality(NamedTuple):
    """Each 0 (worst) to 1: ``focus``, ``exposure``, ``field``, and ``overall``, their geometric mean."""

    focus: float
    exposure: float
    field: float
    overall: float


def assess(grey: np.ndarray) -> Quality:
    """The quality of a photograph, uint8 (height, width), ideally with a shorter side of ``DIAMETER`` pixels at least.

    - ``focus``: c / (c + ``USUAL_CONTRAST``), where c is the range from 10th to 90th percentile of what lies between
      Gaussian blurs of 1 and 4 pixels, of a disc of 256, relative to the brightness around: vessels and lesions.
      (Pech-Pacheco et al. 2000, Diatom autofocusing in brightfield microscopy, takes the variance of the Laplacian; a
      band of scales instead leaves out noise and blocks of JPEG, percentiles the rim of the optic disc.)
    - ``exposure``: 4 m (1 - m), m the mean brightness from 0 to 1, times the share of the disc that is not clipped.
    - ``field``: the share of the full circle that is seen, times how evenly it is lit: the brightness of the darkest of
      nine parts over the mean of all.

    A photograph in which nothing stands out from black is 0 in all.
    """
    lit = grey > max(BORDER_NOISE, LIT_SHARE_OF_MEAN * grey.mean())
    rows, columns = np.flatnonzero(lit.mean(axis=1) > 0.02), np.flatnonzero(lit.mean(axis=0) > 0.02)
    if not len(rows) or not len(columns):
        return Quality(0.0, 0.0, 0.0, 0.0)
    box = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    height, width = grey[box].shape
    scale = DIAMETER / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    disc = cv2.resize(grey[box], size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    seen = cv2.resize(lit[box].astype(np.uint8), size, interpolation=cv2.INTER_NEAREST) > 0
    distance = _distance(*size)
    inner = seen & (distance < INNER)
    if not inner.any():
        return Quality(0.0, 0.0, 0.0, 0.0)
    level = disc.astype(np.float32)
    brightness = float(level[inner].mean())
    around = cv2.GaussianBlur(level, (0, 0), 4)
    relative = (cv2.GaussianBlur(level, (0, 0), 1) - around)[inner] / (around[inner] + NOISE)
    low, high = np.percentile(relative[::4], (10, 90))  # all of them would take as long as the blurs
    contrast = float(high - low)
    share = brightness / 255
    clipped = float(((disc <= DARK) | (disc >= BRIGHT))[inner].mean())
    focus = contrast / (contrast + USUAL_CONTRAST)
    exposure = 4 * share * (1 - share) * (1 - clipped)
    circle = distance < 1
    visible = float((seen & circle).sum()) / (np.pi / 4 * DIAMETER**2)
    field = min(1.0, visible) * _evenness(level, inner)
    return Quality(focus, exposure, field, (focus * exposure * field) ** (1 / 3))


@functools.lru_cache(64)
def _distance(width: int, height: int) -> np.ndarray:
    """float32 (height, width): distance from the middle in radii of the disc."""
    x = (np.arange(width, dtype=np.float32) - (width - 1) / 2) / (DIAMETER / 2)
    y = (np.arange(height, dtype=np.float32) - (height - 1) / 2) / (DIAMETER / 2)
    return np.hypot(x[np.newaxis, :], y[:, np.newaxis])


def _evenness(level: np.ndarray, inner: np.ndarray) -> float:
    """Mean brightness of the darkest of nine parts over that of all, 0 to 1."""
    third = (3, 3)
    # Means of the areas: what a thumbnail of 3 x 3 pixels is made of.
    weight = cv2.resize(inner.astype(np.float32), third, interpolation=cv2.INTER_AREA)
    light = cv2.resize(np.where(inner, level, 0).astype(np.float32), third, interpolation=cv2.INTER_AREA)
    enough = weight > 0.1
    return float(min(1.0, (light[enough] / weight[enough]).min() / (light.sum() / weight.sum())))
