"""Reading of new images: the checks of the inventory and the pixels of the shards, with one decode of a JPEG.

The inventory decodes a JPEG to grey, for its damage and its quality. The shards decode it again, to colour. Most of the
time is the same for both: the entropy decoding. So a strict decode to colour serves both here, if both need the same
scale. Its pixels are those of OpenCV, bit for bit. Its quality differs from that of the inventory by about 0.0001.
"""

import io
import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image
from simplejpeg import decode_jpeg, decode_jpeg_header

from retinaflow.data.decoding import decode_image
from retinaflow.data.headers import Header, any_image_size, examine_file, read_jpeg
from retinaflow.data.quality import DIAMETER
from retinaflow.errors import RetinaflowError
from retinaflow.preprocessing.allocator import keep_freed_memory
from retinaflow.preprocessing.preprocess import prepare, reduced_scale
from retinaflow.preprocessing.variant import Variant

EXIF = b"Exif\x00\x00"
ORIENTATION = 0x0112


class NewImage(NamedTuple):
    """A file: its name, its path, its header, and its pixels by preprocessing variant, none if there is a problem."""

    name: str
    path: str
    header: Header
    pixels: dict[str, np.ndarray]


def read_new_images(
    files: Sequence[tuple[str, str]], variants: Sequence[str], megapixels: int, threads: int
) -> list[NewImage]:
    """Read and decode files.

    Args:
        files: Name and path of each file.
        variants: Preprocessing variants.
        megapixels: Largest size of an image.
        threads: Threads that read and decode.

    Returns:
        The image of each file.
    """
    parsed = [Variant.parse(name) for name in variants]
    keep_freed_memory()
    with any_image_size(), ThreadPoolExecutor(threads) as pool:
        return list(pool.map(lambda file: _read(file[0], file[1], parsed, megapixels), files))


def _read(name: str, path: str, variants: Sequence[Variant], megapixels: int) -> NewImage:
    decoder = _OneDecode(variants)
    header, content = examine_file(path, megapixels, decoder)
    if header.problem:
        return NewImage(name, path, header, {})
    size = int(header.width), int(header.height)
    try:
        pixels = {variant.name: prepare(content, *size, variant, decode=decoder.colour) for variant in variants}
    except RetinaflowError as error:
        return NewImage(name, path, header._replace(problem="unreadable", found=str(error)), {})
    return NewImage(name, path, header, pixels)


class _OneDecode:
    """Decodes one JPEG to colour for its check and for all preprocessing variants, where they need one scale."""

    def __init__(self, variants: Sequence[Variant]) -> None:
        self._variants = variants
        self._scale = 0
        self._image: np.ndarray | None = None

    def __call__(self, content: bytes) -> tuple[np.ndarray | None, str]:
        """Return grey pixels and an empty text, or the result of ``read_jpeg``."""
        try:
            height, width, colours, _ = decode_jpeg_header(content, strict=True)
            scales = {reduced_scale(width, height, variant) for variant in self._variants}
            if len(scales) == 1 and colours == "YCbCr" and _is_upright(content):
                (scale,) = scales
                if scale == _scale_of_check(width, height):
                    image = decode_jpeg(
                        content,
                        "BGR",
                        min_height=math.ceil(height / scale),
                        min_width=math.ceil(width / scale),
                        strict=True,
                    )
                    self._scale, self._image = scale, image
                    return cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), ""
        except (ValueError, OSError):  # An odd file. The next line knows what is harmless.
            pass
        return read_jpeg(content)

    def colour(self, content: bytes, denominator: int = 1) -> np.ndarray:
        """Decode as ``decode_image``."""
        if self._image is not None and denominator == self._scale:
            return self._image
        return decode_image(content, denominator)


def _scale_of_check(width: int, height: int) -> float:
    """Return the reduction at which ``read_jpeg`` checks: libjpeg has eighths."""
    eighths = (n for n in range(1, 9) if math.ceil(min(width, height) * n / 8) >= DIAMETER)
    return 8 / next(eighths, 8)


def _is_upright(content: bytes) -> bool:
    if EXIF not in content:
        return True
    return bool(Image.open(io.BytesIO(content)).getexif().get(ORIENTATION, 1) == 1)
