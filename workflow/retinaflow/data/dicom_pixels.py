"""Pixels of DICOM files: decoding with the plugins of pydicom, and conversion to colours of 8 bits."""

import functools
import logging
import warnings
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any

import numpy as np

from retinaflow.data.codestreams import ends, pixels_fault, read_codestream, structure_fault
from retinaflow.data.dicom import BIG_ENDIAN, MISSING, NATIVE, Dicom, DicomError
from retinaflow.data.dicom_process import decode_apart

if TYPE_CHECKING:
    from pydicom.pixels.decoders.base import Decoder

JPEG_BASELINE, JPEG_EXTENDED = "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51"
JPEG = {JPEG_BASELINE, JPEG_EXTENDED, "1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70"}
JPEG_LS = {"1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.81"}
JPEG_2000_SYNTAXES = {"1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91"}
JPEG_2000_FAST = {"1.2.840.10008.1.2.4.201", "1.2.840.10008.1.2.4.202", "1.2.840.10008.1.2.4.203"}
RLE = "1.2.840.10008.1.2.5"
CODESTREAMS = JPEG | JPEG_LS | JPEG_2000_SYNTAXES | JPEG_2000_FAST
# Decoders in the order of preference. Pillow also decodes JPEG 2000 files outside DICOM. pydicom's own decoder of RLE
# is not among them: it is slow, and its memory has no bound.
PLUGINS = ("pillow", "pylibjpeg", "gdcm", "pyjpegls")

GREY = {"MONOCHROME1", "MONOCHROME2", "PALETTE COLOR"}
COLOUR = {"RGB", "YBR_FULL", "YBR_FULL_422"}
COLOUR_OF_JPEG_2000 = {"YBR_ICT", "YBR_RCT"}
# A run of PackBits, the code of RLE, has 2 bytes for 128 at most, and literals have 129 bytes for 128.
MOST_RLE = 1.02
RLE_HEADER = 64


def is_installed() -> bool:
    """Whether the extra ``dicom`` is installed."""
    return find_spec("pydicom") is not None


def check_pixels(dicom: Dicom) -> None:
    """Check the pixels of a DICOM file before they are decoded. Its size in pixels must be within bounds.

    Raises:
        DicomError: The pixels are incomplete, contradict the tags, or are of a kind that is not supported.
    """
    colours = GREY if dicom.samples == 1 else COLOUR | (COLOUR_OF_JPEG_2000 if _is_jpeg_2000(dicom) else set())
    if dicom.samples not in (1, 3) or dicom.photometric not in colours:
        raise DicomError(
            "unreadable",
            f"photometric interpretation {dicom.photometric or 'unknown'} with {dicom.samples} samples a pixel, "
            f"expected one of {', '.join(sorted(GREY))} with 1 or of {', '.join(sorted(COLOUR))} with 3",
        )
    if dicom.allocated not in (8, 16) or not 1 <= dicom.stored <= dicom.allocated:
        raise DicomError("unreadable", f"{dicom.stored} of {dicom.allocated} bits a sample, expected 8 to 16")
    if dicom.photometric.startswith("YBR") and dicom.allocated != 8 and not _is_jpeg_2000(dicom):
        raise DicomError("unreadable", f"{dicom.photometric} of {dicom.allocated} bits a sample, expected 8")
    if dicom.planar not in (0, 1) or dicom.signed not in (0, 1):
        raise DicomError("unreadable", "unknown planar configuration or pixel representation")
    if dicom.syntax in NATIVE:
        _check_native(dicom)
    elif dicom.syntax == RLE:
        _check_rle(dicom)
    elif dicom.syntax in CODESTREAMS:
        _check_codestream(dicom)
    else:
        raise DicomError("unreadable", f"transfer syntax {dicom.syntax}, which is none of an image")


def frame_of_jpeg(dicom: Dicom) -> bytes | None:
    """JPEG file in a DICOM file if libjpeg can decode it, with 8 bits a sample, else None."""
    if dicom.syntax not in (JPEG_BASELINE, JPEG_EXTENDED):
        return None
    frame = bytes(dicom.pixels)
    found = read_codestream(frame)
    return frame if found and found.bits == 8 else None


def decode_dicom(dicom: Dicom) -> np.ndarray:
    """Decode the pixels of a DICOM file.

    The whole range of the stored bits becomes 0 to 255; there is no window. `MONOCHROME1` is inverted.

    Returns:
        uint8 BGR (height, width, 3).

    Raises:
        DicomError: The pixels cannot be decoded.
    """
    if not is_installed():
        raise DicomError("unreadable", MISSING)
    check_pixels(dicom)
    try:
        pixels = _decoded(dicom)
        if dicom.photometric == "PALETTE COLOR":
            return _coloured(dicom, pixels)
        pixels = _to_8_bits(pixels, dicom.stored, dicom.signed)
    except DicomError:
        raise
    except Exception as error:  # Decoders raise many types for damaged pixels, and name internals only.
        raise DicomError("truncated", f"the pixels cannot be decoded ({type(error).__name__})") from None
    if dicom.photometric == "MONOCHROME1":
        pixels = 255 - pixels
    if dicom.samples == 1:
        return np.repeat(pixels[..., np.newaxis], 3, axis=2)
    return np.ascontiguousarray(pixels[..., ::-1])


def _is_jpeg_2000(dicom: Dicom) -> bool:
    return dicom.syntax in JPEG_2000_SYNTAXES | JPEG_2000_FAST


def _check_native(dicom: Dicom) -> None:
    expected = dicom.width * dicom.height * dicom.samples * dicom.allocated // 8
    if dicom.photometric == "YBR_FULL_422":
        if dicom.width % 2:
            raise DicomError("unreadable", f"YBR_FULL_422 with an odd width of {dicom.width}")
        expected = expected * 2 // 3
    if len(dicom.pixels) < expected:
        raise DicomError("truncated", f"{len(dicom.pixels)} bytes of pixels, expected {expected}")


def _check_rle(dicom: Dicom) -> None:
    most = RLE_HEADER + 1024 + MOST_RLE * dicom.width * dicom.height * dicom.samples * dicom.allocated // 8
    if len(dicom.pixels) > most:
        raise DicomError("unreadable", f"{len(dicom.pixels)} bytes of RLE pixels, expected {most:.0f} at most")


def _check_codestream(dicom: Dicom) -> None:
    frame = bytes(dicom.pixels)
    found = read_codestream(frame)
    if found is None:
        raise DicomError("truncated", "no header in the compressed pixels")
    if (found.width, found.height) != (dicom.width, dicom.height):
        raise DicomError(
            "unreadable",
            f"compressed pixels of {found.width} x {found.height}, although the tags say {dicom.width} x "
            f"{dicom.height}",
        )
    if found.samples != dicom.samples or found.bits > dicom.allocated:
        raise DicomError(
            "unreadable",
            f"compressed pixels of {found.samples} samples of {found.bits} bits, although the tags say "
            f"{dicom.samples} of {dicom.allocated}",
        )
    if not ends(frame):
        raise DicomError("truncated", "the compressed pixels have no end")
    # A codestream need not be of the kind that the transfer syntax names.
    if fault := structure_fault(frame) or pixels_fault(frame):
        raise DicomError("unreadable", fault)


def _decoded(dicom: Dicom) -> np.ndarray:
    """Pixels (height, width) or RGB (height, width, 3) in the range of the stored bits."""
    decoder, plugins = _decoder(dicom.syntax)
    options: dict[str, Any] = {
        "rows": dicom.height,
        "columns": dicom.width,
        "number_of_frames": 1,
        "samples_per_pixel": dicom.samples,
        "photometric_interpretation": dicom.photometric,
        "planar_configuration": dicom.planar,
        "bits_allocated": dicom.allocated,
        "bits_stored": dicom.stored,
        "pixel_representation": dicom.signed,
        "pixel_keyword": "PixelData",
    }
    if dicom.syntax in NATIVE:
        if dicom.syntax == BIG_ENDIAN:
            options["pixel_vr"] = "OW" if dicom.words else "OB"
        return decoder.as_array(dicom.pixels, index=0, **options)[0]
    if dicom.syntax == JPEG_EXTENDED and dicom.stored > 8 and "pylibjpeg" not in plugins:
        raise DicomError("unreadable", "JPEG of 12 bits a sample, which needs the package pylibjpeg-libjpeg")
    if not plugins:
        raise DicomError(
            "unreadable",
            f"transfer syntax {dicom.syntax}, for which no decoder is installed; see `pylibjpeg` and its plugins",
        )
    source = _encapsulate(bytes(dicom.pixels))
    reasons = []
    for plugin in plugins:
        try:
            if plugin == "gdcm":
                return decode_apart(dicom.syntax, source, options)
            return decoder.as_array(source, index=0, decoding_plugin=plugin, **options)[0]
        except BaseException as error:
            # A panic of a plugin in Rust is no Exception. It leaves memory intact.
            if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
                raise
            reasons.append(f"{plugin}: {type(error).__name__}")
    raise DicomError("truncated", f"the pixels cannot be decoded ({', '.join(reasons)})")


@functools.cache
def _decoder(syntax: str) -> tuple["Decoder", tuple[str, ...]]:
    """Decoder of pydicom for a transfer syntax, and its installed plugins."""
    import pydicom.pixels

    # Faults are reported once, as problems of the image.
    logging.getLogger("pydicom").setLevel(logging.CRITICAL + 1)
    warnings.filterwarnings("ignore", module=r"pydicom(\..*)?")
    decoder = pydicom.pixels.get_decoder(syntax)
    return decoder, tuple(name for name in PLUGINS if name in decoder.available_plugins)


def _encapsulate(frame: bytes) -> bytes:
    """Codestream as pixels of one fragment, with an empty table of offsets."""
    frame += b"\0" * (len(frame) % 2)
    item = b"\xfe\xff\x00\xe0"
    return item + bytes(4) + item + len(frame).to_bytes(4, "little") + frame + b"\xfe\xff\xdd\xe0" + bytes(4)


def _to_8_bits(pixels: np.ndarray, stored: int, signed: int) -> np.ndarray:
    """Map the range of the stored bits to 0 to 255, by a table, since 100 megapixels of 32 bits need much memory."""
    if stored == 8 and not signed and pixels.dtype == np.uint8:
        return pixels
    unsigned = np.dtype(f"u{pixels.itemsize}")
    values = np.arange(1 << 8 * pixels.itemsize).astype(unsigned)
    values = values.view(f"i{pixels.itemsize}" if signed else unsigned).astype(np.int64)
    most = (1 << stored) - 1
    values = np.clip(values + (1 << (stored - 1) if signed else 0), 0, most)
    return ((values * 255 + most // 2) // most).astype(np.uint8)[pixels.view(unsigned)]


def _coloured(dicom: Dicom, pixels: np.ndarray) -> np.ndarray:
    """Look up the colours of a palette (PS3.3, C.7.6.3.1.5): uint8 BGR."""
    order = ">" if dicom.syntax == BIG_ENDIAN else "<"
    if len(dicom.palette) != 3:
        raise DicomError("unreadable", "no palette of plain entries for PALETTE COLOR")
    channels = []
    for descriptor, entries in dicom.palette:
        numbers = np.frombuffer(descriptor[:6], f"{order}u2")
        if len(numbers) < 3:
            raise DicomError("unreadable", "damaged palette")
        count = int(numbers[0]) or 1 << 16
        first = int(numbers[1].astype(np.int16)) if dicom.signed else int(numbers[1])
        wide = len(entries) >= 2 * count
        table = np.frombuffer(entries, f"{order}u2" if wide else np.uint8)[:count]
        if len(table) < count:
            raise DicomError("truncated", f"{len(table)} entries of a palette, expected {count}")
        table = (table >> 8 if wide and numbers[2] > 8 else table).astype(np.uint8)
        channels.append(table[np.clip(pixels.astype(np.int32) - first, 0, count - 1)])
    red, green, blue = channels
    return np.stack([blue, green, red], axis=2)
