"""Preprocessing: each kind of file becomes an upright RGB square, and a rebuilt shard equals a new one."""

import contextlib
import errno
import io
import json
import os
import shutil
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageOps

from fuzz import mutated
from retinaflow.errors import RetinaflowError
from retinaflow.preprocessing import preprocess
from retinaflow.preprocessing.preprocess import ShardJob, ShardReport, build_shard, prepare, retina_box
from retinaflow.preprocessing.shards import read_shard, shard_of
from retinaflow.preprocessing.variant import ASPECTS, CROPS, ENHANCEMENTS, Variant
from retinaflow.storage.files import digest
from retinaflow.storage.integrity import content_of
from retinaflow.storage.tables import write_table

DATA = Path(os.environ.get("RETINAFLOW_DATA", Path(__file__).parents[2] / "../shared/data"))
INDEX_COLUMNS = ("image", "filename", "grade_name", "grade", "patient", "eye", "width", "height", "bytes", "digest")


def colours(width: int = 160, height: int = 120) -> np.ndarray:
    """Return a smooth RGB image without symmetry, so that each turn, flip or swap of channels shows."""
    y, x = np.mgrid[0:height, 0:width]
    channels = (255 * x / width, 200 * y / height, 60 + 100 * (x / width) * (y / height))
    return np.stack(channels, axis=-1).astype(np.uint8)


def retina(width: int, height: int, diameter: int, centre: tuple[int, int] | None = None) -> np.ndarray:
    picture = np.zeros((height, width, 3), np.uint8)
    cv2.circle(picture, centre or (width // 2, height // 2), diameter // 2, (180, 90, 40), thickness=-1)
    return picture


def encode(image: Image.Image | np.ndarray, kind: str, **options: object) -> bytes:
    picture = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def as_is(content: bytes, width: int = 160, height: int = 120) -> np.ndarray:
    """Return the image inside the square of a variant that does not change the size."""
    size = max(width, height)
    square = prepare(content, width, height, Variant(size, "none", "keep", "none"))
    top, left = (size - height) // 2, (size - width) // 2
    return square[top : top + height, left : left + width]


def difference(one: np.ndarray, other: np.ndarray) -> float:
    assert one.shape == other.shape
    return float(np.abs(one.astype(float) - other.astype(float)).max())


def with_alpha(mode: str = "RGBA") -> Image.Image:
    picture = Image.fromarray(colours())
    picture.putalpha(Image.fromarray(np.tile(np.linspace(0, 255, 160).astype(np.uint8), (120, 1))))
    return picture.convert(mode)


def cmyk_jpeg(adobe: bool, transform: int = 0) -> bytes:
    content = encode(Image.fromarray(colours()).convert("CMYK"), "JPEG", quality=95)
    start = content.index(b"\xff\xee")
    end = start + 2 + int.from_bytes(content[start + 2 : start + 4], "big")
    return content[:start] + (content[start : end - 1] + bytes([transform]) if adobe else b"") + content[end:]


ENCODED = {
    "jpeg": encode(colours(), "JPEG", quality=95),
    "jpeg progressive": encode(colours(), "JPEG", quality=95, progressive=True),
    "jpeg grey": encode(Image.fromarray(colours()).convert("L"), "JPEG"),
    "jpeg cmyk": cmyk_jpeg(adobe=True),
    "jpeg cmyk without marker": cmyk_jpeg(adobe=False),
    "jpeg ycck": cmyk_jpeg(adobe=True, transform=2),
    "png": encode(colours(), "PNG"),
    "png grey": encode(Image.fromarray(colours()).convert("L"), "PNG"),
    "png alpha": encode(with_alpha(), "PNG"),
    "png grey alpha": encode(with_alpha("LA"), "PNG"),
    "png palette": encode(Image.fromarray(colours()).quantize(64), "PNG"),
    "png palette transparent": encode(Image.fromarray(colours()).quantize(64), "PNG", transparency=3),
    "png one bit": encode(Image.fromarray(colours()).convert("1"), "PNG"),
    "tiff": encode(colours(), "TIFF"),
    "tiff lzw": encode(colours(), "TIFF", compression="tiff_lzw"),
    "tiff grey": encode(Image.fromarray(colours()).convert("L"), "TIFF"),
    "tiff alpha": encode(with_alpha(), "TIFF"),
    "tiff palette": encode(Image.fromarray(colours()).quantize(64), "TIFF"),
    "tiff cmyk": encode(Image.fromarray(colours()).convert("CMYK"), "TIFF"),
    "bmp": encode(colours(), "BMP"),
    "bmp palette": encode(Image.fromarray(colours()).quantize(64), "BMP"),
}


@pytest.mark.parametrize("name", ENCODED)
def test_each_kind_of_file_decodes_as_by_pillow(name: str) -> None:
    content = ENCODED[name]
    expected = np.asarray(Image.open(io.BytesIO(content)).convert("RGB"))
    assert difference(as_is(content), expected) <= 1


@pytest.mark.parametrize("extension", [".png", ".tiff"])
@pytest.mark.parametrize("channels", [1, 3, 4])
def test_sixteen_bits_are_scaled_not_clipped(extension: str, channels: int) -> None:
    deep = colours().astype(np.uint16) * 257
    if channels == 1:
        deep = np.repeat(deep[..., :1], 3, axis=-1)
    stored = np.dstack([deep[..., ::-1], np.full(deep.shape[:2], 30000, np.uint16)])[..., :channels]
    content = cv2.imencode(extension, stored)[1].tobytes()
    assert difference(as_is(content), deep / 257) <= 1


@pytest.mark.parametrize(
    ("kind", "mode"), [("JPEG", "RGB"), ("PNG", "RGB"), ("PNG", "RGBA"), ("TIFF", "RGB"), ("TIFF", "RGBA")]
)
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(kind: str, mode: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = encode(Image.fromarray(colours()).convert(mode), kind, exif=exif)
    expected = np.asarray(ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert("RGB"))
    assert difference(as_is(content, *expected.shape[1::-1]), expected) <= 1
    if kind == "JPEG":
        small = prepare(content, 160, 120, Variant(20, "none", "squash", "none"))
        assert difference(small, cv2.resize(expected, (20, 20), interpolation=cv2.INTER_AREA)) < 16


def test_channels_are_neither_swapped_nor_copied() -> None:
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[:] = (200, 100, 30)
    for kind in ("PNG", "JPEG", "TIFF", "BMP"):
        small = prepare(encode(picture, kind), 64, 64, Variant(16, "none", "keep", "none"))
        assert difference(small, picture[:16, :16]) <= 3


@pytest.mark.parametrize(
    "content",
    [b"", b"not an image", ENCODED["jpeg"][:-200], ENCODED["png"][:-200], ENCODED["tiff"][:200], b"\xff\xd8\xff"],
    ids=["empty", "text", "truncated jpeg", "truncated png", "truncated tiff", "start of jpeg"],
)
def test_undecodable_file_is_an_error(content: bytes) -> None:
    with pytest.raises(RetinaflowError, match=f"cannot be decoded, found {len(content)} bytes"):
        prepare(content, 160, 120, Variant(32, "none", "keep", "none"))


def header_size(content: bytes) -> tuple[int, int] | None:
    """Return the size that the inventory reads, or None if it would exclude the image."""
    try:
        with warnings.catch_warnings(action="ignore"), Image.open(io.BytesIO(content)) as image:
            return image.size if image.width * image.height < 10**7 else None
    except Exception:  # Pillow raises nearly anything
        return None


@settings(deadline=None)
@given(
    content=st.one_of(mutated(list(ENCODED.values()), header=100), mutated(list(ENCODED.values()))),
    variant=st.sampled_from(["32-trim-keep-none", "200-circle-squash-clahe", "64-none-keep-ben_graham"]),
)
@pytest.mark.filterwarnings("ignore::UserWarning:PIL")
def test_damaged_image_is_an_error_or_a_square(content: bytes, variant: str) -> None:
    size = header_size(content)
    if size is None:
        return
    try:
        pixels = prepare(content, *size, Variant.parse(variant))
    except RetinaflowError as error:
        assert str(error).startswith("cannot be decoded")  # noqa: PT017
    else:
        assert pixels.shape == (Variant.parse(variant).size,) * 2 + (3,)
        assert pixels.dtype == np.uint8


@settings(deadline=None, max_examples=150)
@given(
    width=st.integers(1, 90),
    height=st.integers(1, 90),
    kind=st.sampled_from(["JPEG", "PNG"]),
    variant=st.builds(
        Variant,
        st.integers(1, 70),
        st.sampled_from(CROPS),
        st.sampled_from(ASPECTS),
        st.sampled_from(ENHANCEMENTS),
    ),
)
def test_each_variant_makes_squares_of_images(width: int, height: int, kind: str, variant: Variant) -> None:
    pixels = prepare(encode(colours(width, height), kind), width, height, variant)
    assert pixels.shape == (variant.size, variant.size, 3)
    assert pixels.dtype == np.uint8


@given(
    variant=st.builds(
        Variant,
        st.integers(1, 5000),
        st.sampled_from(CROPS),
        st.sampled_from(ASPECTS),
        st.sampled_from(ENHANCEMENTS),
    )
)
def test_variant_is_parsed_from_its_name(variant: Variant) -> None:
    assert Variant.parse(variant.name) == variant


@pytest.mark.parametrize(
    "name",
    [
        "",
        "224",
        "0-trim-keep-none",
        "-1-trim-keep-none",
        "0224-trim-keep-none",
        "224-trim-keep",
        "224-trim-keep-none-none",
        "224-cut-keep-none",
        "224-trim-stretch-none",
        "224-trim-keep-sharpen",
        "224-trim-keep-none\n",
        "٣-trim-keep-none",
    ],
)
def test_other_names_are_no_variants(name: str) -> None:
    with pytest.raises(RetinaflowError, match=r"found .*; expected"):
        Variant.parse(name)


def test_variant_of_size_0_is_an_error() -> None:
    with pytest.raises(RetinaflowError, match="image size: found 0; expected"):
        Variant(0, "none", "keep", "none")


def test_keep_pads_the_square_and_squash_fills_it() -> None:
    content = encode(np.full((50, 100, 3), 200, np.uint8), "PNG")
    kept = prepare(content, 100, 50, Variant(40, "none", "keep", "none"))
    assert np.all(kept[10:30] == 200)
    assert not kept[:10].any()
    assert not kept[30:].any()
    assert np.all(prepare(content, 100, 50, Variant(40, "none", "squash", "none")) == 200)


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_fine_checkerboard_becomes_grey(kind: str) -> None:
    y, x = np.mgrid[0:512, 0:512]
    board = np.repeat((((x + y) % 2) * 255).astype(np.uint8)[..., np.newaxis], 3, axis=-1)
    for size in (64, 96):
        small = prepare(encode(board, kind, quality=100), 512, 512, Variant(size, "none", "keep", "none"))
        assert np.abs(small.astype(float) - 127.5).max() < 12


def test_enlarging_one_side_does_not_alias_the_other() -> None:
    stripes = np.zeros((20, 600, 3), np.uint8)
    stripes[:, ::2] = 255
    small = prepare(encode(stripes, "PNG"), 600, 20, Variant(100, "none", "squash", "none"))
    assert np.abs(small.astype(float) - 127.5).max() < 2


def decoded_scales(monkeypatch: pytest.MonkeyPatch, content: bytes, width: int, height: int, variant: str) -> list[int]:
    scales = []
    flags = {flag: scale for scale, flag in preprocess.DECODE_FLAGS.items()}
    decode = cv2.imdecode

    def watched(buffer: np.ndarray, flag: int) -> np.ndarray:
        scales.append(flags[flag])
        return decode(buffer, flag)

    monkeypatch.setattr(cv2, "imdecode", watched)
    prepare(content, width, height, Variant.parse(variant))
    return scales


@pytest.mark.parametrize(
    ("width", "height", "variant", "expected"),
    [
        (1024, 680, "224-none-keep-none", [4]),
        (1024, 680, "256-none-keep-none", [4]),
        (1024, 680, "257-none-keep-none", [2]),
        (1024, 680, "224-none-squash-none", [2]),
        (1024, 680, "224-trim-keep-none", [2]),
        (680, 1024, "224-none-keep-none", [4]),
        (1024, 680, "100-none-keep-none", [8]),
        (1024, 680, "50-none-keep-none", [8]),
        (1024, 680, "1024-none-keep-none", [1]),
        (1024, 680, "2000-none-keep-none", [1]),
    ],
)
def test_jpeg_is_decoded_once_at_the_smallest_scale(
    monkeypatch: pytest.MonkeyPatch, width: int, height: int, variant: str, expected: list[int]
) -> None:
    content = encode(retina(width, height, min(width, height) - 4), "JPEG")
    assert decoded_scales(monkeypatch, content, width, height, variant) == expected


@pytest.mark.parametrize(("diameter", "expected"), [(600, [8]), (300, [8, 4]), (150, [8, 4, 2]), (70, [8, 4, 2, 1])])
def test_small_retina_is_decoded_at_a_finer_scale(
    monkeypatch: pytest.MonkeyPatch, diameter: int, expected: list[int]
) -> None:
    content = encode(retina(1000, 700, diameter), "JPEG")
    assert decoded_scales(monkeypatch, content, 1000, 700, "64-trim-keep-none") == expected


def test_other_formats_are_decoded_in_full(monkeypatch: pytest.MonkeyPatch) -> None:
    assert decoded_scales(monkeypatch, encode(colours(640, 480), "PNG"), 640, 480, "32-none-keep-none") == [1]


@pytest.mark.parametrize("size", [40, 70, 100, 150])
def test_reduced_decoding_is_close_to_full_decoding(size: int) -> None:
    picture = retina(640, 480, 440)
    noise = np.random.default_rng(0).integers(-20, 20, picture.shape)
    picture = cv2.GaussianBlur(np.clip(picture + noise, 0, 255).astype(np.uint8), (0, 0), 2)
    content = encode(picture, "JPEG", quality=95, subsampling=0)
    full = cv2.cvtColor(cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    expected = cv2.resize(full, (size, size), interpolation=cv2.INTER_AREA)
    small = prepare(content, 640, 480, Variant(size, "none", "squash", "none"))
    assert np.abs(small.astype(float) - expected).mean() < 1


def shrunk(picture: np.ndarray, width: int, height: int) -> np.ndarray:
    """Return the rows without padding of `picture` as a PNG, which is decoded in full, shrunk to `width`."""
    content = cv2.imencode(".png", picture)[1].tobytes()
    small = prepare(content, picture.shape[1], picture.shape[0], Variant(width, "none", "keep", "none"))
    top = (width - height) // 2
    return small[top : top + height, :, ::-1].astype(float)


SHRINKING = [1.02, 1.1, 1.2, 1.25, 1.26, 1.4, 1.6, 1.99, 2.0, 2.24, 2.26, 2.7, 3.5, 5.0, 9.3]


@pytest.mark.parametrize("factor", SHRINKING)
def test_shrinking_averages_areas(factor: float) -> None:
    """The reference is INTER_AREA of OpenCV in floating point."""
    width, height = 600, 450
    noise = np.random.default_rng(1).integers(0, 256, (height, width, 3), dtype=np.uint8)
    picture = cv2.GaussianBlur(noise, (0, 0), 3 * factor) * 4.0
    picture = np.clip(picture - picture.mean() + 128, 0, 255).astype(np.uint8)
    target = round(width / factor), round(height * round(width / factor) / width)
    expected = cv2.resize(picture.astype(np.float32), target, interpolation=cv2.INTER_AREA)
    difference = np.abs(shrunk(picture, *target) - expected)
    assert picture.std() > 2
    assert difference.mean() < 0.5  # rounding alone gives 0.25, bilinear interpolation alone 0.67
    assert difference.max() < 4


@pytest.mark.parametrize("factor", SHRINKING)
def test_shrinking_aliases_no_more_than_area_averages(factor: float) -> None:
    """All stripes are too fine for the result, so any contrast that is left is aliasing."""
    width = 720
    target = round(width / factor), 64
    left = []
    for frequency in np.arange(0.5 / factor + 0.005, 0.5, 0.01):
        row = 128 + 100 * np.sin(2 * np.pi * frequency * np.arange(width) + 0.3)
        picture = np.broadcast_to(row.round().astype(np.uint8)[None, :, None], (round(64 * factor), width, 3)).copy()
        areas = cv2.resize(picture, target, interpolation=cv2.INTER_AREA).astype(float)
        left.append((shrunk(picture, *target)[20, :, 0].std() - areas[20, :, 0].std()) / row.std())
    assert max(left, default=0) < 0.15


def bounds(picture: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = retina_box(picture)
    return rows.start, rows.stop, columns.start, columns.stop


@settings(deadline=None)
@given(diameter=st.integers(60, 160), x=st.integers(90, 210), y=st.integers(85, 115), seed=st.integers(0, 2**16))
def test_trim_finds_the_retina_among_noise_and_specks(diameter: int, x: int, y: int, seed: int) -> None:
    random = np.random.default_rng(seed)
    clean = retina(300, 200, diameter, (x, y))
    picture = np.maximum(clean, random.integers(0, 6, clean.shape, dtype=np.uint8))
    for row, column in zip(random.integers(0, 200, 4), random.integers(0, 300, 4), strict=True):
        picture[row, column] = 255
    lit_rows, lit_columns = np.flatnonzero(clean.any((1, 2))), np.flatnonzero(clean.any((0, 2)))
    expected = (lit_rows[0], lit_rows[-1] + 1, lit_columns[0], lit_columns[-1] + 1)
    assert all(abs(found - there) <= 2 for found, there in zip(bounds(picture), expected, strict=True))


@pytest.mark.parametrize("value", [0, 4, 255])
def test_trim_keeps_an_image_without_border(value: int) -> None:
    assert bounds(np.full((40, 60, 3), value, np.uint8)) == (0, 40, 0, 60)


def test_trim_ignores_a_short_bright_line() -> None:
    picture = retina(300, 200, 100)
    picture[10, 20:22] = 255
    assert bounds(picture) == bounds(retina(300, 200, 100))
    assert difference(np.array(bounds(picture)), np.array([50, 151, 100, 201])) <= 1


def test_trim_fills_the_square_with_the_retina() -> None:
    content = encode(retina(300, 200, 100, (80, 90)), "PNG")
    small = prepare(content, 300, 200, Variant(60, "trim", "keep", "none"))
    assert small[30, 1:59].any(axis=-1).all()
    assert small[1:59, 30].any(axis=-1).all()


def test_circle_blackens_only_pixels_outside_the_disc() -> None:
    content = encode(np.full((80, 100, 3), 200, np.uint8), "PNG")
    pixels = prepare(content, 100, 80, Variant(100, "circle", "keep", "none"))
    y, x = np.mgrid[0:100, 0:100]
    distance = np.hypot(x - 49.5, y - 49.5)
    inside = (distance < 49) & (y >= 10) & (y < 90)
    assert np.all(pixels[inside] == 200)
    assert not pixels[(distance > 51) | (y < 10) | (y >= 90)].any()


def test_ben_graham_subtracts_the_local_mean() -> None:
    picture = colours(90, 90)
    picture[40:44, 40:44] = 255
    pixels = prepare(encode(picture, "PNG"), 90, 90, Variant(90, "none", "keep", "ben_graham"))
    blurred = np.stack([cv2.GaussianBlur(picture[..., c], (0, 0), 45 / 30) for c in range(3)], axis=-1)
    expected = np.clip(4.0 * picture - 4.0 * blurred + 128, 0, 255)
    y, x = np.mgrid[0:90, 0:90]
    distance = np.hypot(x - 44.5, y - 44.5)
    inside, outside = distance < 0.9 * 45 - 1, distance > 0.9 * 45 + 1
    assert difference(pixels[inside], expected[inside]) <= 4
    assert np.all(pixels[outside] == 128)


def test_clahe_raises_local_contrast_and_keeps_hues() -> None:
    picture = (colours(128, 128) // 6 + 100).astype(np.uint8)
    content = encode(picture, "PNG")
    pixels = prepare(content, 128, 128, Variant(128, "none", "keep", "clahe"))
    before, after = (cv2.cvtColor(image, cv2.COLOR_RGB2LAB).astype(float) for image in (picture, pixels))
    assert after[56:72, 56:72, 0].std() > 1.15 * before[56:72, 56:72, 0].std()
    assert np.abs(after[..., 1:] - before[..., 1:]).mean() < 1


class Tree:
    """Organized images with their index, as the previous stage writes them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.rows: dict[str, dict[str, object]] = {}
        self.pixels, self.csv = folder / "shards" / "0.npy", folder / "shards" / "0.csv"

    def add(self, image: str, seed: int, kind: str = "PNG") -> Path:
        picture = np.random.default_rng(seed).integers(0, 256, (12, 16, 3), dtype=np.uint8)
        return self.put(image, encode(picture, kind))

    def put(self, image: str, content: bytes) -> Path:
        path = self.folder / "train" / "class1" / f"{image}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        self.rows[image] = {
            "image": image, "filename": path.name, "grade_name": "class1", "grade": 1, "patient": image, "eye": "left",
            "width": 16, "height": 12, "bytes": len(content), "digest": digest(content),
        }  # fmt: skip
        return path

    def build(
        self,
        *,
        number: int = 0,
        shards: int = 1,
        code: str = "c",
        variant: str = "8-none-keep-none",
        fresh: bool = True,
    ) -> ShardReport:
        index = self.folder / "train" / "index.csv"
        write_table(index, INDEX_COLUMNS, self.rows.values())
        pixels, rows = self.pixels.with_name(f"{number}.npy"), self.csv.with_name(f"{number}.csv")
        if fresh:  # as Snakemake deletes the outputs of a job before it
            pixels.unlink(missing_ok=True)
            rows.unlink(missing_ok=True)
        return build_shard(
            ShardJob(
                index=index,
                number=number,
                shards=shards,
                variant=Variant.parse(variant),
                pixels=pixels,
                rows=rows,
                code=code,
                threads=2,
            )
        )

    def expected(self, variant: str = "8-none-keep-none") -> list[np.ndarray]:
        paths = [self.folder / "train" / "class1" / f"{image}.png" for image in sorted(self.rows)]
        return [prepare(path.read_bytes(), 16, 12, Variant.parse(variant)) for path in paths]

    def check(self) -> None:
        array, names = read_shard(self.pixels, self.csv)
        assert names == sorted(self.rows)
        assert np.array_equal(array, np.array(self.expected(), np.uint8).reshape(-1, 8, 8, 3))


@pytest.fixture
def tree(tmp_path: Path) -> Tree:
    made = Tree(tmp_path)
    for number in range(5):
        made.add(f"{number}_left", number)
    return made


def test_shard_holds_its_images_sorted_by_name(tree: Tree) -> None:
    assert tree.build() == (5, 5, 0)
    tree.check()
    value = zlib.crc32(tree.expected()[0].tobytes())
    first = f"0_left,{tree.rows['0_left']['digest']},{value:08x}"
    assert tree.csv.read_text().splitlines()[:2] == ["image,digest,checksum", first]
    assert sorted(path.name for path in tree.pixels.parent.iterdir()) == [".0.csv.digest", ".cache", "0.csv", "0.npy"]


def test_each_image_is_in_its_shard(tree: Tree) -> None:
    for number in range(4):
        tree.build(number=number, shards=4)
    found = {
        number: read_shard(tree.pixels.with_name(f"{number}.npy"), tree.csv.with_name(f"{number}.csv"))[1]
        for number in range(4)
    }
    assert found == {n: sorted(image for image in tree.rows if shard_of(image, 4) == n) for n in range(4)}


def test_empty_shard_is_written(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    (tmp_path / "train").mkdir()
    for _ in range(2):
        assert tree.build() == (0, 0, 0)
        array, names = read_shard(tree.pixels, tree.csv)
        assert array.shape == (0, 8, 8, 3)
        assert names == []


def test_unchanged_shard_is_linked_from_the_cache(tree: Tree) -> None:
    tree.build()
    before = tree.pixels.stat()
    os.utime(tree.pixels, (1, 1))
    assert tree.build() == (5, 0, 5)
    assert tree.pixels.stat().st_ino == before.st_ino
    assert tree.pixels.stat().st_mtime >= before.st_mtime
    tree.check()


def test_relabelled_image_is_not_decoded_again(tree: Tree) -> None:
    tree.build()
    row = tree.rows["3_left"]
    (tree.folder / "train" / "class4").mkdir()
    shutil.move(tree.folder / "train/class1/3_left.png", tree.folder / "train/class4/3_left.png")
    row.update({"grade_name": "class4", "grade": 4})
    assert tree.build() == (5, 0, 5)


EDITS = st.lists(st.tuples(st.sampled_from(["add", "change", "remove"]), st.integers(0, 7)), max_size=6)


@settings(deadline=None, max_examples=30)
@given(rounds=st.lists(EDITS, min_size=1, max_size=3))
def test_rebuilt_shard_equals_a_new_shard(tmp_path_factory: pytest.TempPathFactory, rounds: list) -> None:
    tree = Tree(tmp_path_factory.mktemp("reuse"))
    for number in range(4):
        tree.add(str(number), number)
    tree.build()
    for seed, edits in enumerate(rounds, start=1):
        before = {image: row["digest"] for image, row in tree.rows.items()}
        for action, number in edits:
            if action == "remove":
                tree.rows.pop(str(number), None)
            elif action == "change" or str(number) not in tree.rows:
                tree.add(str(number), 100 * seed + number)
        same = sum(before.get(image) == row["digest"] for image, row in tree.rows.items())
        assert tree.build() == (len(tree.rows), len(tree.rows) - same, same)
        tree.check()


@pytest.mark.parametrize("change", [{"code": "d"}, {"variant": "8-trim-keep-none"}])
def test_cache_of_other_code_or_variant_is_not_used(tree: Tree, change: dict[str, str]) -> None:
    tree.build()
    assert tree.build(**change) == (5, 5, 0)


def test_shard_that_became_empty_has_no_images(tree: Tree) -> None:
    tree.build()
    tree.rows.clear()
    assert tree.build(code="d") == (0, 0, 0)
    tree.check()


def test_cache_of_another_opencv_is_not_used(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    tree.build()
    monkeypatch.setattr(cv2, "__version__", "0.0")
    assert tree.build() == (5, 5, 0)


@pytest.mark.parametrize("name", ["0.npy", "0.csv", "0.json"])
@pytest.mark.parametrize("damage", ["truncated", "empty", "noise", "missing"])
def test_damaged_cache_is_not_used(tree: Tree, name: str, damage: str) -> None:
    tree.build()
    cached = tree.pixels.parent / ".cache" / name
    content = cached.read_bytes()
    cached.unlink()  # Writing to it would change the linked shard.
    if damage != "missing":
        cached.write_bytes(
            {"truncated": content[: len(content) // 2], "empty": b"", "noise": b"\xff\x00[" * 99}[damage]
        )
    assert tree.build() == (5, 5, 0)
    tree.check()


def test_cached_shard_of_another_size_is_not_used(tree: Tree) -> None:
    tree.build()
    cached = tree.pixels.parent / ".cache" / "0.npy"
    cached.unlink()
    np.save(cached, np.zeros((5, 9, 9, 3), np.uint8))
    assert tree.build() == (5, 5, 0)
    tree.check()


@pytest.mark.parametrize("steps", range(25))
def test_kill_never_pairs_pixels_with_wrong_rows(tree: Tree, monkeypatch: pytest.MonkeyPatch, steps: int) -> None:
    tree.build()
    before = tree.pixels.read_bytes(), tree.csv.read_bytes()
    tree.add("1_left", 77)
    tree.rows.pop("0_left")
    tree.add("9_left", 78)  # The number stays the same, so only the pairing can be wrong.
    left = steps

    def dying(function: Callable[..., None]) -> Callable[..., None]:
        def call(*arguments: object, **options: object) -> None:
            nonlocal left
            left -= 1
            if left < 0:
                raise KeyboardInterrupt
            function(*arguments, **options)

        return call

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", dying(os.replace))
        patch.setattr(os, "link", dying(os.link))
        patch.setattr(Path, "unlink", dying(Path.unlink))
        with contextlib.suppress(KeyboardInterrupt):
            tree.build(fresh=False)
    if tree.csv.exists() and (tree.pixels.read_bytes(), tree.csv.read_bytes()) != before:
        tree.check()
    tree.build()
    tree.check()


def test_cache_is_not_used_without_hard_links(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    tree.build()
    with monkeypatch.context() as patch:
        patch.setattr(os, "link", refuse)
        assert tree.build() == (5, 0, 5)  # copied, as the links existed before
        tree.check()
        assert tree.build() == (5, 5, 0)
        tree.check()


def test_error_lists_all_unusable_images(tree: Tree) -> None:
    tree.put("broken", b"broken")
    tree.put("cut", encode(colours(), "PNG")[:300])
    tree.add("changed", 50).write_bytes(ENCODED["png"])
    tree.add("missing", 51).unlink()
    with pytest.raises(RetinaflowError) as caught:
        tree.build()
    message = str(caught.value)
    assert "index.csv: 4 of its images cannot be used" in message
    assert "broken.png: cannot be decoded, found 6 bytes" in message
    assert "cut.png: cannot be decoded, found 300 bytes" in message
    assert "changed.png: changed since the inventory" in message
    assert "missing.png: cannot be read, No such file" in message
    assert "`exclude` of its data set" in message
    assert "0_left.png" not in message
    assert not tree.pixels.exists()
    assert not tree.csv.exists()


def test_failed_build_keeps_the_cache(tree: Tree) -> None:
    tree.build()
    tree.put("broken", b"broken")
    with pytest.raises(RetinaflowError):
        tree.build()
    tree.rows.pop("broken")
    assert tree.build() == (5, 0, 5)


def test_partial_writes_are_completed(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda descriptor, left, offset: whole(descriptor, left[:50], offset))
    tree.build()
    tree.check()


def test_full_disk_leaves_no_shard_and_keeps_the_cache(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    tree.build()
    tree.add("9_left", 9)
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", Mock(side_effect=OSError(errno.ENOSPC, "No space left on device")))
        with pytest.raises(OSError, match="No space left"):
            tree.build()
    assert not tree.pixels.exists()
    assert not list(tree.pixels.parent.glob(".part-*"))
    assert tree.build() == (6, 1, 5)
    tree.check()


def test_image_names_can_have_any_characters(tmp_path: Path) -> None:
    tree = Tree(tmp_path)
    for seed, image in enumerate(["with blank", 'quote"', "comma,", "é", "-dash", "two\nlines"]):
        tree.add(image, seed)
    assert tree.build() == (6, 6, 0)
    assert tree.build() == (6, 0, 6)
    tree.check()


def test_stamp_names_code_variant_and_opencv(tree: Tree) -> None:
    tree.build(code="abc")
    stamp = json.loads((tree.pixels.parent / ".cache" / "0.json").read_text())
    rows = content_of(tree.csv)
    assert stamp == {"code": "abc", "variant": "8-none-keep-none", "opencv": cv2.__version__, "rows": rows}


def flip(path: Path, place: int) -> None:
    """Flip a bit within the file, as a bad disk does. Hard links to it share the damage."""
    with open(path, "r+b") as file:
        file.seek(place)
        (byte,) = file.read(1)
        file.seek(place)
        file.write(bytes([byte ^ 4]))


@pytest.mark.parametrize("place", [128, 128 + 192 * 2 + 5, 128 + 192 * 5 - 1])
@pytest.mark.parametrize("removed", ["pixels", "rows", "both", "none"])
def test_cache_never_returns_damaged_pixels(tree: Tree, place: int, removed: str) -> None:
    tree.build()
    flip(tree.pixels, place)
    assert tree.pixels.samefile(tree.pixels.parent / ".cache/0.npy")
    if removed in ("pixels", "both"):
        tree.pixels.unlink()
    if removed in ("rows", "both"):
        tree.csv.unlink()
    assert tree.build(fresh=removed == "none") == (5, 1, 4)
    tree.check()
    assert tree.build() == (5, 0, 5)


def test_cache_with_damaged_rows_is_not_used(tree: Tree) -> None:
    """Two names that are exchanged would give each image the pixels of another."""
    tree.build()
    lines = tree.csv.read_bytes().splitlines(keepends=True)
    names = [line.partition(b",")[0] for line in lines]
    swapped = [lines[0], *(line.replace(names[one], names[3 - one]) for one, line in enumerate(lines[1:3], start=1))]
    with open(tree.csv, "r+b") as file:
        file.write(b"".join([*swapped, *lines[3:]]))
    assert tree.build() == (5, 5, 0)
    tree.check()


def test_damage_in_another_image_does_not_decode_all(tree: Tree) -> None:
    tree.build()
    flip(tree.pixels, 130)
    tree.add("5_left", 5)
    assert tree.build() == (6, 2, 4)
    tree.check()


def real_images(pattern: str, count: int) -> list[Path]:
    found = sorted(DATA.glob(pattern))
    if not found:
        pytest.skip(f"no images {pattern} under {DATA}; set RETINAFLOW_DATA")
    return found[:: max(1, len(found) // count)][:count]


@pytest.mark.real
@pytest.mark.parametrize(
    "pattern",
    ["eyepacs-1024/*/*.jpeg", "eyepacs-original/images/*.jpeg", "eyepacs-256/images/*.jpeg", "aptos-224/images/*.png"],
)
@pytest.mark.parametrize("crop", ["none", "trim"])
def test_real_images_are_close_to_their_full_decoding(pattern: str, crop: str) -> None:
    for path in real_images(pattern, 4):
        content = path.read_bytes()
        with Image.open(path) as image:
            width, height = image.size
        small = prepare(content, width, height, Variant(128, crop, "squash", "none"))
        full = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)
        if crop == "trim":
            full = full[retina_box(full)]
        expected = cv2.cvtColor(cv2.resize(full, (128, 128), interpolation=cv2.INTER_AREA), cv2.COLOR_BGR2RGB)
        assert np.abs(small.astype(float) - expected).mean() < 4, path.name  # noise: DCT and area averages differ


@pytest.mark.real
def test_real_retinas_are_found() -> None:
    for path in real_images("eyepacs-1024/*/*.jpeg", 60):
        picture = cv2.imdecode(np.frombuffer(path.read_bytes(), np.uint8), cv2.IMREAD_COLOR)
        rows, columns = retina_box(picture)
        height, width = rows.stop - rows.start, columns.stop - columns.start
        assert 0.6 < height / width < 1.15, path.name
        outside = picture.astype(float).sum() - picture[rows, columns].astype(float).sum()
        assert outside / picture.sum() < 0.02, path.name
