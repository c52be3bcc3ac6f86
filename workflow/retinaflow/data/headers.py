"""Headers of image files: size, digest, quality, and whether all pixels can be read. Results are cached."""

import io
import json
import logging
import os
import re
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from retinaflow.data.codestreams import J2K_START, JP2_START, lacks_end_alone, pixels_fault, structure_fault
from retinaflow.data.dicom import Dicom, DicomError, read_dicom
from retinaflow.data.image_files import is_dicom
from retinaflow.errors import RetinaflowError
from retinaflow.storage.files import digest, whole_file

if TYPE_CHECKING:
    import numpy as np

log = logging.getLogger(__name__)

# The content decides the format, not the extension.
FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP", "JPEG2000")
IMAGE_FORMATS = "JPEG, PNG, TIFF, BMP, WebP, JPEG 2000 or DICOM"
STARTS = (b"\xff\xd8\xff", b"\x89PNG", b"II*\0", b"MM\0*", b"RIFF", JP2_START, J2K_START)
MEGAPIXEL = 1_000_000
# Four channels of 16 bits, uncompressed: no image within the limit of pixels needs more.
BYTES_A_PIXEL = 8
SETTLED = 2_000_000_000  # Nanoseconds. Some file systems count in steps of two seconds.

SOI, EOI = b"\xff\xd8", b"\xff\xd9"
# JPEG markers (ITU-T T.81, table B.1) after which the pixels start, and of segments without any.
SOS = 0xDA
ASIDE = {*range(0xE0, 0xF0), 0xFE}
UNFINISHED = "Premature end of JPEG file"
NO_END = "no end marker, although all pixels are there"
PADDED = re.compile(r"Corrupt JPEG data: (\d+) extraneous bytes before marker 0xd9")


# From the bytes of a JPEG to grey pixels, uint8 (height, width), or None, and a text, as ``read_jpeg``.
JpegDecoder = Callable[[bytes], tuple["np.ndarray | None", str]]


class Header(NamedTuple):
    """Properties of an image file, or the problem that prevents its use.

    Attributes:
        size: Bytes of the file. All values are empty if unknown.
        width: Width in pixels.
        height: Height in pixels.
        digest: Digest of the bytes.
        problem: ``empty``, ``not_an_image``, ``unreadable``, ``truncated``, ``oversized`` or ``blank``. Empty if there
            is none.
        found: Description of the problem.
        focus: Sharpness, 0 to 1 with four digits. This and the next three are empty if there is a problem.
        exposure: See ``quality.assess``.
        field: See ``quality.assess``.
        quality: See ``quality.assess``.
        patient: Patient by the tags of a DICOM file. Empty for other formats.
        eye: Eye by the same tags, ``left`` or ``right``.
        camera: Manufacturer and model by the same tags.
        note: Oddity of a file that can be used.
    """

    size: int | str = ""
    width: int | str = ""
    height: int | str = ""
    digest: str = ""
    problem: str = ""
    found: str = ""
    focus: str = ""
    exposure: str = ""
    field: str = ""
    quality: str = ""
    patient: str = ""
    eye: str = ""
    camera: str = ""
    note: str = ""


class State(NamedTuple):
    """State of a file, which differs after a change: size in bytes, and time of the last change in ns since 1970."""

    size: int
    changed: int


def read_headers(paths: Sequence[str], megapixels: int, *, cache: Path, code: str, threads: int) -> list[Header]:
    """Read the header of each file and decode its pixels once.

    A file is not decoded if its header has more than ``megapixels``, and not read if it is larger than so many pixels
    can be. Headers of good files are cached. A file is read again if its size or time of change, ``code``
    or ``megapixels`` differ.

    Args:
        paths: Files to read.
        megapixels: Largest size of an image.
        cache: File of the cached headers.
        code: Stands for the code that reads the files.
        threads: Number of threads that read.

    Returns:
        The header of each path.
    """
    start = time.time_ns()
    stamp = f"{code} {megapixels}"
    states = {path: _state(path) for path in paths}
    headers = {path: header for path, (state, header) in _read_cache(cache, stamp).items() if states.get(path) == state}
    unread = [path for path in paths if path not in headers]
    if unread:
        headers.update(zip(unread, examine_files(unread, megapixels, threads), strict=True))
        settled = {
            path: (state, headers[path])
            for path, state in states.items()
            # A file that changed just now may change again within the same tick of the clock.
            if state and state.changed < start - SETTLED and not headers[path].problem
        }
        _write_cache(cache, stamp, settled)
    return [headers[path] for path in paths]


def _state(path: str) -> State | None:
    try:
        status = Path(path).stat()
    except OSError:
        return None
    return State(status.st_size, status.st_mtime_ns)


def _read_cache(cache: Path, stamp: str) -> dict[str, tuple[State, Header]]:
    try:
        content = json.loads(cache.read_text(encoding="utf-8"))
        if content["code"] != stamp:
            return {}
        return {path: (State(*state), Header(*header)) for path, (state, header) in content["headers"].items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):  # No file yet, or not written by this module.
        return {}


def _write_cache(cache: Path, stamp: str, headers: Mapping[str, tuple[State, Header]]) -> None:
    try:
        with whole_file(cache) as part:
            # Escaped, as file names need not be UTF-8.
            part.write_text(json.dumps({"code": stamp, "headers": headers}), encoding="ascii")
    except OSError as error:
        log.info("%s: the headers of the images are not cached (%s)", cache, error)


def examine_files(paths: Sequence[str], megapixels: int, threads: int) -> list[Header]:
    """Read the header of each file as ``read_headers`` does, without a cache."""
    with any_image_size(), ThreadPoolExecutor(threads) as pool:
        return list(pool.map(lambda path: examine_file(path, megapixels)[0], paths))


@contextmanager
def any_image_size() -> Iterator[None]:
    """Let Pillow and OpenCV read images of any size in several threads. ``examine_file`` has its own limit."""
    # Imported here, because other stages import this module and should not wait for Pillow.
    import cv2
    from PIL import Image, PngImagePlugin

    cv2.setNumThreads(1)  # Each of the threads below decodes another image.
    Image.init()
    # This module checks its own limit before it decodes anything. Pillow would raise an exception.
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    # One long text beside the pixels is as harmless as several short ones, which have this limit.
    PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY
    try:
        # An odd but readable header needs no warning. An unreadable one becomes a problem.
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def examine_file(path: str, megapixels: int, decode: JpegDecoder | None = None) -> tuple[Header, bytes]:
    """Read one file, within ``any_image_size``.

    Args:
        path: The file.
        megapixels: Largest size of an image.
        decode: Function that is used instead of ``read_jpeg``.

    Returns:
        Its header and its bytes, which are empty if it was not read.
    """
    try:
        # Opening a named pipe would wait for ever.
        if not Path(path).is_file():
            return Header(problem="unreadable", found="neither a file nor a link to one"), b""
        with open(path, "rb") as file:
            return _examine(file, megapixels, decode or read_jpeg)
    except OSError as error:
        return Header(problem="unreadable", found=error.strerror or str(error)), b""


def _examine(file: BinaryIO, megapixels: int, decode: JpegDecoder) -> tuple[Header, bytes]:
    size = os.fstat(file.fileno()).st_size
    if size == 0:
        return Header(0, problem="empty", found="0 bytes"), b""
    limit = megapixels * MEGAPIXEL
    if size > BYTES_A_PIXEL * limit:
        found = f"{size} bytes, expected {BYTES_A_PIXEL * limit} at most for {megapixels} megapixels"
        return Header(size, problem="oversized", found=found), b""
    content = file.read()
    header = _examine_dicom(content, limit) if is_dicom(content) else _examine_image(content, limit, decode)
    return header, content


def _examine_image(content: bytes, limit: int, decode: JpegDecoder) -> Header:
    """Read the header of an image file with at most ``limit`` pixels."""
    from PIL import Image, UnidentifiedImageError

    size = len(content)
    if fault := structure_fault(content):
        return Header(size, problem="unreadable", found=fault)
    try:
        width, height = Image.open(io.BytesIO(content), formats=FORMATS).size
    except UnidentifiedImageError:
        if content.startswith(STARTS):
            return Header(size, problem="unreadable", found="broken header")
        return Header(size, problem="not_an_image", found=f"starts with {content[:12]!r}, expected {IMAGE_FORMATS}")
    # Pillow raises many types for a broken header. One bad file must not end the inventory of the others.
    except Exception as error:
        return Header(size, problem="unreadable", found=f"broken header ({error or type(error).__name__})")
    if width * height > limit:
        return Header(size, width, height, problem="oversized", found=_too_large(width, height, limit))
    if fault := pixels_fault(content):
        return Header(size, width, height, problem="unreadable", found=fault)
    header = Header(size, width, height, digest(content))
    grey, damage = decode(content) if content.startswith(SOI) else _decode(content)
    if grey is None:
        return header._replace(problem="truncated", found=damage)
    return _assessed(header._replace(note=damage), grey)


def _too_large(width: int, height: int, limit: int) -> str:
    return f"{width} x {height} pixels, expected {limit // MEGAPIXEL} megapixels at most"


def _assessed(header: Header, grey: "np.ndarray") -> Header:
    """Add the quality of an image to its header, or the problem that it is black all over."""
    from retinaflow.data.quality import assess
    from retinaflow.data.retina import BORDER_NOISE

    if grey.max() <= BORDER_NOISE:
        return header._replace(problem="blank", found=f"no pixel is brighter than {BORDER_NOISE} of 255")
    focus, exposure, field, quality = (f"{figure:.4f}" for figure in assess(grey))
    return header._replace(focus=focus, exposure=exposure, field=field, quality=quality)


def _examine_dicom(content: bytes, limit: int) -> Header:
    """Read the header of a DICOM file with at most ``limit`` pixels."""
    header = Header(len(content))
    try:
        dicom = read_dicom(content, BYTES_A_PIXEL * limit)
        header = header._replace(
            width=dicom.width, height=dicom.height, patient=dicom.patient, eye=dicom.eye, camera=dicom.camera
        )
        if dicom.width * dicom.height > limit:
            raise DicomError("oversized", _too_large(dicom.width, dicom.height, limit))
        return _assessed(header._replace(digest=digest(content)), _decode_dicom(dicom))
    except DicomError as fault:
        return header._replace(problem=fault.problem, found=fault.found)


def _decode_dicom(dicom: Dicom) -> "np.ndarray":
    """Decode a DICOM file to grey, uint8 (height, width), and check that no pixel is missing.

    Raises:
        DicomError: It cannot be used.
    """
    import cv2

    from retinaflow.data.dicom_pixels import check_pixels, decode_dicom, frame_of_jpeg, is_installed

    check_pixels(dicom)
    frame = frame_of_jpeg(dicom)
    if frame and is_installed():
        grey, damage = read_jpeg(frame)
        if grey is None:
            raise DicomError("truncated", damage)
    return cv2.cvtColor(decode_dicom(dicom), cv2.COLOR_BGR2GRAY)


def _decode(content: bytes) -> tuple["np.ndarray | None", str]:
    """Decode an image to grey, uint8 (height, width), with Pillow and as preprocessing does.

    Returns:
        The pixels and ``""``, or None and the reason why one of the two cannot decode all of them.
    """
    import cv2
    from PIL import Image

    from retinaflow.data.decoding import decode_image

    try:
        Image.open(io.BytesIO(content), formats=FORMATS).load()
    except Exception as error:
        return None, str(error) or type(error).__name__
    try:  # Pillow accepts files that lack their last bytes.
        return cv2.cvtColor(decode_image(content), cv2.COLOR_BGR2GRAY), ""
    except RetinaflowError:
        return None, "breaks off, or OpenCV cannot decode it"


def read_jpeg(content: bytes) -> tuple["np.ndarray | None", str]:
    """Decode a JPEG to grey and check that no pixel is missing or wrong.

    OpenCV and Pillow fill missing pixels with grey and report nothing. libjpeg warns of them. It also warns of oddities
    that change no pixel: application data, comments, junk between segments of the header, and zeros before the end. A
    JPEG that decodes without these is good. No decoder notices damage that is valid code, such as some flipped bits.

    A file that lacks nothing but its end marker is good, too. Its pixels are followed by the end of the file.

    Returns:
        Pixels, uint8 (height, width), or None; and the fault in the words of libjpeg-turbo, empty if there is none. The
        image may be reduced to the size that ``quality.assess`` needs. With pixels, the text is a note: ``NO_END``.
    """
    grey, fault = _decode_strictly(content)
    if not fault:
        return grey, ""
    if fault.startswith(UNFINISHED) and lacks_end_alone(content):
        grey, missing = _decode_strictly(content + EOI)
        return (None, fault) if missing else (grey, NO_END)
    if "subsampling" in fault:  # A rare kind, which OpenCV and Pillow decode.
        return _decode(content)
    header, scans = _without_extras(content)
    grey, fault = _decode_strictly(header + scans)
    if padded := PADDED.fullmatch(fault):
        end = scans.find(EOI)
        start = end - int(padded[1])
        if not any(scans[start:end]):
            grey, fault = _decode_strictly(header + scans[:start] + EOI)
    return grey, fault


def _decode_strictly(content: bytes) -> tuple["np.ndarray | None", str]:
    """Decode a JPEG, or return None and the first warning."""
    from simplejpeg import decode_jpeg

    from retinaflow.data.quality import DIAMETER

    try:
        # Down to an eighth of the size. All data are decoded, but only the needed pixels are computed.
        grey = decode_jpeg(
            content, "GRAY", fastdct=True, fastupsample=True, min_height=DIAMETER, min_width=DIAMETER, strict=True
        )
    except ValueError as error:
        return None, str(error)
    return grey[..., 0], ""


def _without_extras(content: bytes) -> tuple[bytes, bytes]:
    """Return the header of a JPEG without the segments that decoders skip, and everything after it."""
    segments, at = [SOI], len(SOI)
    while (start := content.find(b"\xff", at)) >= 0 and len(content) > start + 3:
        marker = content[start + 1]
        if marker == SOS:
            return b"".join(segments), content[start:]
        if marker in (0x00, 0xFF):
            at = start + 1
            continue
        at = start + 2 + int.from_bytes(content[start + 2 : start + 4], "big")
        if marker not in ASIDE:
            segments.append(content[start:at])
    return content, b""
