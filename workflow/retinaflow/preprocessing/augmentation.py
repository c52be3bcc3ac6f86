"""Random changes to training photographs, each warped once and recoloured once; and views of those that are scored."""

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import cv2
import numpy as np

LUMA = np.array([0.299, 0.587, 0.114])  # of red, green and blue: ITU-R BT.601
# Views: the eight ways to lay a square on itself, then the same of photographs turned by what halves the gaps between.
DIHEDRAL = 8
FLIPS = {1: 1, 2: 0, 3: -1}  # in OpenCV's words: left to right, top to bottom, both
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


def draw_transform(settings: Mapping[str, Any], size: int, rng: np.random.Generator) -> Transform:
    """Draw a transform for photographs of ``size`` x ``size`` pixels from the ranges in ``train.augment``.

    A crop is a square with a share of the area uniform in ``crop`` to 1, anywhere in the photograph that is changed
    otherwise: as in Szegedy et al. 2015 (arXiv:1409.4842, section 6), where ``zoom`` varies the ratio of the sides.
    """
    rotation, shift, zoom = settings["rotation"], settings["shift"] * size, settings["zoom"]
    theta, tx, ty = rng.uniform(-1.0, 1.0, 3) * (rotation, shift, shift)
    zx, zy = rng.uniform(zoom[0], zoom[1], 2)
    flip_horizontal, flip_vertical = rng.random(2) < (
        0.5 * settings["flip_horizontal"],
        0.5 * settings["flip_vertical"],
    )
    side = math.sqrt(rng.uniform(settings["crop"], 1.0))
    right, down = rng.uniform(-0.5, 0.5, 2) * (1 - side) * size
    return Transform(
        theta, tx + zx * right, ty + zy * down, zx * side, zy * side, bool(flip_horizontal), bool(flip_vertical)
    )


def draw_colour(settings: Mapping[str, Any], rng: np.random.Generator) -> Colour:
    """Draw a change of colours from the ranges in ``train.augment``: factors 1 - x to 1 + x, and an angle."""
    names = ("brightness", "contrast", "saturation", "hue")
    brightness, contrast, saturation, hue = rng.uniform(-1.0, 1.0, 4) * [settings[name] for name in names]
    return Colour(1 + brightness, 1 + contrast, 1 + saturation, hue)


def augment(photograph: np.ndarray, settings: Mapping[str, Any], rng: np.random.Generator, out: np.ndarray) -> None:
    """Write a uint8 RGB (size, size, 3) ``photograph``, changed as ``train.augment`` says, into ``out``."""
    transform = draw_transform(settings, len(photograph), rng)
    warp(recolour(photograph, draw_colour(settings, rng)), transform, out)


def mix(photographs: np.ndarray, settings: Mapping[str, Any], rngs: Sequence[np.random.Generator]) -> np.ndarray:
    """Mix each of uint8 ``photographs`` (n, size, size, 3) with the next, the last with the first, in place.

    By ``mixup`` or else ``cutmix`` of ``train.augment``, the parameter of the symmetric Beta distribution that the
    share is drawn from which a photograph keeps of itself. ``rngs`` (n,) are those of the photographs. Returns the
    shares: float64 (n,).
    """
    if settings["mixup"]:
        shares = np.array([rng.beta(settings["mixup"], settings["mixup"]) for rng in rngs])
        mixup(photographs, shares)
        return shares
    drawn = [rng.beta(settings["cutmix"], settings["cutmix"]) for rng in rngs]
    size = photographs.shape[1]
    return cutmix(photographs, [draw_box(share, size, rng) for share, rng in zip(drawn, rngs, strict=True)])


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


def colour_matrix(colour: Colour, luma: float) -> np.ndarray:
    """The 3 x 4 float64 matrix that takes (red, green, blue, 1) of a pixel to its new colour.

    Brightness is a factor; contrast one on the distance from ``luma``, the mean of the photograph; saturation one on
    the distance from a grey of the same luma; hue turns colours about the axis of greys, 120 degrees from red to green
    and from green to blue, and restores their luma by grey (Haeberli 1993, Matrix Operations for Image Processing).
    Only brightness changes the mean luma, and grey stays grey.
    """
    turn, _ = cv2.Rodrigues(np.full(3, math.radians(colour.hue) / math.sqrt(3)))
    chroma = colour.saturation * turn
    linear = chroma + LUMA @ (np.eye(3) - chroma)
    scale = colour.brightness * colour.contrast
    offset = colour.brightness * (1 - colour.contrast) * luma
    return np.hstack([scale * linear, np.full((3, 1), offset)])


def warp(photograph: np.ndarray, transform: Transform, out: np.ndarray) -> None:
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


def recolour(photograph: np.ndarray, colour: Colour) -> np.ndarray:
    """The uint8 RGB (size, size, 3) ``photograph`` in other colours; what leaves 0 to 255 is clipped."""
    if colour == Colour():
        return photograph
    luma = float(LUMA @ cv2.mean(photograph)[:3])
    return cv2.transform(photograph, colour_matrix(colour, luma))


def mixup(photographs: np.ndarray, shares: np.ndarray) -> None:
    """Mix each of uint8 ``photographs`` (n, size, size, 3) with the one that follows it, the last with the first.

    In place: ``shares`` (n,) of itself and the rest of the other, as Zhang et al. 2018 (arXiv:1710.09412).
    """
    for photograph, other, share in zip(photographs, _followers(photographs), shares.tolist(), strict=True):
        cv2.addWeighted(photograph, share, other, 1 - share, 0, dst=photograph)


def draw_box(share: float, size: int, rng: np.random.Generator) -> tuple[int, int, int, int]:
    """Top, bottom, left and right of the box that CutMix fills from the other photograph.

    A square of the area ``1 - share`` about a pixel drawn at random, as far as it lies in the photograph: Yun et al.
    2019 (arXiv:1905.04899, section 3.1).
    """
    half = math.sqrt(1 - share) * size / 2
    middle = rng.uniform(0, size, 2)
    (top, left), (bottom, right) = (np.clip(np.rint(middle + side), 0, size).astype(int) for side in (-half, half))
    return int(top), int(bottom), int(left), int(right)


def cutmix(photographs: np.ndarray, boxes: Sequence[tuple[int, int, int, int]]) -> np.ndarray:
    """Fill a box (``draw_box``) of each of uint8 ``photographs`` (n, size, size, 3) from the one that follows it.

    In place; the first follows the last. Returns the share of its area that each keeps: float64 (n,).
    """
    shares = np.empty(len(boxes))
    for number, (other, (top, bottom, left, right)) in enumerate(zip(_followers(photographs), boxes, strict=True)):
        photographs[number, top:bottom, left:right] = other[top:bottom, left:right]
        shares[number] = 1 - (bottom - top) * (right - left) / photographs.shape[1] ** 2
    return shares


def _followers(photographs: np.ndarray) -> list[np.ndarray]:
    # The first is changed before the last needs it.
    return [*photographs[1:], photographs[0].copy()]


def mix_values(values: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """Targets (n, width) or weights (n,) mixed as ``mixup`` and ``cutmix`` mix photographs; float32."""
    own = shares.reshape(-1, *[1] * (values.ndim - 1))
    return (own * values + (1 - own) * np.roll(values, -1, axis=0)).astype(np.float32)


def write_view(photograph: np.ndarray, number: int, out: np.ndarray) -> None:
    """Write view ``number``, 0 to ``MAX_VIEWS`` - 1, of the uint8 (size, size, 3) ``photograph`` into ``out``.

    Of 0 to 7, each pixel is one of the photograph: as it is, mirrored left to right, top to bottom, both; then the same
    of its transpose. So the first 1, 2, 4 and 8 are a group. 8 to 15, 16 to 23, 24 to 31 are those of the photograph
    turned by 45, 22.5 and 67.5 degrees, interpolated as in training.
    """
    turn, element = divmod(number, DIHEDRAL)
    transposed, flips = divmod(element, 1 + len(FLIPS))
    if turn:
        warp(photograph, Transform(TURNS[turn]), out)
        photograph = out.copy()
    if transposed:
        photograph = cv2.transpose(photograph)
    if flips:
        cv2.flip(photograph, FLIPS[flips], dst=out)
    else:
        out[:] = photograph
