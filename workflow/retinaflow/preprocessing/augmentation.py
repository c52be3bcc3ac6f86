"""Augmentation of training images, and the views of test-time augmentation.

Each training image is recoloured once and warped once.
"""

import hashlib
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import cv2
import numpy as np

if TYPE_CHECKING:
    from retinaflow.settings.augment import AugmentSettings

LUMA = np.array([0.299, 0.587, 0.114])  # of red, green and blue: ITU-R BT.601
# Views: the eight symmetries of a square, then the same of images turned by angles that halve the gaps.
DIHEDRAL = 8
FLIPS = {1: 1, 2: 0, 3: -1}  # Codes of OpenCV: left to right, top to bottom, both.
TURNS = (0.0, 45.0, 22.5, 67.5)
MAX_VIEWS = DIHEDRAL * len(TURNS)


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


class Colour(NamedTuple):
    """One change of colours.

    ``brightness``, ``contrast``, ``saturation``: factors from 0; ``hue``: rotation in degrees.
    """

    brightness: float = 1.0
    contrast: float = 1.0
    saturation: float = 1.0
    hue: float = 0.0


def image_number(image: str) -> int:
    """Return the number of an image in seeds, 0 to 2**128 - 1, from its name alone."""
    name = image.encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(name, digest_size=16).digest(), "big")


def draw_transform(settings: "AugmentSettings", size: int, rng: np.random.Generator) -> Transform:
    """Draw a transform for images of ``size`` x ``size`` pixels from the ranges in ``train.augment``.

    A crop is a square anywhere in the transformed image. Its share of the area is uniform in ``crop`` to 1. It follows
    Szegedy et al. 2015 (arXiv:1409.4842, section 6), with ``zoom`` for the ratio of the sides.
    """
    rotation, shift, zoom = settings.rotation, settings.shift * size, settings.zoom
    theta, tx, ty = rng.uniform(-1.0, 1.0, 3) * (rotation, shift, shift)
    zx, zy = rng.uniform(zoom[0], zoom[1], 2)
    flip_horizontal, flip_vertical = rng.random(2) < (
        0.5 * settings.flip_horizontal,
        0.5 * settings.flip_vertical,
    )
    side = math.sqrt(rng.uniform(settings.crop, 1.0))
    right, down = rng.uniform(-0.5, 0.5, 2) * (1 - side) * size
    return Transform(
        theta, tx + zx * right, ty + zy * down, zx * side, zy * side, bool(flip_horizontal), bool(flip_vertical)
    )


def draw_colour(settings: "AugmentSettings", rng: np.random.Generator) -> Colour:
    """Draw a change of colours from the ranges in ``train.augment``: factors from 1 - x to 1 + x, and an angle."""
    ranges = [settings.brightness, settings.contrast, settings.saturation, settings.hue]
    brightness, contrast, saturation, hue = rng.uniform(-1.0, 1.0, 4) * ranges
    return Colour(1 + brightness, 1 + contrast, 1 + saturation, hue)


def augment(image: np.ndarray, settings: "AugmentSettings", rng: np.random.Generator, out: np.ndarray) -> None:
    """Augment a uint8 RGB (size, size, 3) ``image`` by the ranges in ``train.augment``, and write it into ``out``."""
    transform = draw_transform(settings, len(image), rng)
    warp(recolour(image, draw_colour(settings, rng)), transform, out)


def mix(images: np.ndarray, settings: "AugmentSettings", rngs: Sequence[np.random.Generator]) -> np.ndarray:
    """Mix each image with the next one, and the last with the first, in place.

    Args:
        images: uint8 (n, size, size, 3).
        settings: ``train.augment``. ``mixup``, or else ``cutmix``, is the parameter of the symmetric Beta distribution
            of the shares.
        rngs: Sources of randomness of the n images.

    Returns:
        The share that each image keeps, float64 (n,).
    """
    if settings.mixup:
        shares = np.array([rng.beta(settings.mixup, settings.mixup) for rng in rngs])
        mixup(images, shares)
        return shares
    drawn = [rng.beta(settings.cutmix, settings.cutmix) for rng in rngs]
    size = images.shape[1]
    return cutmix(images, [draw_box(share, size, rng) for share, rng in zip(drawn, rngs, strict=True)])


def sampling_matrix(transform: Transform, size: int) -> np.ndarray:
    """Return the 2 x 3 float64 matrix from each (x, y) of the result to the place where it is sampled."""
    # The order is that of Keras: rotation, then shift, then zoom, about the middle. A flip of the result comes first.
    angle = math.radians(transform.theta)
    cosine, sine = math.cos(angle), math.sin(angle)
    zx = -transform.zx if transform.flip_horizontal else transform.zx
    zy = -transform.zy if transform.flip_vertical else transform.zy
    middle = (size - 1) / 2
    a, b, c, d = cosine * zx, -sine * zy, sine * zx, cosine * zy
    x = cosine * transform.tx - sine * transform.ty + middle - middle * (a + b)
    y = sine * transform.tx + cosine * transform.ty + middle - middle * (c + d)
    return np.array([[a, b, x], [c, d, y]])


def colour_matrix(colour: Colour, luma: float) -> np.ndarray:
    """Return the 3 x 4 float64 matrix from (red, green, blue, 1) of a pixel to its new colour.

    Brightness is a factor on the colour. Contrast is a factor on the distance from ``luma``, the mean of the image.
    Saturation is a factor on the distance from a grey of the same luma. Hue turns colours about the axis of greys: 120
    degrees from red to green, and from green to blue. It restores their luma by grey (Haeberli 1993, Matrix Operations
    for Image Processing). Only brightness changes the mean luma, and grey stays grey.
    """
    turn, _ = cv2.Rodrigues(np.full(3, math.radians(colour.hue) / math.sqrt(3)))
    chroma = colour.saturation * turn
    linear = chroma + LUMA @ (np.eye(3) - chroma)
    scale = colour.brightness * colour.contrast
    offset = colour.brightness * (1 - colour.contrast) * luma
    return np.hstack([scale * linear, np.full((3, 1), offset)])


def warp(image: np.ndarray, transform: Transform, out: np.ndarray) -> None:
    """Write the transformed uint8 (size, size, 3) ``image`` into ``out``, an array of the same shape.

    Interpolation is bilinear. Pixels outside the image have the nearest value at its edge.
    """
    size = image.shape[0]
    cv2.warpAffine(
        image,
        sampling_matrix(transform, size),
        (size, size),
        dst=out,
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_REPLICATE,
    )


def recolour(image: np.ndarray, colour: Colour) -> np.ndarray:
    """Return the uint8 RGB (size, size, 3) ``image`` in other colours, clipped to 0 to 255."""
    if colour == Colour():
        return image
    luma = float(LUMA @ cv2.mean(image)[:3])
    return cv2.transform(image, colour_matrix(colour, luma))


def mixup(images: np.ndarray, shares: np.ndarray) -> None:
    """Mix each of uint8 ``images`` (n, size, size, 3) with the next one, and the last with the first, in place.

    An image keeps its share of ``shares`` (n,) of itself. The rest is the next image (Zhang et al. 2018,
    arXiv:1710.09412).
    """
    for image, next_image, share in zip(images, _followers(images), shares.tolist(), strict=True):
        cv2.addWeighted(image, share, next_image, 1 - share, 0, dst=image)


def draw_box(share: float, size: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Draw top, bottom, left and right of the box that CutMix fills from the next image.

    The box is the part inside the image of a square with the area ``1 - share`` about a random pixel (Yun et al. 2019,
    arXiv:1905.04899, section 3.1).
    """
    half = math.sqrt(1 - share) * size / 2
    middle = rng.uniform(0, size, 2)
    (top, left), (bottom, right) = (np.clip(np.rint(middle + side), 0, size).astype(int) for side in (-half, half))
    return int(top), int(bottom), int(left), int(right)


def cutmix(images: np.ndarray, boxes: Sequence[tuple[int, int, int, int]]) -> np.ndarray:
    """Fill a box (``draw_box``) of each of uint8 ``images`` (n, size, size, 3) from the next one, in place.

    The first image is the next one of the last.

    Returns:
        The share of its area that each image keeps, float64 (n,).
    """
    shares = np.empty(len(boxes))
    for number, (other, (top, bottom, left, right)) in enumerate(zip(_followers(images), boxes, strict=True)):
        images[number, top:bottom, left:right] = other[top:bottom, left:right]
        shares[number] = 1 - (bottom - top) * (right - left) / images.shape[1] ** 2
    return shares


def _followers(images: np.ndarray) -> list[np.ndarray]:
    # The first image has changed before the last one needs it.
    return [*images[1:], images[0].copy()]


def mix_values(values: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Mix targets (n, width) or weights (n,) by the shares that ``mixup`` or ``cutmix`` used. Returns float32."""
    own = shares.reshape(-1, *[1] * (values.ndim - 1))
    return (own * values + (1 - own) * np.roll(values, -1, axis=0)).astype(np.float32)


def write_view(image: np.ndarray, number: int, out: np.ndarray) -> None:
    """Write view ``number``, 0 to ``MAX_VIEWS`` - 1, of the uint8 (size, size, 3) ``image`` into ``out``.

    Views 0 to 3 are the image as it is, mirrored left to right, top to bottom, and both. Views 4 to 7 are the same of
    its transpose. So the first 1, 2, 4 and 8 views are a group. The next three times eight views are those of the image
    turned by 45, 22.5 and 67.5 degrees, interpolated as in training.
    """
    turn, element = divmod(number, DIHEDRAL)
    transposed, flips = divmod(element, 1 + len(FLIPS))
    if turn:
        warp(image, Transform(TURNS[turn]), out)
        image = out.copy()
    if transposed:
        image = cv2.transpose(image)
    if flips:
        cv2.flip(image, FLIPS[flips], dst=out)
    else:
        out[:] = image
