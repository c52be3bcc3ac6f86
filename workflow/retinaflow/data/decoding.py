"""Pixels of an image file of any format. Every stage that needs pixels decodes them here."""

import io

import cv2
import numpy as np
from PIL import Image, Jpeg2KImagePlugin
from simplejpeg import decode_jpeg

from retinaflow.data.codestreams import J2K_START, JP2_START, JPEG_END, JPEG_START, lacks_end_alone
from retinaflow.data.dicom import DicomError, read_dicom
from retinaflow.data.dicom_pixels import decode_dicom
from retinaflow.data.image_files import is_dicom
from retinaflow.errors import RetinaflowError

TIFF_STARTS = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")

# libjpeg skips frequencies that a reduced image cannot show. This is faster than a full decode and free of aliasing.
# With other formats, OpenCV drops pixels for these flags.
DECODE_FLAGS = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}


def decode_image(content: bytes, denominator: int = 1) -> np.ndarray:
    """Decode an image file.

    Args:
        content: Encoded image: JPEG, PNG, TIFF, BMP, WebP, JPEG 2000 or DICOM; grey, colour, palette or CMYK.
        denominator: 1, 2, 4 or 8 to reduce both sides of a JPEG. 1 for other formats.

    Returns:
        uint8 BGR (height, width, 3), upright by EXIF and without alpha.

    Raises:
        RetinaflowError: ``content`` cannot be decoded. The message has no file name.
    """
    if is_dicom(content):
        try:
            return decode_dicom(read_dicom(content))
        except DicomError as fault:
            raise RetinaflowError(f"cannot be decoded, found {fault.found}") from None
    if is_jpeg_2000(content):
        return _decode_jpeg_2000(content)
    image = _decode_by_opencv(content, denominator)
    if image is None and is_whole_without_end(content):
        image = _decode_by_opencv(content + JPEG_END, denominator)
    if image is None:
        raise _undecodable(content)
    if content.startswith(TIFF_STARTS):
        return _without_alpha(content, image)
    return image


def is_whole_without_end(content: bytes) -> bool:
    """Whether content is a JPEG that has all of its pixels, but no end marker. OpenCV refuses it without one."""
    if not content.startswith(JPEG_START) or not lacks_end_alone(content):
        return False
    try:
        # All data are decoded, to few pixels. A warning is an error.
        decode_jpeg(content + JPEG_END, "GRAY", fastdct=True, min_height=1, min_width=1, strict=True)
    except ValueError:
        return False
    return True


def _decode_by_opencv(content: bytes, denominator: int) -> np.ndarray | None:
    try:
        return cv2.imdecode(np.frombuffer(content, np.uint8), DECODE_FLAGS[denominator])
    except cv2.error:  # The file is empty or has more pixels than OpenCV accepts.
        return None


def is_jpeg_2000(content: bytes) -> bool:
    """Whether content is JPEG 2000: a file with boxes or a bare codestream."""
    return content.startswith((JP2_START, J2K_START))


def _undecodable(content: bytes) -> RetinaflowError:
    return RetinaflowError(f"cannot be decoded, found {len(content)} bytes that are truncated or no image")


def _decode_jpeg_2000(content: bytes) -> np.ndarray:
    # OpenCV refuses grey codestreams without boxes, and writes to the standard error.
    try:
        # Not by Image.open, whose limit of pixels is not that of the configuration.
        with Jpeg2KImagePlugin.Jpeg2KImageFile(io.BytesIO(content)) as opened:
            opened.load()
            if opened.mode.startswith("I"):
                grey = (np.asarray(opened).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)
                return cv2.cvtColor(grey, cv2.COLOR_GRAY2BGR)
            return cv2.cvtColor(np.asarray(opened.convert("RGB")), cv2.COLOR_RGB2BGR)
    except Exception:  # Pillow raises many types for a damaged file.
        raise _undecodable(content) from None


def _without_alpha(content: bytes, image: np.ndarray) -> np.ndarray:
    # OpenCV drops the alpha of a PNG. In a TIFF, libtiff has already multiplied the colours by alpha.
    try:
        with Image.open(io.BytesIO(content)) as opened:
            if opened.mode == "RGBA":
                return cv2.cvtColor(np.asarray(opened.convert("RGB")), cv2.COLOR_RGB2BGR)
    except (OSError, Image.DecompressionBombError):  # Pillow reads fewer kinds of TIFF than OpenCV.
        pass
    return image
