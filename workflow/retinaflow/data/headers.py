"""Read the files of photographs, none twice: headers, whether all of their pixels are there, how good they are."""

import io
import json
import logging
import os
import re
import time
import warnings
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, NamedTuple

from retinaflow.storage.files import digest, whole_file

if TYPE_CHECKING:
    import numpy as np

log = logging.getLogger(__name__)

# WebP goes by the extension of another format often enough, and OpenCV decodes it.
FORMATS = ("JPEG", "PNG", "TIFF", "BMP", "WEBP")
STARTS = (b"\xff\xd8\xff", b"\x89PNG", b"II*\0", b"MM\0*", b"RIFF")
MEGAPIXEL = 1_000_000
# Four channels of 16 bits, uncompressed: no photograph within the limit of pixels takes more.
BYTES_A_PIXEL = 8
SETTLED = 2_000_000_000  # nanoseconds: some file systems count in steps of two seconds

SOI, EOI = b"\xff\xd8", b"\xff\xd9"
# JPEG markers (ITU-T T.81, table B.1) after which the pixels start, and of segments that hold none of them.
SOS = 0xDA
ASIDE = {*range(0xE0, 0xF0), 0xFE}
PADDED = re.compile(r"Corrupt JPEG data: (\d+) extraneous bytes before marker 0xd9")


class Header(NamedTuple):
    """What a photograph's file says: size in bytes and pixels, digest of its bytes; and the problem it is, if any.

    ``problem`` is empty or ``empty``, ``not_an_image``, ``unreadable``, ``truncated`` or ``oversized``, ``found`` says
    what was found then. ``focus``, ``exposure``, ``field`` and ``quality``, 0 to 1 with four digits, are those of
    ``quality.assess``, and empty where there is a problem.
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


class State(NamedTuple):
    """What tells a file from what it was before: size in bytes and time of its last change in ns since 1970."""

    size: int
    changed: int


def read_headers(paths: Sequence[str], megapixels: int, kept: Path, code: str, threads: int) -> list[Header]:
    """What each of the files ``paths`` says, all decoded once.

    A file whose header promises more than ``megapixels``, or that is larger than so many pixels can be, is neither
    decoded nor read as a whole. ``kept`` remembers good files: one of the same path, size and time of change is not
    read again as long as ``code``, which stands for what reads them, and ``megapixels`` are the same.
    """
    start = time.time_ns()
    stamp = f"{code} {megapixels}"
    states = {path: _state(path) for path in paths}
    headers = {path: header for path, (state, header) in _recall(kept, stamp).items() if states.get(path) == state}
    unread = [path for path in paths if path not in headers]
    if unread:
        headers.update(zip(unread, read_anew(unread, megapixels, threads), strict=True))
        settled = {
            path: (state, headers[path])
            for path, state in states.items()
            # A file that changed just now may change again within the same tick of the clock.
            if state and state.changed < start - SETTLED and not headers[path].problem
        }
        _remember(kept, stamp, settled)
    return [headers[path] for path in paths]


def _state(path: str) -> State | None:
    try:
        status = Path(path).stat()
    except OSError:
        return None
    return State(status.st_size, status.st_mtime_ns)


def _recall(kept: Path, stamp: str) -> dict[str, tuple[State, Header]]:
    try:
        content = json.loads(kept.read_text(encoding="utf-8"))
        if content["code"] != stamp:
            return {}
        return {path: (State(*state), Header(*header)) for path, (state, header) in content["headers"].items()}
    except (OSError, ValueError, TypeError, KeyError, AttributeError):  # none yet, or not what this module wrote
        return {}


def _remember(kept: Path, stamp: str, headers: Mapping[str, tuple[State, Header]]) -> None:
    try:
        with whole_file(kept) as part:
            # Escaped, as file names need not be UTF-8.
            part.write_text(json.dumps({"code": stamp, "headers": headers}), encoding="ascii")
    except OSError as error:
        log.info("%s: what was read is not kept for the next time (%s)", kept, error)


def read_anew(paths: Sequence[str], megapixels: int, threads: int) -> list[Header]:
    """What ``read_headers`` says of the files ``paths``, with nothing remembered."""
    # Here, because split and organize reach this module and should not wait for Pillow.
    import cv2
    from PIL import Image, PngImagePlugin

    cv2.setNumThreads(1)  # the threads below each have a photograph of their own
    Image.init()
    # The limit is ours, so that it counts before anything is decoded and becomes a problem, not an exception.
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    # One long text beside the pixels is as harmless as several short ones, which have this limit.
    PngImagePlugin.MAX_TEXT_CHUNK = PngImagePlugin.MAX_TEXT_MEMORY
    try:
        # A header that is odd but readable is none of the user's business, one that is not becomes a problem.
        with warnings.catch_warnings(action="ignore"), ThreadPoolExecutor(threads) as pool:
            return list(pool.map(lambda path: _read_header(path, megapixels), paths))
    finally:
        Image.MAX_IMAGE_PIXELS = limit


def _read_header(path: str, megapixels: int) -> Header:
    try:
        # Opening a named pipe would wait for ever.
        if not Path(path).is_file():
            return Header(problem="unreadable", found="neither a file nor a link to one")
        with open(path, "rb") as file:
            return _examine(file, megapixels)
    except OSError as error:
        return Header(problem="unreadable", found=error.strerror or str(error))


def _examine(file: BinaryIO, megapixels: int) -> Header:
    from PIL import Image, UnidentifiedImageError

    size = os.fstat(file.fileno()).st_size
    if size == 0:
        return Header(0, problem="empty", found="0 bytes")
    most = megapixels * MEGAPIXEL
    if size > BYTES_A_PIXEL * most:
        found = f"{size} bytes, expected {BYTES_A_PIXEL * most} at most for {megapixels} megapixels"
        return Header(size, problem="oversized", found=found)
    try:
        width, height = Image.open(file, formats=FORMATS).size
    except UnidentifiedImageError:
        file.seek(0)
        start = file.read(12)
        if start.startswith(STARTS):
            return Header(size, problem="unreadable", found="broken header")
        found = f"starts with {start!r}, expected JPEG, PNG, TIFF, BMP or WebP"
        return Header(size, problem="not_an_image", found=found)
    # A broken header makes Pillow raise nearly anything, and one bad file must not end the inventory of all others.
    except Exception as error:
        return Header(size, problem="unreadable", found=f"broken header ({error or type(error).__name__})")
    if width * height > most:
        found = f"{width} x {height} pixels, expected {megapixels} megapixels at most"
        return Header(size, width, height, problem="oversized", found=found)
    file.seek(0)
    content = file.read()
    grey, damage = read_jpeg(content) if content.startswith(SOI) else _decode(content)
    if grey is None:
        return Header(size, width, height, digest(content), "truncated", damage)
    from retinaflow.data.quality import assess

    figures = (f"{figure:.4f}" for figure in assess(grey))
    return Header(size, width, height, digest(content), "", "", *figures)


def _decode(content: bytes) -> tuple["np.ndarray | None", str]:
    """An image, uint8 (height, width), or what keeps Pillow, or OpenCV, which is to decode it later, from all of it."""
    import cv2
    import numpy as np
    from PIL import Image

    try:
        Image.open(io.BytesIO(content), formats=FORMATS).load()
    except Exception as error:
        return None, str(error) or type(error).__name__
    try:  # Pillow forgives files that lack their last bytes
        decoded = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
    except cv2.error:
        decoded = None
    if decoded is None:
        return None, "breaks off, or OpenCV cannot decode it"
    return cv2.cvtColor(decoded, cv2.COLOR_BGR2GRAY), ""


def read_jpeg(content: bytes) -> tuple["np.ndarray | None", str]:
    """A JPEG, uint8 (height, width), or what is missing or wrong among its pixels, in the words of libjpeg-turbo.

    It may be reduced, so that its shorter side is still one that ``quality.assess`` wants.

    OpenCV and Pillow fill what is missing with grey and say nothing. libjpeg warns of it, but also of oddities that
    change no pixel: those of application data and comments, junk between segments of the header, and zeros before the
    end. What passes without these is good. No decoder notices damage that happens to be valid code, as a flipped bit
    may be.
    """
    grey, fault = _strictly(content)
    if not fault:
        return grey, ""
    if "subsampling" in fault:  # a rare one, which OpenCV and Pillow decode
        return _decode(content)
    header, scans = _bare(content)
    grey, fault = _strictly(header + scans)
    if padded := PADDED.fullmatch(fault):
        end = scans.find(EOI)
        start = end - int(padded[1])
        if not any(scans[start:end]):
            grey, fault = _strictly(header + scans[:start] + EOI)
    return grey, fault


def _strictly(content: bytes) -> tuple["np.ndarray | None", str]:
    """A JPEG, or the first warning."""
    from simplejpeg import decode_jpeg

    from retinaflow.data.quality import DIAMETER

    try:
        # Down to an eighth of the size: all data are decoded, but no more pixels are computed than are wanted.
        grey = decode_jpeg(
            content, "GRAY", fastdct=True, fastupsample=True, min_height=DIAMETER, min_width=DIAMETER, strict=True
        )
    except ValueError as error:
        return None, str(error)
    return grey[..., 0], ""


def _bare(content: bytes) -> tuple[bytes, bytes]:
    """Header of a JPEG with nothing in it that decoders skip, and all that follows it."""
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
