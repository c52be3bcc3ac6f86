"""Headers of image files: complete, damaged and unreadable ones."""

import io
import json
import os
import re
import struct
import subprocess
import sys
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from common import DATA
from fuzz import mutated
from retinaflow.data.headers import EOI, Header, read_headers, read_jpeg
from retinaflow.preprocessing.preprocess import prepare
from retinaflow.preprocessing.variant import Variant
from retinaflow.storage.files import digest

PIXELS = np.random.default_rng(0).integers(0, 256, (12, 16, 3), dtype=np.uint8).repeat(8, 0).repeat(8, 1)
needs_images = pytest.mark.skipif(
    not DATA.is_dir(), reason=f"no real images at {DATA}; set RETINAFLOW_DATA to their folder"
)


def encoded(kind: str = "jpeg", mode: str = "RGB", **options: object) -> bytes:
    content = io.BytesIO()
    Image.fromarray(PIXELS).convert(mode).save(content, kind, **options)
    return content.getvalue()


def with_segment(jpeg: bytes, marker: int, segment: bytes) -> bytes:
    return jpeg[:2] + bytes([0xFF, marker]) + (len(segment) + 2).to_bytes(2, "big") + segment + jpeg[2:]


def read(path: Path, megapixels: int = 1) -> Header:
    (header,) = read_headers([str(path)], megapixels, cache=path.parent / "cache/headers.json", code="code", threads=1)
    return header


JPEG = encoded()
JFIF = JPEG.index(b"JFIF")
TABLES = JPEG.index(b"\xff\xdb")
ADOBE = encoded(mode="CMYK").index(b"Adobe")

WHOLE: dict[str, bytes] = {
    "baseline": JPEG,
    "progressive": encoded(progressive=True),
    "optimised": encoded(optimize=True),
    "restart markers": encoded(restart_marker_blocks=2),
    "4:4:4": encoded(subsampling=0),
    "4:2:2": encoded(subsampling=1),
    "grey": encoded(mode="L"),
    "CMYK": encoded(mode="CMYK"),
    "YCCK": encoded(mode="CMYK")[: ADOBE + 11] + b"\x02" + encoded(mode="CMYK")[ADOBE + 12 :],
    "thumbnail with its own end": with_segment(JPEG, 0xE1, b"Exif\0\0" + JPEG),
    "comment": with_segment(JPEG, 0xFE, b"\xff\xd9\xff\xda"),
    "data after the end": JPEG + b"maker's notes" * 9,
    "another image after the end": JPEG + JPEG,
    "fill bytes before the end": JPEG[:-2] + b"\xff" * 9 + EOI,
    "zeros before the end": JPEG[:-2] + bytes(300) + EOI,
    "one zero before the end": JPEG[:-2] + bytes(1) + EOI,
    "unknown revision of JFIF": JPEG[: JFIF + 5] + b"\x02" + JPEG[JFIF + 6 :],
    "unknown transform of Adobe": encoded(mode="CMYK")[: ADOBE + 11] + b"\x09" + encoded(mode="CMYK")[ADOBE + 12 :],
    "colour profile in pieces that do not fit": with_segment(JPEG, 0xE2, b"ICC_PROFILE\0\x02\x01" + bytes(99)),
    "junk between segments": JPEG[:TABLES] + b"\0\0" + JPEG[TABLES:],
}


@pytest.mark.parametrize("case", WHOLE)
def test_complete_jpeg_is_read(tmp_path: Path, case: str) -> None:
    path = tmp_path / "1_left.jpeg"
    path.write_bytes(WHOLE[case])
    assert read(path)[:6] == Header(len(WHOLE[case]), 128, 96, digest(WHOLE[case]))[:6]


# Odd headers must not hide faults behind them.
@pytest.mark.parametrize("case", WHOLE)
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9, 0.97])
def test_truncated_jpeg_is_found_with_and_without_an_end(case: str, share: float) -> None:
    content = WHOLE[case]
    end = content.rindex(EOI) if case != "another image after the end" else len(JPEG) - 2
    if case == "zeros before the end":
        end -= 300
    start = content.rindex(b"\xff\xda", 0, end)
    cut = content[: start + int(share * (end - start))].rstrip(b"\0\xff")
    assert read_jpeg(cut)[1]
    assert read_jpeg(cut + EOI)[1]


@pytest.mark.parametrize("size", [256, 1024, 2048])
def test_jpeg_with_a_hole_is_found(size: int) -> None:
    middle = len(JPEG) // 2
    for hole in (b"", bytes(size), np.random.default_rng(size).bytes(size)):
        assert read_jpeg(JPEG[:middle] + hole + JPEG[middle + size :])[1]


def test_zeros_do_not_hide_missing_pixels() -> None:
    for missing in (99, 999, 4999):
        assert read_jpeg(JPEG[:-missing] + bytes(9) + EOI)[1]


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damaged_jpeg_is_described_or_read(data: st.DataObject) -> None:
    content = bytearray(WHOLE[data.draw(st.sampled_from(sorted(WHOLE)))])
    for _ in range(data.draw(st.integers(0, 8))):
        content[data.draw(st.integers(2, len(content) - 1))] = data.draw(st.integers(0, 255))
    start, end = sorted(data.draw(st.integers(2, len(content))) for _ in range(2))
    assert isinstance(read_jpeg(bytes(content[:start] + content[end:]))[1], str)


@pytest.mark.real
@needs_images
@pytest.mark.parametrize("collection", ["eyepacs-original", "eyepacs-1024", "eyepacs-256", "aptos-224"])
def test_real_images_have_no_problem(tmp_path: Path, collection: str) -> None:
    paths = sorted(map(str, (DATA / collection).rglob("*.*g")))[:100]
    headers = read_headers(paths, 20, cache=tmp_path / "headers.json", code="code", threads=2)
    assert [header.found for header in headers if header.problem] == []
    assert len(headers) >= 10


@pytest.mark.real
@needs_images
@pytest.mark.parametrize("collection", ["eyepacs-original", "eyepacs-1024", "eyepacs-256"])
def test_truncated_real_image_is_found(collection: str) -> None:
    for path in sorted((DATA / collection).rglob("*.jpeg"))[:10]:
        content = path.read_bytes()
        start = content.rindex(b"\xff\xda") + 14
        for percent in (5, 25, 50, 75, 95):
            cut = content[: start + percent * (len(content) - start) // 100]
            assert read_jpeg(cut)[1]
            assert read_jpeg(cut + EOI)[1]


@pytest.mark.parametrize("kind", ["png", "tiff", "bmp", "webp"])
def test_other_formats_are_decoded_to_the_end(tmp_path: Path, kind: str) -> None:
    content = encoded(kind)
    path = tmp_path / "1_left.jpeg"
    path.write_bytes(content)
    assert read(path)[:6] == Header(len(content), 128, 96, digest(content))[:6]
    path.write_bytes(content[: len(content) * 3 // 4])
    header = read(path)
    assert header.problem in ("truncated", "unreadable", "not_an_image")
    assert header.found


@pytest.mark.parametrize("kind", ["png", "tiff", "bmp", "webp"])
@pytest.mark.parametrize("cut", [1, 3, 4, 5, 12, 13, 22, 23, 40, 100])
def test_preprocessing_decodes_each_file_without_problem(tmp_path: Path, kind: str, cut: int) -> None:
    path = tmp_path / "1_left.png"
    path.write_bytes(encoded(kind)[:-cut])
    if not read(path).problem:
        prepare(path.read_bytes(), 128, 96, Variant(64, "none", "keep", "none"))


@given(content=mutated([JPEG, *(encoded(kind) for kind in ("png", "tiff", "bmp", "webp"))], header=600))
def test_damaged_image_of_any_format_has_a_description(
    tmp_path_factory: pytest.TempPathFactory, content: bytes
) -> None:
    path = tmp_path_factory.mktemp("damaged") / "1_left.jpeg"
    path.write_bytes(content)
    header = read(path)
    assert header.problem in ("", "empty", "not_an_image", "unreadable", "truncated", "oversized")
    assert bool(header.problem) == bool(header.found)


def test_png_with_a_long_text_is_read(tmp_path: Path) -> None:
    text = PngInfo()
    text.add_text("maker", "x" * 2_000_000, zip=True)
    (tmp_path / "1_left.png").write_bytes(encoded("png", pnginfo=text))
    assert not read(tmp_path / "1_left.png").problem


def test_png_with_a_wrong_checksum_is_truncated(tmp_path: Path) -> None:
    content = bytearray(encoded("png"))
    content[content.index(b"IDAT") + 200] ^= 1
    (tmp_path / "1_left.png").write_bytes(content)
    assert read(tmp_path / "1_left.png").problem == "truncated"


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "I;16"])
def test_png_of_any_mode_is_read(tmp_path: Path, mode: str) -> None:
    content = io.BytesIO()
    image = Image.fromarray(257 * np.arange(256, dtype=np.uint16).reshape(16, 16))
    (image if mode == "I;16" else Image.fromarray(PIXELS).convert(mode)).save(content, "png")
    (tmp_path / "1_left.png").write_bytes(content.getvalue())
    assert read(tmp_path / "1_left.png").problem == ""


# Files that are not decoded -------------------------------------------------------------------------------------------


def named_pipe(path: Path) -> None:
    os.mkfifo(path)


def without_permission(path: Path) -> None:
    path.write_bytes(JPEG)
    path.chmod(0)
    if os.access(path, os.R_OK):
        pytest.skip("this user may read everything")


def flat() -> bytes:
    """A JPEG with a width of 0 pixels in its header."""
    frame = JPEG.index(b"\xff\xc0")
    return JPEG[: frame + 7] + bytes(2) + JPEG[frame + 9 :]


BAD: dict[str, tuple[Callable[[Path], object], str, str]] = {
    "nothing": (lambda path: path.write_bytes(b""), "empty", "0 bytes"),
    "a page": (lambda path: path.write_bytes(b"<html>not found"), "not_an_image", r"starts with b'<html>not fo', exp"),
    "a start": (lambda path: path.write_bytes(JPEG[:20]), "unreadable", "broken header"),
    "no pixels": (lambda path: path.write_bytes(flat()), "unreadable", "broken header"),
    "a broken link": (lambda path: path.symlink_to("nowhere"), "unreadable", "neither a file nor a link to one"),
    "a link to itself": (lambda path: path.symlink_to(path.name), "unreadable", "neither a file nor a link to one"),
    "a named pipe": (named_pipe, "unreadable", "neither a file nor a link to one"),
    "a folder": (lambda path: path.mkdir(), "unreadable", "neither a file nor a link to one"),
    "no permission": (without_permission, "unreadable", "Permission denied"),
    "cut": (lambda path: path.write_bytes(JPEG[:-9]), "truncated", "Premature end of JPEG file"),
    "filled": (lambda path: path.write_bytes(JPEG[:-99] + EOI), "truncated", "premature end of data segment"),
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("case", BAD)
def test_unusable_file_has_a_problem(tmp_path: Path, case: str) -> None:
    make, problem, found = BAD[case]
    make(tmp_path / "1_left.jpeg")
    header = read(tmp_path / "1_left.jpeg")
    assert header.problem == problem
    assert re.search(found, header.found)


def bomb(folder: Path) -> Path:
    """A PNG of a few hundred kilobytes that needs 3.6 GB of memory when decoded."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    width, height = 40000, 30000
    squeeze = zlib.compressobj()
    row = bytes(1 + 3 * width) * 100
    pixels = b"".join(squeeze.compress(row) for _ in range(height // 1000)) + squeeze.flush()
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    path = folder / "bomb.png"
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", pixels) + chunk(b"IEND", b""))
    return path


def sparse(folder: Path) -> Path:
    path = folder / "sparse.jpeg"
    path.write_bytes(JPEG)
    os.truncate(path, 2**34)
    return path


def tiff_bomb(folder: Path) -> Path:
    path = folder / "bomb.tiff"
    Image.new("1", (30000, 30000)).save(path, compression="group4")
    return path


# tracemalloc does not see the memory of decoders written in C.
PEAK = """
import json, resource, sys
from pathlib import Path
import PIL.Image, simplejpeg
from retinaflow.data.headers import read_headers
PIL.Image.init()
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
(header,) = read_headers(sys.argv[1:], 100, cache=Path(sys.argv[1] + ".cache"), code="code", threads=1)
after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
json.dump([header.problem, header.found, after - before], sys.stdout)
"""


@pytest.mark.parametrize(
    ("make", "found"),
    [
        (bomb, "40000 x 30000 pixels, expected 100 megapixels at most"),
        (tiff_bomb, "30000 x 30000 pixels, expected 100 megapixels at most"),
        (sparse, "17179869184 bytes, expected 800000000 at most for 100 megapixels"),
    ],
)
def test_decompression_bomb_needs_no_memory(tmp_path: Path, make: Callable[[Path], Path], found: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PEAK, make(tmp_path)],
        capture_output=True,
        text=True,
        check=True,
    )
    problem, description, kilobytes = json.loads(done.stdout)
    assert (problem, description) == ("oversized", found)
    assert kilobytes < 16_000


def test_limit_of_pillow_is_restored(tmp_path: Path) -> None:
    before = Image.MAX_IMAGE_PIXELS
    assert read(bomb(tmp_path)).problem == "oversized"
    assert before == Image.MAX_IMAGE_PIXELS


def test_image_of_exactly_the_limit_is_read(tmp_path: Path) -> None:
    for width, problem in ((1000, ""), (1001, "oversized")):
        Image.new("L", (width, 1000), 99).save(tmp_path / "1_left.png")
        assert read(tmp_path / "1_left.png").problem == problem
