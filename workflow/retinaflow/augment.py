"""Random geometric changes to training photographs, each photograph warped once."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import cv2
import numpy as np


class Transform(NamedTuple):
    """One geometric change, in the terms of Keras's ``ImageDataGenerator.apply_transform``.

    ``theta``: rotation in degrees; ``tx``, ``ty``: shift of the sampling grid right and down in pixels; ``zx``,
    ``zy``: its scale, below 1 magnifies; then the flips.
    """

    theta: float = 0.0
    tx: float = 0.0
    ty: float = 0.0
    zx: float = 1.0
    zy: float = 1.0
    flip_horizontal: bool = False
    flip_vertical: bool = False


def draw(settings: Mapping[str, Any], size: int, rng: np.random.Generator) -> Transform:
    """Draw a transform for photographs of ``size`` x ``size`` pixels from the ranges in ``train.augment``."""
    rotation, shift, zoom = settings["rotation"], settings["shift"] * size, settings["zoom"]
    theta, tx, ty = rng.uniform(-1.0, 1.0, 3) * (rotation, shift, shift)
    zx, zy = rng.uniform(zoom[0], zoom[1], 2)
    flip_horizontal, flip_vertical = rng.random(2) < (
        0.5 * settings["flip_horizontal"],
        0.5 * settings["flip_vertical"],
    )
    return Transform(theta, tx, ty, zx, zy, bool(flip_horizontal), bool(flip_vertical))


def sampling_matrix(transform: Transform, size: int) -> np.ndarray:
    """The 2 x 3 float64 matrix that takes each (x, y) of the result to the place it is sampled from."""
    # In Keras's order, rotation, then shift, then zoom, about the middle; a flip of the result comes before anything.
    angle = math.radians(transform.theta)
    cosine, sine = math.cos(angle), math.sin(angle)
    zx = -transform.zx if transform.flip_horizontal else transform.zx
    zy = -transform.zy if transform.flip_vertical else transform.zy
    middle = (size - 1) / 2
    a, b, c, d = cosine * zx, -sine * zy, sine * zx, cosine * zy
    x = cosine * transform.tx - sine * transform.ty + middle - middle * (a + b)
    y = sine * transform.tx + cosine * transform.ty + middle - middle * (c + d)
    return np.array([[a, b, x], [c, d, y]])


def apply(photograph: np.ndarray, transform: Transform, out: np.ndarray) -> None:
    """Write the transformed uint8 (size, size, 3) ``photograph`` into ``out``, an array of the same shape.

    Bilinear; what lies outside the photograph takes the nearest value at its edge.
    """
    size = photograph.shape[0]
    cv2.warpAffine(
        photograph,
        sampling_matrix(transform, size),
        (size, size),
        dst=out,
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )
