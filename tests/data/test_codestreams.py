"""Structure of JPEG, JPEG 2000 and PNG files, and files built to exhaust time or memory."""

import io
import random
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

import crafted
from crafted import STYLES
from fuzz import mutated
from retinaflow.data.codestreams import (
    MOST_SCANS,
    Codestream,
    ends,
    jpeg_fault,
    lacks_end_alone,
    pixels_fault,
    png_fault,
    read_codestream,
    structure_fault,
)
from retinaflow.data.decoding import decode_image
from retinaflow.data.headers import EOI, NO_END, Header, read_headers, read_jpeg
from retinaflow.errors import RetinaflowError

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)


def encoded(kind: str = "jpeg", mode: str = "RGB", **options: object) -> bytes:
    content = io.BytesIO()
    Image.fromarray(PIXELS).convert(mode).save(content, kind, **options)
    return content.getvalue()


def read(path: Path, content: bytes) -> Header:
    path.write_bytes(content)
    (header,) = read_headers([str(path)], 1, cache=path.parent / "cache/headers.json", code="code", threads=1)
    return header


JPEG, PROGRESSIVE, PNG = encoded(), encoded(progressive=True), encoded("png")
KINDS = {
    "baseline": (JPEG, (3, 8)),
    "progressive": (PROGRESSIVE, (3, 8)),
    "grey": (encoded(mode="L"), (1, 8)),
    "JPEG 2000": (encoded("JPEG2000"), (3, 8)),
    "codestream": (encoded("JPEG2000", no_jp2=True), (3, 8)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_size_and_samples_are_read(kind: str) -> None:
    content, samples = KINDS[kind]
    found = read_codestream(content)
    assert isinstance(found, Codestream)
    assert found[:4] == (128, 96, *samples)
    assert ends(content)
    assert ends(content + b"\0")
    assert not ends(content[:-30])


@given(content=mutated([content for content, _ in KINDS.values()]))
def test_damaged_header_has_a_size_or_none(content: bytes) -> None:
    found = read_codestream(content)
    assert found is None or isinstance(found, Codestream)
    assert isinstance(jpeg_fault(content), str)
    assert isinstance(lacks_end_alone(content), bool)


@given(content=mutated([PNG, encoded("png", "P"), encoded("png", "1")]))
def test_damaged_png_has_a_fault_or_none(content: bytes) -> None:
    assert isinstance(png_fault(content), str)
    assert isinstance(structure_fault(content), str)


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_ordinary_png_has_no_fault(mode: str) -> None:
    assert png_fault(encoded("png", mode)) == structure_fault(encoded("png", mode)) == ""


@pytest.mark.parametrize("kind", ["baseline", "progressive", "grey"])
def test_ordinary_jpeg_has_no_fault(kind: str) -> None:
    assert jpeg_fault(KINDS[kind][0]) == ""


def scans(count: int) -> bytes:
    """A progressive JPEG with many scans that hold nothing."""
    at = PROGRESSIVE.index(b"\xff\xda")
    length = int.from_bytes(PROGRESSIVE[at + 2 : at + 4], "big")
    scan = PROGRESSIVE[at : at + 2 + length]
    return PROGRESSIVE[:-2] + scan * count + EOI


def segments(count: int) -> bytes:
    """A JPEG with many empty comments."""
    return JPEG[:2] + b"\xff\xfe\x00\x02" * count + JPEG[2:]


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def inflating() -> bytes:
    """A PNG of 100 x 100 pixels whose compressed pixels are gigabytes."""
    squeeze = zlib.compressobj(9)
    pixels = b"".join(squeeze.compress(bytes(1 << 24)) for _ in range(128)) + squeeze.flush()
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 100, 100, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (lambda: scans(1000), "more than 100 scans"),
        (lambda: scans(50_000), "more than 100 scans"),
        (lambda: segments(15_000_000), "more than 10000 segments"),
        (lambda: JPEG[:2] + b"\xff" * 40_000_000 + JPEG[2:], "bytes between two segments"),
        (lambda: JPEG[:2] + b"\xff\x00" * 20_000_000 + JPEG[2:], "bytes between two segments"),
        (inflating, "more than the 30100 bytes of pixels"),
        (lambda: PNG[:33] + chunk(b"tEXt", b"") * 5_000_000 + PNG[33:], "more than 200000 chunks"),
    ],
)
def test_file_built_to_exhaust_is_refused_at_once(tmp_path: Path, make: Callable[[], bytes], found: str) -> None:
    content = make()
    path = tmp_path / "1.jpg"
    path.write_bytes(content)
    start = time.monotonic()
    (header,) = read_headers([str(path)], 20, cache=tmp_path / "cache.json", code="code", threads=1)
    assert header.problem == "unreadable"
    assert found in header.found
    assert time.monotonic() - start < 10


def test_scans_up_to_the_limit_are_read() -> None:
    # Pillow writes 10 scans.
    assert jpeg_fault(scans(MOST_SCANS - 10)) == ""
    assert jpeg_fault(scans(MOST_SCANS - 9))


# The end marker.


def test_jpeg_that_lacks_its_end_alone_is_good(tmp_path: Path) -> None:
    header = read(tmp_path / "1.jpg", JPEG[:-2])
    assert (header.problem, header.note) == ("", NO_END)
    assert (decode_image(JPEG[:-2]) == decode_image(JPEG)).all()


@given(cut=st.integers(3, 3000))
def test_jpeg_that_lacks_more_is_truncated(cut: int) -> None:
    content = JPEG[:-cut]
    grey, found = read_jpeg(content)
    if grey is not None:
        assert found == NO_END
        assert (decode_image(content) == decode_image(JPEG)).all()


def test_progressive_jpeg_that_lacks_scans_is_truncated() -> None:
    for at in [place for place in range(len(PROGRESSIVE)) if PROGRESSIVE.startswith(b"\xff\xda", place)][1:]:
        assert read_jpeg(PROGRESSIVE[:at])[0] is None


# JPEG 2000.


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
@pytest.mark.parametrize("boxes", [True, False])
def test_jpeg_2000_of_any_mode_is_decoded(tmp_path: Path, mode: str, boxes: bool) -> None:
    content = encoded("JPEG2000", mode, no_jp2=not boxes)
    assert read(tmp_path / "1.jp2", content).problem == ""
    wanted = np.asarray(Image.fromarray(PIXELS).convert(mode).convert("RGB"))
    assert (decode_image(content)[..., ::-1] == wanted).all()


def test_jpeg_2000_of_16_bits_keeps_its_high_bits() -> None:
    grey = PIXELS[..., 0]
    content = io.BytesIO()
    Image.fromarray(grey.astype(np.uint16) * 257).save(content, "JPEG2000")
    assert (decode_image(content.getvalue())[..., 0] == grey).all()


@pytest.mark.parametrize("boxes", [True, False])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9, 0.999])
def test_jpeg_2000_that_breaks_off_is_found(tmp_path: Path, boxes: bool, share: float) -> None:
    content = encoded("JPEG2000", no_jp2=not boxes)
    cut = content[: int(share * len(content))]
    assert read(tmp_path / "1.jp2", cut).problem in ("truncated", "unreadable")
    with pytest.raises(RetinaflowError, match="cannot be decoded"):
        decode_image(cut)


@given(content=mutated([encoded("JPEG2000"), encoded("JPEG2000", no_jp2=True)], header=600))
def test_damaged_jpeg_2000_is_a_problem_or_none(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    header = read(tmp_path_factory.mktemp("damaged") / "1.jp2", content)
    assert bool(header.problem) == bool(header.found)


def test_large_jpeg_2000_is_refused_by_its_header(tmp_path: Path) -> None:
    content = encoded("JPEG2000", no_jp2=True)
    large = content[:8] + struct.pack(">II", 60000, 60000) + content[16:]
    assert read(tmp_path / "1.j2k", large).problem == "oversized"


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("JPEG 2000: a million boxes", "more than 1000 boxes"),
        ("JPEG 2000: 4000 x 4000, tiles of 16", "62500 tiles, more than 10000"),
        ("JPEG 2000: 4000 x 4000, tiles of 16 in boxes", "62500 tiles, more than 10000"),
        ("BMP: RLE of 30 MB that stays on one pixel", "more than 85936 bytes of runs of 100 x 100 pixels"),
    ],
)
def test_structure_that_exhausts_is_named(name: str, found: str) -> None:
    content = crafted.cases()[name]()
    assert (structure_fault(content) or pixels_fault(content)) == found


@pytest.mark.parametrize("tile", [16, 64, 128])
def test_ordinary_tiles_have_no_fault(tile: int) -> None:
    image = Image.fromarray(np.zeros((512, 512, 3), np.uint8))
    for boxes in (False, True):
        file = io.BytesIO()
        image.save(file, "JPEG2000", no_jp2=not boxes, tile_size=(tile, tile))
        assert structure_fault(file.getvalue()) == pixels_fault(file.getvalue()) == ""


@pytest.mark.parametrize(
    "name", [name for name, changes in STYLES.items() if not {"levels", "halved"} & changes.keys()]
)
@pytest.mark.parametrize("boxes", [False, True])
def test_coding_style_that_costs_more_than_its_pixels_is_refused(name, boxes):
    content = crafted.encoded("JPEG2000", crafted.picture(64, 64), no_jp2=not boxes)
    assert pixels_fault(content) == ""
    fault = "65535 quality layers, more than 200" if "layers" in name else "code blocks of fewer than 256 pixels"
    assert pixels_fault(crafted._with_style(content, **STYLES[name])) == fault


@pytest.mark.parametrize(
    "options",
    [
        {"codeblock_size": (16, 16)},
        {"codeblock_size": (4, 64)},
        {"precinct_size": (32, 32)},
        {"precinct_size": (32, 32), "num_resolutions": 3},
        {"precinct_size": (128, 128), "codeblock_size": (32, 32)},
        {"quality_layers": [40, 20, 10, 5], "num_resolutions": 6, "tile_size": (32, 32), "irreversible": True},
    ],
)
def test_coding_style_of_encoders_is_accepted(options):
    assert pixels_fault(crafted.encoded("JPEG2000", crafted.picture(64, 64), **options)) == ""


def test_coding_style_of_a_tile_or_a_component_is_read():
    content = crafted.encoded("JPEG2000", crafted.picture(64, 64), no_jp2=True, tile_size=(32, 32))
    style = b"\xff\x52" + bytes([0, 12, 0, 0, 0, 1, 0, 5, 0, 0, 0, 1])
    assert pixels_fault(content.replace(b"\xff\x5c", style + b"\xff\x5c", 1)) == "code blocks of fewer than 256 pixels"
    component = b"\xff\x53" + bytes([0, 9, 1, 0, 5, 0, 0, 0, 1])
    assert pixels_fault(content.replace(b"\xff\x5c", component + b"\xff\x5c", 1)) != ""
    # In the header of the last of four tiles.
    at = content.rindex(b"\xff\x90")
    assert pixels_fault(content[: at + 12] + style + content[at + 12 :]) == "code blocks of fewer than 256 pixels"


def test_any_codestream_ends_in_short_time():
    content = crafted.encoded("JPEG2000", crafted.picture(64, 64), no_jp2=True)
    rng = random.Random(1)  # noqa: S311
    for _ in range(500):
        changed = bytearray(content)
        for _ in range(rng.randrange(1, 9)):
            changed[rng.randrange(2, min(200, len(changed)))] = rng.randrange(256)
        assert isinstance(pixels_fault(bytes(changed)), str)


def test_coding_style_after_many_comments_is_no_way_around():
    content = crafted.encoded("JPEG2000", crafted.picture(64, 64), no_jp2=True)
    at = content.index(b"\xff\x52")
    assert pixels_fault(content[:at] + b"\xff\x64\0\2" * 1000 + content[at:]) == ""
    assert pixels_fault(content[:at] + b"\xff\x64\0\2" * 1_000_000 + content[at:]) == "more than 500000 segments"


@pytest.mark.parametrize("before", ["a megabyte", "another codestream", "an extended length"])
def test_codestream_is_found_where_decoders_find_it(before):
    good = crafted.encoded("JPEG2000", crafted.picture(64, 64))
    fault = "code blocks of fewer than 256 pixels"
    at = good.index(b"jp2c") - 4
    bad = crafted._with_style(good[at:], **STYLES["code blocks of 4 x 4"])
    filling = bytes(1 << 20) if before == "a megabyte" else good[at + 8 :]
    box = struct.pack(">I", 8 + len(filling)) + b"free" + filling
    if before == "an extended length":
        box = struct.pack(">I4sQ", 1, b"free", 16 + len(filling)) + filling
    assert pixels_fault(good[:at] + box + good[at:]) == ""
    assert pixels_fault(good[:at] + box + bad) == fault
    assert read_codestream(good[:at] + box + bad).width == 64
    if before == "another codestream":  # Of the others, Pillow decodes none.
        Image.open(io.BytesIO(good[:at] + box + good[at:])).load()


def test_codestream_without_its_size_first_is_refused():
    good = crafted.encoded("JPEG2000", crafted.picture(64, 64))
    at = good.index(b"\xff\x4f\xff\x51")
    changed = good[: at + 2] + b"\xff\x31" + good[at + 2 :]
    assert pixels_fault(changed) == "a codestream that does not begin with its size"
