"""Structure of JPEG, JPEG-LS, JPEG 2000, PNG and BMP files, read before a decoder works on untrusted bytes."""

import itertools
import re
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

JPEG_START, JPEG_END = b"\xff\xd8", b"\xff\xd9"
J2K_START = b"\xff\x4f\xff\x51"
JP2_START = b"\x00\x00\x00\x0cjP  "
PNG_SIGNATURE = b"\x89PNG\r\n\x1a\n"

# Encoders of progressive JPEGs write 10 to 20 scans, and each costs a pass over all pixels.
MOST_SCANS = 100
MOST_SEGMENTS = 10_000
MOST_JUNK = 1 << 16  # Bytes between two segments of the header.
# A marker in the header, and one among the pixels, where FF is followed by 0, by restart markers or by fill bytes.
MARKER = re.compile(rb"\xff([^\x00\xff])")
MARKER_AMONG_PIXELS = re.compile(rb"\xff([^\x00\xff\xd0-\xd7])")
SOI, EOI, SOS, LS_FRAME = 0xD8, 0xD9, 0xDA, 0xF7
# Start of frame (ITU-T T.81, table B.1), without the markers of tables in that range. F7 is of JPEG-LS.
FRAMES = {*range(0xC0, 0xD0), LS_FRAME} - {0xC4, 0xC8, 0xCC}
SEQUENTIAL = {0xC0, 0xC1}
WITHOUT_LENGTH = {0x01, SOI, *range(0xD0, 0xD8)}

MOST_BOXES = 1_000
MOST_TILES = 10_000
MOST_J2K_SEGMENTS = 500_000  # Tiles are stored in parts, each with a few segments.
MOST_LAYERS = 200  # Encoders write up to 50.
SMALLEST_BLOCK = 8  # Logarithm of its pixels. Encoders write blocks of 32 x 32 or 64 x 64 pixels.
J2K_TILE, J2K_PIXELS, J2K_STYLE, J2K_COMPONENT_STYLE = b"\xff\x90", b"\xff\x93", b"\xff\x52", b"\xff\x53"
# Compressions of a BMP: runs of pixels of 8 and of 4 bits.
RUNS = {1, 2}

MOST_CHUNKS = 200_000
COMPRESSED_PIECE = 1 << 16
INFLATED_PIECE = 1 << 20
SLACK = 1 << 16  # Some encoders write a few bytes too many.
# Samples of a pixel by the colour type of a PNG.
PNG_SAMPLES = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}


class Codestream(NamedTuple):
    """Size and samples of encoded pixels.

    Attributes:
        width: Width in pixels.
        height: Height in pixels.
        samples: Samples of a pixel.
        bits: Bits of a sample.
        frame: Marker of the frame of a JPEG, 0 for JPEG 2000.
    """

    width: int
    height: int
    samples: int
    bits: int
    frame: int = 0


def jpeg_fault(content: bytes) -> str:
    """Describe why a JPEG costs more time than its pixels need, or ``""``.

    A few kilobytes can have a thousand scans of one image, and a file can have millions of empty segments.
    """
    scans = segments = 0
    at = len(JPEG_START)
    pattern = MARKER
    while match := pattern.search(content, at):
        if not scans and match.start() - at > MOST_JUNK:
            return f"more than {MOST_JUNK} bytes between two segments"
        marker, at = match[1][0], match.end()
        if marker == EOI:
            break
        segments += 1
        scans += marker == SOS
        if scans > MOST_SCANS:
            return f"more than {MOST_SCANS} scans"
        if segments > MOST_SEGMENTS:
            return f"more than {MOST_SEGMENTS} segments"
        if marker not in WITHOUT_LENGTH:
            at += int.from_bytes(content[at : at + 2], "big")
        if marker == SOS:
            pattern = MARKER_AMONG_PIXELS
    return ""


def read_codestream(content: bytes) -> Codestream | None:
    """Read size and samples of a JPEG, JPEG-LS or JPEG 2000 codestream from its header. None if it has none."""
    if content.startswith(JPEG_START):
        return _jpeg(content)
    return _jpeg_2000(_codestream_header(content))


def _jpeg(content: bytes) -> Codestream | None:
    at = len(JPEG_START)
    for _ in range(MOST_SEGMENTS):
        match = MARKER.search(content, at)
        if not match or match[1][0] in (EOI, SOS):
            return None
        marker, at = match[1][0], match.end()
        if marker in FRAMES:
            frame = content[at : at + 8]
            if len(frame) < 8:
                return None
            height, width = int.from_bytes(frame[3:5], "big"), int.from_bytes(frame[5:7], "big")
            return Codestream(width, height, frame[7], frame[2], marker)
        if marker not in WITHOUT_LENGTH:
            at += int.from_bytes(content[at : at + 2], "big")
    return None


def _jpeg_2000(header: bytes) -> Codestream | None:
    # ISO/IEC 15444-1, A.5.1: SIZ follows SOC. Sizes of the reference grid, then its offset.
    if not header.startswith(J2K_START) or len(header) < 43:
        return None
    right, bottom, left, top = (int.from_bytes(header[at : at + 4], "big") for at in (8, 12, 16, 20))
    samples = int.from_bytes(header[40:42], "big")
    return Codestream(right - left, bottom - top, samples, (header[42] & 0x7F) + 1)


def lacks_end_alone(content: bytes) -> bool:
    """Whether a JPEG without an end marker would show it if pixels were missing.

    That is so if one sequential scan has all samples. A progressive JPEG may lack whole scans instead.
    """
    found = read_codestream(content)
    scan = _first_scan(content)
    return found is not None and found.frame in SEQUENTIAL and scan == found.samples and not ends(content)


def _first_scan(content: bytes) -> int:
    """Number of samples in the first scan of a JPEG, 0 if there is none."""
    at = len(JPEG_START)
    for _ in range(MOST_SEGMENTS):
        match = MARKER.search(content, at)
        if not match:
            return 0
        marker, at = match[1][0], match.end()
        if marker == SOS:
            return int.from_bytes(content[at + 2 : at + 3], "big")
        if marker not in WITHOUT_LENGTH:
            at += int.from_bytes(content[at : at + 2], "big")
    return 0


def ends(content: bytes) -> bool:
    """Whether a JPEG, JPEG-LS or JPEG 2000 codestream has its end marker. Zeros or a fill byte may follow it."""
    return content[-64:].rstrip(b"\0\xff").endswith(JPEG_END)


def structure_fault(content: bytes) -> str:
    """Describe why the structure of a file costs more time than its pixels need, or ``""``."""
    if content.startswith(JPEG_START):
        return jpeg_fault(content)
    if content.startswith((JP2_START, J2K_START)):
        return _jpeg_2000_fault(content)
    if content.startswith(b"BM"):
        return _bmp_fault(content)
    if content.startswith(PNG_SIGNATURE) and sum(1 for _ in _chunks(content)) > MOST_CHUNKS:
        return f"more than {MOST_CHUNKS} chunks"
    return ""


def _jpeg_2000_fault(content: bytes) -> str:
    if sum(1 for _ in itertools.islice(_boxes(content), MOST_BOXES + 1)) > MOST_BOXES:
        return f"more than {MOST_BOXES} boxes"
    return ""


def _boxes(content: bytes) -> Iterator[tuple[bytes, int]]:
    """Yield kind and start of the content of each box of a JP2 file, up to the codestream. None for other files."""
    at = 0
    # ISO/IEC 15444-1, I.4: length and kind of a box. Length 1 has the length after the kind, 0 is up to the end.
    while content.startswith(JP2_START) and at + 8 <= len(content):
        length, kind, start = int.from_bytes(content[at : at + 4], "big"), content[at + 4 : at + 8], at + 8
        if length == 1:
            length, start = int.from_bytes(content[start : start + 8], "big"), start + 8
        yield kind, start
        if length < 8 or kind == b"jp2c":
            return
        at += length


def _codestream_start(content: bytes) -> int:
    """Start of the codestream of a JPEG 2000 file, where decoders find it; the end of the file if there is none."""
    if not content.startswith(JP2_START):
        return 0
    boxes = itertools.islice(_boxes(content), MOST_BOXES)
    return next((start for kind, start in boxes if kind == b"jp2c"), len(content))


def _codestream_header(content: bytes) -> bytes:
    start = _codestream_start(content)
    return content[start : start + 64]


def pixels_fault(content: bytes) -> str:
    """Describe why the pixels of a PNG or JPEG 2000 file of acceptable size cost more than they need, or ``""``."""
    if content.startswith(PNG_SIGNATURE):
        return png_fault(content)
    if not content.startswith((JP2_START, J2K_START)):
        return ""
    header = _codestream_header(content)
    if len(header) < 43:
        return ""
    if not header.startswith(J2K_START):
        return "a codestream that does not begin with its size"
    if (tiles := _tiles(header)) > MOST_TILES:
        return f"{tiles} tiles, more than {MOST_TILES}"
    return next(filter(None, map(_coding_fault, _coding_styles(content, _codestream_start(content)))), "")


class _CodingStyle(NamedTuple):
    """Segment COD or COC of a codestream of JPEG 2000 (ISO/IEC 15444-1, A.6.1 and A.6.2).

    Attributes:
        layers: Number of quality layers; 1 of a segment COC.
        block: Exponents of width and height of the code blocks.
        precincts: Exponents of width and height of the precincts of each resolution; empty if they are not bounded.
    """

    layers: int
    block: tuple[int, int]
    precincts: list[tuple[int, int]]


def _coding_styles(content: bytes, start: int) -> Iterator[_CodingStyle | None]:
    """Yield the coding styles in the headers of a codestream and of its tiles, and None if too many segments follow."""
    at, tile_end = start + len(J2K_START) - 2, 0
    samples = int.from_bytes(content[start + 40 : start + 42], "big")
    for _ in range(MOST_J2K_SEGMENTS):
        marker, length = content[at : at + 2], int.from_bytes(content[at + 2 : at + 4], "big")
        if marker == J2K_PIXELS:
            if tile_end <= at:
                return
            at = tile_end
            continue
        if marker[:1] != b"\xff" or length < 2:
            return
        body = content[at + 4 : at + 2 + length]
        if marker == J2K_TILE:
            tile_end = at + int.from_bytes(body[2:6], "big")
        elif marker == J2K_STYLE:
            yield _coding_style(body[5:], int.from_bytes(body[2:4], "big"), body[:1])
        elif marker == J2K_COMPONENT_STYLE:
            named = 1 if samples < 257 else 2
            yield _coding_style(body[named + 1 :], 1, body[named : named + 1])
        at += 2 + length
    yield None


def _coding_style(values: bytes, layers: int, style: bytes) -> _CodingStyle:
    has_precincts = bool(style and style[0] & 1)
    width, height = (int.from_bytes(values[place : place + 1], "big") + 2 for place in (1, 2))
    return _CodingStyle(layers, (width, height), [(each & 15, each >> 4) for each in values[5:] if has_precincts])


def _coding_fault(style: _CodingStyle | None) -> str:
    """Describe why a coding style costs more than its pixels need, or ``""``. Each block takes time and memory."""
    if style is None:
        return f"more than {MOST_J2K_SEGMENTS} segments"
    if style.layers > MOST_LAYERS:
        return f"{style.layers} quality layers, more than {MOST_LAYERS}"
    blocks = [sum(style.block)]
    for number, precinct in enumerate(style.precincts):
        # Above the lowest resolution, a precinct has half the sides in each of its bands.
        sides = [side - bool(number) for side in precinct]
        below = len(style.precincts) - 1 - number  # Each resolution has a quarter of the pixels of the next one.
        blocks.append(min(style.block[0], sides[0]) + min(style.block[1], sides[1]) + 2 * below)
    if min(blocks) < SMALLEST_BLOCK:
        return f"code blocks of fewer than {1 << SMALLEST_BLOCK} pixels"
    return ""


def _tiles(header: bytes) -> int:
    """Number of tiles of a codestream of JPEG 2000 (ISO/IEC 15444-1, A.5.1 and B.3)."""
    right, bottom = (int.from_bytes(header[at : at + 4], "big") for at in (8, 12))
    width, height, left, top = (int.from_bytes(header[at : at + 4], "big") for at in (24, 28, 32, 36))
    if not width or not height:
        return 0  # The decoder refuses it.
    return -(-max(0, right - left) // width) * -(-max(0, bottom - top) // height)


def _bmp_fault(content: bytes) -> str:
    """Describe why the runs of a BMP are more than its pixels need, or ``""``. Pillow reads them slowly."""
    if int.from_bytes(content[30:34], "little") not in RUNS:
        return ""
    width, height = (abs(int.from_bytes(content[at : at + 4], "little", signed=True)) for at in (18, 22))
    # Two bytes for each pixel at most, and for the end of each row.
    most = 2 * (width + 2) * height + SLACK
    return f"more than {most} bytes of runs of {width} x {height} pixels" if len(content) > most else ""


def png_fault(content: bytes) -> str:
    """Describe why the compressed pixels of a PNG are more than its header declares, or ``""``.

    The pixels are inflated in pieces of bounded size, and only until there are too many.
    """
    limit = inflated = 0
    inflate = zlib.decompressobj()
    for kind, start, end in _chunks(content):
        if kind == b"IHDR":
            limit = _png_bytes(content[start:end])
        if kind == b"IDAT":
            inflated += _inflated(inflate, content[start:end], limit - inflated)
            if inflated > limit:
                return f"more than the {limit - SLACK} bytes of pixels that the header declares"
    return ""


def _chunks(content: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and end of each chunk of a PNG, one chunk more than ``MOST_CHUNKS`` at most."""
    at = len(PNG_SIGNATURE)
    for _ in range(MOST_CHUNKS + 1):
        length, kind = int.from_bytes(content[at : at + 4], "big"), content[at + 4 : at + 8]
        if kind in (b"IEND", b""):
            return
        yield kind, at + 8, at + 8 + length
        at += 12 + length


def inflated_pieces(inflate: Any, data: bytes | memoryview) -> Iterator[bytes]:
    """Inflate data in pieces of at most ``INFLATED_PIECE`` bytes, up to the end of the compressed stream.

    Args:
        inflate: Object of ``zlib.decompressobj``.
        data: Compressed bytes. They are read in small parts, as zlib copies what it did not use yet.

    Raises:
        zlib.error: The data are damaged.
    """
    for start in range(0, len(data), COMPRESSED_PIECE):
        part = bytes(data[start : start + COMPRESSED_PIECE])
        while part and not inflate.eof:
            yield inflate.decompress(part, INFLATED_PIECE)
            part = inflate.unconsumed_tail


def _inflated(inflate: Any, data: bytes, most: int) -> int:
    """Bytes that a chunk inflates to; a little more than ``most`` if it is more. Damaged bytes end the count."""
    total = 0
    try:
        for piece in inflated_pieces(inflate, data):
            total += len(piece)
            if total > most:
                break
    except zlib.error:
        pass
    return total


def _png_bytes(header: bytes) -> int:
    """Most bytes of the pixels of a PNG, with the filter bytes of interlaced ones."""
    if len(header) < 13:
        return 0
    width, height = int.from_bytes(header[:4], "big"), int.from_bytes(header[4:8], "big")
    row = (width * PNG_SAMPLES.get(header[9], 4) * header[8] + 7) // 8
    # Seven passes of an interlaced image have fewer than 2 rows for each of its rows, and each may end within a byte.
    return SLACK + ((row + 1) * height if not header[12] else row * height + 2 * 7 * (height + 7))
