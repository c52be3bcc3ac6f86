"""Quality of a fundus image: focus, exposure, and visibility of the whole field.

Readers rate images by these properties (Fu et al. 2019, Evaluation of Retinal Image Quality Assessment Networks in
Different Color-spaces, arXiv:1907.05345). The measures are simple. They rank the images of a data set, but have no
threshold below which an image cannot be graded.
"""

import functools
from typing import NamedTuple

import cv2
import numpy as np

from retinaflow.data.retina import find_retina

# Diameter of the disc of the retina in pixels. Images of all sizes are resized to it before they are measured.
DIAMETER = 256
# Pixels above this share of the mean belong to the disc.
DISC_SHARE = 1 / 5
# Radius of the measured part of the disc. The rim has a sharp edge in any image.
INNER = 0.85
# A sensor shows no detail at or beyond these grey values.
DARK, BRIGHT = 10, 250
# Grey values of noise. Dark areas have no other fine structure.
NOISE = 20
# Relative contrast of fine structures in the median of 960 EyePACS images of 1,024 px.
USUAL_CONTRAST = 0.05


class Quality(NamedTuple):
    """Measures from 0 (worst) to 1. ``overall`` is the geometric mean of the others."""

    focus: float
    exposure: float
    field: float
    overall: float


def assess(grey: np.ndarray) -> Quality:
    """Measure the quality of an image.

    - ``focus``: c / (c + ``USUAL_CONTRAST``). The contrast c of vessels and lesions compares Gaussian blurs of 1 and 4
      pixels. It is the range from the 10th to the 90th percentile of their difference, relative to the brightness
      around.
      The disc has 256 pixels. Pech-Pacheco et al. 2000, Diatom autofocusing in brightfield microscopy, use the variance
      of the Laplacian. A band of scales leaves out noise and JPEG blocks. Percentiles leave out the rim of the optic
      disc.
    - ``exposure``: 4 m (1 - m) times the share of the disc that is not clipped. m is the mean brightness from 0 to 1.
    - ``field``: visible share of the full circle, times the evenness of the light. Evenness is the brightness of the
      darkest of nine parts over the mean of all.

    All are 0 if nothing stands out from black.

    Args:
        grey: uint8 (height, width). The shorter side should have at least ``DIAMETER`` pixels.
    """
    lit, box = find_retina(grey, mean=grey.mean(), share=DISC_SHARE)
    if box is None:
        return Quality(0.0, 0.0, 0.0, 0.0)
    height, width = grey[box].shape
    scale = DIAMETER / max(height, width)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    disc = cv2.resize(grey[box], size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    seen = cv2.resize(lit[box], size, interpolation=cv2.INTER_NEAREST) > 0
    distance = _distance(*size)
    inner = seen & (distance < INNER)
    if not inner.any():
        return Quality(0.0, 0.0, 0.0, 0.0)
    light = disc.astype(np.float32)
    brightness = float(light[inner].mean())
    around = cv2.GaussianBlur(light, (0, 0), 4)
    relative = (cv2.GaussianBlur(light, (0, 0), 1) - around)[inner] / (around[inner] + NOISE)
    low, high = np.percentile(relative[::4], (10, 90))  # Percentiles of all pixels would take as long as the blurs.
    contrast = float(high - low)
    share = brightness / 255
    clipped = float(((disc <= DARK) | (disc >= BRIGHT))[inner].mean())
    focus = contrast / (contrast + USUAL_CONTRAST)
    exposure = 4 * share * (1 - share) * (1 - clipped)
    circle = distance < 1
    visible = float((seen & circle).sum()) / (np.pi / 4 * DIAMETER**2)
    field = min(1.0, visible) * _evenness(light, inner)
    return Quality(focus, exposure, field, (focus * exposure * field) ** (1 / 3))


@functools.lru_cache(64)
def _distance(width: int, height: int) -> np.ndarray:
    """Distance of each pixel from the middle in radii of the disc: float32 (height, width)."""
    x = (np.arange(width, dtype=np.float32) - (width - 1) / 2) / (DIAMETER / 2)
    y = (np.arange(height, dtype=np.float32) - (height - 1) / 2) / (DIAMETER / 2)
    return np.hypot(x[np.newaxis, :], y[:, np.newaxis])


def _evenness(light: np.ndarray, inner: np.ndarray) -> float:
    """Mean brightness of the darkest of nine parts over the mean of all, 0 to 1."""
    thumbnail = (3, 3)
    # INTER_AREA averages each of the nine parts.
    weight = cv2.resize(inner.astype(np.float32), thumbnail, interpolation=cv2.INTER_AREA)
    total = cv2.resize(np.where(inner, light, 0).astype(np.float32), thumbnail, interpolation=cv2.INTER_AREA)
    enough = weight > 0.1
    return float(min(1.0, (total[enough] / weight[enough]).min() / (total.sum() / weight.sum())))
