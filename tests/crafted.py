"""Image files that are built to exhaust time or memory, of all formats, from a list of names.

``python tests/crafted.py MEGAPIXELS NAME ...`` examines and decodes the files of some names. It prints a line of JSON
for each: name, bytes of the file, seconds of the processor, peak memory of the process, and problem.
"""

import io
import json
import re
import struct
import sys
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from PIL import Image

Make = Callable[[], bytes]


def picture(width: int = 640, height: int = 480) -> Image.Image:
    y, x = np.mgrid[0:height, 0:width]
    channels = (x % 251, y % 241, (x * y) % 239)
    return Image.fromarray(np.stack(channels, axis=-1).astype(np.uint8))


def encoded(kind: str, image: Image.Image | None = None, **options: object) -> bytes:
    file = io.BytesIO()
    (image or picture()).save(file, kind, **options)
    return file.getvalue()


def cases() -> dict[str, Make]:
    """All files by name: format, attack and strength."""
    return {f"{kind}: {name}": make for kind, family in FAMILIES.items() for name, make in family()}


# JPEG -----------------------------------------------------------------------------------------------------------------


def _segment(marker: int, content: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack(">H", len(content) + 2) + content


def _scans(count: int, size: int) -> bytes:
    content = encoded("JPEG", picture(size, size), progressive=True)
    at = content.index(b"\xff\xda")
    scan = content[at : at + 2 + int.from_bytes(content[at + 2 : at + 4], "big")]
    return content[:-2] + scan * count + b"\xff\xd9"


def _after_start(content: bytes) -> bytes:
    jpeg = encoded("JPEG")
    return jpeg[:2] + content + jpeg[2:]


def _resized(width: int, height: int, progressive: bool) -> bytes:
    content = bytearray(encoded("JPEG", progressive=progressive))
    at = content.index(b"\xff\xc2" if progressive else b"\xff\xc0")
    content[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(content)


def _jpeg() -> Iterator[tuple[str, Make]]:
    for count in (50, 100, 1_000, 20_000):
        for size in (64, 2_000):
            yield f"{count} scans of {size}", lambda count=count, size=size: _scans(count, size)
    for marker in (0xE0, 0xE1, 0xE2, 0xED, 0xFE, 0xC4, 0xDB, 0xDD):
        for length, count in ((0, 100_000), (60_000, 500)):
            yield (
                f"{count} segments {marker:02X} of {length}",
                lambda marker=marker, length=length, count=count: _after_start(_segment(marker, bytes(length)) * count),
            )
    for fill in (b"\xff", b"\xff\x00", b"\0", b"\xff\xd8", b"\xff\xd0", b"\xff\x01"):
        yield f"fill {fill.hex()}", lambda fill=fill: _after_start(fill * (30_000_000 // len(fill)))
        yield f"tail {fill.hex()}", lambda fill=fill: encoded("JPEG") + fill * (30_000_000 // len(fill))
    for width, height in ((65_500, 1), (1, 65_500), (65_500, 65_500), (4_000, 4_000), (16_000, 1_000)):
        for progressive in (False, True):
            yield (
                f"{width} x {height}{' progressive' * progressive}",
                lambda width=width, height=height, progressive=progressive: _resized(width, height, progressive),
            )
    yield "restarts", lambda: encoded("JPEG")[:-2] + b"\xff\xd0\xff\xd1" * 10_000_000


# PNG ------------------------------------------------------------------------------------------------------------------


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def _zeros(count: int) -> bytes:
    squeeze = zlib.compressobj(9)
    block = bytes(1 << 22)
    return b"".join(squeeze.compress(block) for _ in range(count >> 22)) + squeeze.flush()


def _png_of(width: int, height: int, pixels: bytes, *, bits: int = 8, colour: int = 2, interlace: int = 0) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, interlace)
    return b"\x89PNG\r\n\x1a\n" + _chunk(b"IHDR", header) + _chunk(b"IDAT", pixels) + _chunk(b"IEND", b"")


def _with_chunk(chunks: bytes) -> bytes:
    png = encoded("PNG")
    return png[:33] + chunks + png[33:]


def _png() -> Iterator[tuple[str, Make]]:
    for size in (1, 100, 3_000):
        for interlace in (0, 1):
            yield (
                f"{size} px inflates to 1 GB{' interlaced' * interlace}",
                lambda size=size, interlace=interlace: _png_of(size, size, _zeros(1 << 30), interlace=interlace),
            )
    for width, height in ((4_000, 4_000), (100_000, 160), (160, 100_000), (2**31 - 1, 1), (1, 2**31 - 1)):
        yield f"{width} x {height} of nothing", lambda width=width, height=height: _png_of(width, height, _zeros(0))
    for bits, colour in ((16, 6), (1, 0), (8, 3)):
        yield (
            f"4000 px, {bits} bits of kind {colour}",
            lambda bits=bits, colour=colour: _png_of(4_000, 4_000, _zeros(1 << 27), bits=bits, colour=colour),
        )
    for kind in (b"tEXt", b"zTXt", b"iTXt", b"iCCP", b"eXIf", b"sPLT", b"tIME", b"acTL", b"fcTL", b"IDAT"):
        yield f"150000 chunks {kind.decode()}", lambda kind=kind: _with_chunk(_chunk(kind, b"") * 150_000)
        yield f"long {kind.decode()}", lambda kind=kind: _with_chunk(_chunk(kind, bytes(20_000_000)))
    for kind in (b"zTXt", b"iCCP"):
        yield (
            f"{kind.decode()} inflates to 1 GB",
            lambda kind=kind: _with_chunk(_chunk(kind, b"name\0\0" + _zeros(1 << 30))),
        )
    yield "iTXt inflates to 1 GB", lambda: _with_chunk(_chunk(b"iTXt", b"name\0\1\0\0\0" + _zeros(1 << 30)))


# TIFF -----------------------------------------------------------------------------------------------------------------


def _tiff_of(entries: list[tuple[int, int, int, int]], extra: bytes = b"", following: int = 0) -> bytes:
    """A TIFF with one directory at byte 8, and ``extra`` after it."""
    directory = struct.pack("<H", len(entries))
    directory += b"".join(struct.pack("<HHII", *entry) for entry in sorted(entries)) + struct.pack("<I", following)
    return b"II*\0" + struct.pack("<I", 8) + directory + extra


def _strips(width: int, height: int, compression: int, data: bytes, **tags: int) -> bytes:
    named = {"bits": 258, "samples": 277, "rows": 278, "planar": 284}
    values = {258: 8, 277: 1, 278: height} | {named[name]: value for name, value in tags.items()}
    entries = [(tag, 3 if value < 65_536 else 4, 1, value) for tag, value in values.items()]
    entries += [(256, 4, 1, width), (257, 4, 1, height), (259, 3, 1, compression), (262, 3, 1, 1)]
    start = 8 + 2 + 12 * (len(entries) + 2) + 4
    return _tiff_of([*entries, (273, 4, 1, start), (279, 4, 1, len(data))], data)


def _chain(count: int, loop: bool) -> bytes:
    content = bytearray(encoded("TIFF"))
    at = int.from_bytes(content[4:8], "little")
    length = 2 + 12 * int.from_bytes(content[at : at + 2], "little")
    directory = bytes(content[at : at + length])
    for number in range(count):
        start = len(content)
        following = 0 if number == count - 1 else start + length + 4
        content += directory + struct.pack("<I", at if loop and not following else following)
    first = len(content) - count * (length + 4)
    content[at + length : at + length + 4] = struct.pack("<I", first)
    return bytes(content)


def _tiff() -> Iterator[tuple[str, Make]]:
    for count in (1_000, 100_000):
        for loop in (False, True):
            yield f"{count} directories{' in a loop' * loop}", lambda count=count, loop=loop: _chain(count, loop)
    yield "directory after itself", lambda: _tiff_of([(256, 4, 1, 10), (257, 4, 1, 10)], following=8)
    for compression in (1, 5, 8, 32_773, 32_946, 4, 7, 34_712, 50_000):
        for width, height in ((4_000, 4_000), (1, 16_000_000), (60_000, 60_000)):
            yield (
                f"compression {compression}, {width} x {height}",
                lambda width=width, height=height, compression=compression: _strips(
                    width, height, compression, _zeros(1 << 28) if compression in (8, 32_946) else bytes(10_000)
                ),
            )
    for tag in (270, 273, 279, 320, 330, 34_665, 34_675, 700, 33_723):
        for kind in (1, 2, 4, 12):
            yield (
                f"tag {tag} of kind {kind}, 2**30 values",
                lambda tag=tag, kind=kind: _tiff_of([(256, 4, 1, 9), (257, 4, 1, 9), (tag, kind, 1 << 30, 8)]),
            )
    yield "60000 samples", lambda: _strips(100, 100, 1, bytes(10_000), samples=60_000)
    yield "strips of no rows", lambda: _strips(4_000, 4_000, 1, bytes(10_000), rows=0)
    yield "many entries", lambda: _tiff_of([(tag, 4, 1, 1) for tag in range(1, 65_000)])


# BMP, WebP and JPEG 2000 ----------------------------------------------------------------------------------------------


def _bmp_of(width: int, height: int, bits: int, compression: int, data: bytes, colours: int = 256) -> bytes:
    palette = bytes(4 * min(colours, 1 << 16)) if bits <= 8 else b""
    header = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, len(data), 1, 1, colours, 0)
    start = 14 + len(header) + len(palette)
    return b"BM" + struct.pack("<IHHI", start + len(data), 0, 0, start) + header + palette + data


def _bmp() -> Iterator[tuple[str, Make]]:
    for width, height in ((4_000, 4_000), (16_000_000, 1), (1, 16_000_000), (2**31 - 1, 2**31 - 1), (100, -(2**31))):
        for bits, compression in ((24, 0), (8, 1), (4, 2)):
            yield (
                f"{width} x {height}, {bits} bits",
                lambda width=width, height=height, bits=bits, compression=compression: _bmp_of(
                    width, height, bits, compression, b"\0\2\0\0" * 10_000
                ),
            )
    yield "RLE of 30 MB that stays on one pixel", lambda: _bmp_of(100, 100, 8, 1, b"\0\2\0\0" * 7_500_000)
    yield "2**32 - 1 colours", lambda: _bmp_of(100, 100, 8, 0, bytes(10_000), colours=2**32 - 1)


def _riff(chunks: bytes) -> bytes:
    return b"RIFF" + struct.pack("<I", len(chunks) + 4) + b"WEBP" + chunks


def _webp() -> Iterator[tuple[str, Make]]:
    for lossless in (False, True):
        yield (
            f"16000 x 1000{' lossless' * lossless}",
            lambda lossless=lossless: encoded("WEBP", Image.new("RGB", (16_000, 1_000), "red"), lossless=lossless),
        )
        yield (
            f"100 frames{' lossless' * lossless}",
            lambda lossless=lossless: encoded(
                "WEBP", picture(), save_all=True, append_images=[picture(640, 480)] * 99, lossless=lossless
            ),
        )
    extended = b"VP8X" + struct.pack("<I", 10) + b"\x10\0\0\0" + b"\xff\xff\xff" * 2
    yield "canvas of 2**24 px", lambda: _riff(extended + encoded("WEBP")[12:])
    yield "a million chunks", lambda: _riff(encoded("WEBP")[12:] + b"ABCD\0\0\0\0" * 1_000_000)
    yield "a million chunks first", lambda: _riff(b"ABCD\0\0\0\0" * 1_000_000 + encoded("WEBP")[12:])


def _sized_codestream(content: bytes, width: int, height: int, tile: int, samples: int = 3) -> bytes:
    """A codestream with other sizes and another number of samples in its header (ISO 15444-1, A.5.1)."""
    at = content.index(b"\xff\x51") + 6
    changed = bytearray(content)
    changed[at : at + 8] = struct.pack(">II", width, height)
    changed[at + 16 : at + 24] = struct.pack(">II", tile, tile)
    changed[at + 32 : at + 34] = struct.pack(">H", samples)
    return bytes(changed)


def _with_style(content: bytes, precinct: int | None = None, **changes: int) -> bytes:
    """A codestream with another coding style in its header (ISO 15444-1, A.6.1)."""
    at = content.index(b"\xff\x52")
    end = at + 2 + int.from_bytes(content[at + 2 : at + 4], "big")
    style = bytearray(content[at + 4 : end])
    if "layers" in changes:
        style[2:4] = struct.pack(">H", changes["layers"])
    style[5] = changes.get("levels", style[5])
    style[6] = style[7] = changes.get("block", style[6])
    if precinct is not None:
        style[0] |= 1
        style[10:] = bytes([precinct]) * (style[5] + 1)
    if "halved" in changes:  # The lowest resolution has the smallest precincts.
        style[0] |= 1
        style[10:] = bytes([0x11 * max(0, changes["halved"] - below) for below in range(style[5], -1, -1)])
    return content[:at] + b"\xff\x52" + struct.pack(">H", len(style) + 2) + bytes(style) + content[end:]


STYLES: dict[str, dict[str, int]] = {
    "code blocks of 4 x 4": {"block": 0},
    "code blocks of 8 x 8": {"block": 1},
    "precincts of 1 x 1": {"precinct": 0},
    "precincts of 2 x 2": {"precinct": 0x11},
    "precincts of 4 x 4": {"precinct": 0x22},
    "precincts of 1 x 32768": {"precinct": 0xF0},
    "precincts of 16 x 16": {"precinct": 0x44},
    "precincts of 32 x 32 and half of it": {"halved": 5},
    "65535 layers": {"layers": 65_535},
    "33 resolutions": {"levels": 32},
    "33 resolutions of precincts of 32 x 32": {"levels": 32, "precinct": 0x55},
}


def _jpeg2000() -> Iterator[tuple[str, Make]]:
    for boxes in (False, True):
        base = encoded("JPEG2000", picture(256, 256), no_jp2=not boxes)
        name = " in boxes" * boxes
        for width, height, tile in ((4_000, 4_000, 4_000), (4_000, 4_000, 16), (4_000, 4_000, 1), (2**31, 2**31, 64)):
            yield (
                f"{width} x {height}, tiles of {tile}{name}",
                lambda base=base, width=width, height=height, tile=tile: _sized_codestream(base, width, height, tile),
            )
        yield f"16384 samples{name}", lambda base=base: _sized_codestream(base, 1_000, 1_000, 1_000, 16_384)
        yield (
            f"600 comments{name}",
            lambda base=base: base.replace(b"\xff\x5c", _segment(0x64, bytes(60_000)) * 600 + b"\xff\x5c", 1),
        )
        for style, changes in STYLES.items():
            yield (
                f"4000 x 4000, {style}{name}",
                lambda base=base, changes=changes: _sized_codestream(_with_style(base, **changes), *[4_000] * 3),
            )
    jp2 = encoded("JPEG2000")
    yield "a million boxes", lambda: jp2[:32] + b"\0\0\0\x08free" * 1_000_000 + jp2[32:]
    yield "nested boxes", lambda: jp2[:32] + b"".join(struct.pack(">I", 80_000 - 8 * n) + b"jp2h" for n in range(9_000))


# DICOM ----------------------------------------------------------------------------------------------------------------


def _dicom() -> Iterator[tuple[str, Make]]:
    def base() -> bytes:
        from dicom_files import dicom_file

        return dicom_file()

    def with_frames(frames: str) -> bytes:
        from dicom_files import dicom_file

        return dicom_file(NumberOfFrames=frames)

    def deflated() -> bytes:
        # Elements of group 2 are not deflated; the data set is a long element of zeros.
        content = base().replace(b"\x14\x001.2.840.10008.1.2.1\0", b"\x16\x001.2.840.10008.1.2.1.99", 1)
        at = content.index(b"\x08\0\x16\0UI")
        squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
        block = bytes(1 << 22)
        body = b"".join(squeeze.compress(block) for _ in range(256)) + squeeze.flush()
        return content[:at] + body

    def with_elements(elements: bytes) -> bytes:
        content = base()
        at = content.index(b"\x08\0\x16\0UI")
        return content[:at] + elements + content[at:]

    sequence = b"\x08\0\x01\0SQ\0\0\xff\xff\xff\xff\xfe\xff\0\xe0\xff\xff\xff\xff"
    for count in (100, 10_000, 1_000_000):
        yield f"{count} nested sequences", lambda count=count: with_elements(sequence * count)
        yield f"{count} elements", lambda count=count: with_elements(b"\x08\0\x08\0CS\x02\0AB" * count)
    yield "element of 4 GB", lambda: with_elements(b"\x08\0\x08\0OB\0\0\xfe\xff\xff\xff")
    yield "preamble alone", lambda: base()[:132]
    yield "preamble and zeros", lambda: base()[:132] + bytes(20_000_000)
    for rows, columns in ((65_535, 65_535), (4_000, 4_000), (1, 65_535)):

        def sized(rows: int = rows, columns: int = columns) -> bytes:
            content = base()
            for tag, value in ((b"\x28\0\x10\0US\x02\0", rows), (b"\x28\0\x11\0US\x02\0", columns)):
                at = content.index(tag) + 8
                content = content[:at] + struct.pack("<H", value) + content[at + 2 :]
            return content

        yield f"{rows} x {columns}", sized
    for name, frames in (("no frame", "0"), ("100 frames", "100"), ("10**9 - 1 frames", "999999999")):
        yield name, lambda frames=frames: with_frames(frames)
    yield "deflates to 1 GB", deflated
    yield from _encapsulated()


def _encapsulated() -> Iterator[tuple[str, Make]]:
    """Compressed pixels of 4000 x 4000, each in the transfer syntax that it has, or in that of another kind."""
    jpeg2000, rle, jpeg = "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.50"

    def dicom(syntax: str, data: bytes, side: int = 4_000) -> bytes:
        from dicom_files import dicom_file

        pixels = np.broadcast_to(np.uint8(0), (side, side, 3))
        return dicom_file(pixels, syntax, data=data)

    base = encoded("JPEG2000", picture(256, 256), no_jp2=True)
    for tile in (4_000, 16, 1):
        yield (
            f"JPEG 2000, tiles of {tile}",
            lambda tile=tile: dicom(jpeg2000, _sized_codestream(base, 4_000, 4_000, tile)),
        )
    for style, changes in STYLES.items():
        yield (
            f"JPEG 2000, {style}",
            lambda changes=changes: dicom(jpeg2000, _sized_codestream(_with_style(base, **changes), *[4_000] * 3)),
        )
    yield "JPEG of 1000 scans", lambda: dicom(jpeg, _scans(1_000, 640), 640)
    yield "JPEG of 1000 scans as JPEG 2000", lambda: dicom(jpeg2000, _scans(1_000, 640), 640)
    segments = struct.pack("<16I", 3, *(64,) * 15)
    yield "RLE of one byte", lambda: dicom(rle, segments + b"\x81\0")
    yield "RLE of runs without pixels", lambda: dicom(rle, segments + b"\x80" * 40_000_000)
    yield "RLE of literals without end", lambda: dicom(rle, segments + b"\x7f" * 40_000_000)


FAMILIES: dict[str, Callable[[], Iterator[tuple[str, Make]]]] = {
    "JPEG": _jpeg,
    "PNG": _png,
    "TIFF": _tiff,
    "BMP": _bmp,
    "WebP": _webp,
    "JPEG 2000": _jpeg2000,
    "DICOM": _dicom,
}


def peak_memory() -> int:
    """Peak of the resident memory of this process in bytes, since the last reset."""
    status = Path("/proc/self/status").read_text()
    return 1024 * int(re.search(r"VmHWM:\s*(\d+) kB", status)[1])


def main() -> None:
    """Examine the files of the command line as the inventory does, and decode those that it accepts."""
    from retinaflow.data.decoding import decode_image
    from retinaflow.data.headers import examine_files

    megapixels, makers = int(sys.argv[1]), cases()
    with tempfile.TemporaryDirectory() as folder:
        for name in sys.argv[2:]:
            path = Path(folder, "image")
            path.write_bytes(makers[name]())
            # Linux measures the peak again from here.
            Path("/proc/self/clear_refs").write_text("5")
            start = time.process_time()
            (header,) = examine_files([str(path)], megapixels, 1)
            if not header.problem:
                decode_image(path.read_bytes())
            line = {
                "name": name,
                "bytes": path.stat().st_size,
                "seconds": time.process_time() - start,
                "memory": peak_memory(),
                "problem": header.problem,
            }
            print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
