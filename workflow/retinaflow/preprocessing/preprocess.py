"""Turn photographs as the camera left them into shards of square RGB pixels, all made by one recipe."""

import io
import itertools
import json
import logging
import math
import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np
from PIL import Image

from retinaflow.errors import RetinaflowError
from retinaflow.preprocessing.allocator import keep_freed_memory
from retinaflow.preprocessing.shards import ROW_COLUMNS, read_shard, shard_of
from retinaflow.preprocessing.variant import Recipe
from retinaflow.storage.files import digest, whole_file, write_json
from retinaflow.storage.tables import Row, read_table, stream_table, write_table

JPEG_START = b"\xff\xd8\xff"
TIFF_STARTS = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")

# libjpeg leaves out the frequencies that a reduced image cannot show: cheaper than a full decode, and free of aliasing.
# For other formats OpenCV honours these flags by dropping pixels.
DECODE_FLAGS = {
    1: cv2.IMREAD_COLOR,
    2: cv2.IMREAD_REDUCED_COLOR_2,
    4: cv2.IMREAD_REDUCED_COLOR_4,
    8: cv2.IMREAD_REDUCED_COLOR_8,
}

# What counts as lit: brighter than JPEG noise in a black border, and than the halo around an overexposed retina, which
# grows with the mean. On the 960 EyePACS photographs of 1024 px the box hardly moves with either number.
BORDER_NOISE = 8
LIT_SHARE_OF_MEAN = 0.1
# A row or column with fewer lit pixels than this share holds specks; a disc loses less than 0.1 % of its height to it.
SPECKS = 0.02

# What surrounds the retina after each enhancement, and so what pads it.
SURROUND = {"none": 0, "ben_graham": 128, "clahe": 0}

AT_ONCE = 16  # photographs that a thread takes on

Key = tuple[str, str]  # image and digest

INDEX_COLUMNS = ("image", "filename", "grade_name", "width", "height", "digest")


class ShardReport(NamedTuple):
    """How many images a shard holds; how many of them were decoded, how many taken over from the shard before."""

    images: int
    decoded: int
    reused: int


def prepare(content: bytes, width: int, height: int, recipe: Recipe) -> np.ndarray:
    """Decode, crop, resize, enhance and pad one photograph.

    ``content`` is an encoded image (JPEG, PNG, TIFF, BMP; grey, colour, palette or CMYK; 8 or 16 bit), ``width`` and
    ``height`` the pixels its header tells. Returns uint8 RGB (size, size, 3), upright as EXIF says and without alpha.
    Raises ``RetinaflowError``, without a file name, if ``content`` cannot be decoded.
    """
    denominator = reduced_scale(width, height, recipe) if content.startswith(JPEG_START) else 1
    photograph = _crop(_decode(content, denominator), recipe.crop)
    deciding_side = max if recipe.aspect == "keep" else min
    while denominator > 1 and deciding_side(photograph.shape[:2]) < recipe.size:
        denominator //= 2
        photograph = _crop(_decode(content, denominator), recipe.crop)
    small = _enhance(_resize(photograph, recipe), recipe.enhance)
    return cv2.cvtColor(_pad(small, recipe.size, SURROUND[recipe.enhance]), cv2.COLOR_BGR2RGB)


def reduced_scale(width: int, height: int, recipe: Recipe) -> int:
    """The largest divisor of its sides, 1, 2, 4 or 8, by which to decode a JPEG so that enough pixels are left."""
    # A retina's disc fits the height of the photograph, however wide the black to its left and right.
    whole_width_counts = recipe.crop == "none" and recipe.aspect == "keep"
    side = max(width, height) if whole_width_counts else min(width, height)
    return max(scale for scale in DECODE_FLAGS if scale == 1 or math.ceil(side / scale) >= recipe.size)


def _decode(content: bytes, denominator: int) -> np.ndarray:
    """BGR (height, width, 3)."""
    try:
        photograph = cv2.imdecode(np.frombuffer(content, np.uint8), DECODE_FLAGS[denominator])
    except cv2.error:  # nothing at all in the file, or more pixels than OpenCV accepts
        photograph = None
    if photograph is None:
        raise RetinaflowError(f"cannot be decoded, found {len(content)} bytes that are truncated or no photograph")
    if content.startswith(TIFF_STARTS):
        return _without_alpha(content, photograph)
    return photograph


def _without_alpha(content: bytes, photograph: np.ndarray) -> np.ndarray:
    # OpenCV drops the alpha of a PNG, but gets colours that are already multiplied by it from libtiff.
    try:
        with Image.open(io.BytesIO(content)) as image:
            if image.mode == "RGBA":
                return cv2.cvtColor(np.asarray(image.convert("RGB")), cv2.COLOR_RGB2BGR)
    except (OSError, Image.DecompressionBombError):  # Pillow knows fewer kinds of TIFF than OpenCV
        pass
    return photograph


def _crop(photograph: np.ndarray, crop: str) -> np.ndarray:
    if crop == "none":
        return photograph
    retina = photograph[retina_box(photograph)]
    if crop == "trim":
        return retina
    height, width = retina.shape[:2]
    return cv2.bitwise_and(retina, retina, mask=_disc(height, width, max(height, width)))


def retina_box(photograph: np.ndarray) -> tuple[slice, slice]:
    """Rows and columns of a BGR photograph that the retina takes up; all of them where nothing stands out."""
    grey = cv2.cvtColor(photograph, cv2.COLOR_BGR2GRAY)
    threshold = max(BORDER_NOISE, LIT_SHARE_OF_MEAN * cv2.mean(grey)[0])
    lit = cv2.threshold(grey, threshold, 1, cv2.THRESH_BINARY)[1]
    height, width = lit.shape
    rows = np.flatnonzero(cv2.reduce(lit, 1, cv2.REDUCE_SUM, dtype=cv2.CV_32S) > SPECKS * width)
    columns = np.flatnonzero(cv2.reduce(lit, 0, cv2.REDUCE_SUM, dtype=cv2.CV_32S) > SPECKS * height)
    if not len(rows) or not len(columns):
        return slice(0, height), slice(0, width)
    return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)


def _disc(height: int, width: int, diameter: float) -> np.ndarray:
    """Mask (height, width) of 255 in the circle around the centre, 0 outside."""
    # OpenCV takes fixed-point coordinates: here with 4 binary places, and pixel centres on whole numbers.
    centre = (8 * (width - 1), 8 * (height - 1))
    return cv2.circle(np.zeros((height, width), np.uint8), centre, round(8 * diameter), 255, thickness=-1, shift=4)


def _resize(photograph: np.ndarray, recipe: Recipe) -> np.ndarray:
    height, width = photograph.shape[:2]
    target_width = target_height = recipe.size
    if recipe.aspect == "keep":
        scale = recipe.size / max(height, width)
        target_width, target_height = max(1, round(width * scale)), max(1, round(height * scale))
    # Each side by itself: OpenCV only averages areas where both sides shrink.
    shrunk = (min(width, target_width), min(height, target_height))
    if shrunk != (width, height):
        photograph = _shrink(photograph, shrunk)
    if shrunk != (target_width, target_height):
        photograph = cv2.resize(photograph, (target_width, target_height), interpolation=cv2.INTER_CUBIC)
    return photograph


def _shrink(photograph: np.ndarray, target: tuple[int, int]) -> np.ndarray:
    """The means of the areas that the pixels of ``target`` (width, height) cover, nearly as INTER_AREA finds them.

    OpenCV averages blocks of whole pixels several times faster than areas that cut pixels. So each side is brought to a
    whole multiple first, by interpolation that shrinks it by a fifth at most and hardly aliases more than an average.
    """
    height, width = photograph.shape[:2]
    multiples = [max(1, math.ceil(side / end - 1 / 4)) for side, end in zip((width, height), target, strict=True)]
    whole = (target[0] * multiples[0], target[1] * multiples[1])
    photograph = cv2.resize(photograph, whole, interpolation=cv2.INTER_LINEAR)
    return photograph if whole == target else cv2.resize(photograph, target, interpolation=cv2.INTER_AREA)


def _enhance(content: np.ndarray, enhance: str) -> np.ndarray:
    if enhance == "ben_graham":
        return subtract_local_mean(content)
    if enhance == "clahe":
        return equalise_lightness(content)
    return content


def subtract_local_mean(content: np.ndarray) -> np.ndarray:
    """uint8 (height, width, 3), local mean mapped to grey 128; grey too outside 0.9 of the radius.

    B. Graham, "Kaggle Diabetic Retinopathy Detection competition report", 2015: 4 * (image - Gaussian blur) + 128 with
    a sigma of a thirtieth of the radius, and the rim cut off, where the blur has seen the black border.
    """
    height, width = content.shape[:2]
    diameter = max(height, width)
    blurred = cv2.GaussianBlur(content, (0, 0), sigmaX=diameter / 2 / 30)
    enhanced = cv2.addWeighted(content, 4, blurred, -4, 128)
    enhanced[_disc(height, width, 0.9 * diameter) == 0] = 128
    return enhanced


def equalise_lightness(content: np.ndarray) -> np.ndarray:
    """uint8 BGR (height, width, 3), contrast-limited adaptive histogram equalisation (CLAHE) of L in CIE Lab.

    K. Zuiderveld, "Contrast limited adaptive histogram equalization", Graphics Gems IV, 1994; limit 2, 8 x 8 tiles.
    """
    lab = cv2.cvtColor(content, cv2.COLOR_BGR2LAB)
    lab[..., 0] = cv2.createCLAHE(clipLimit=2.0, tileGridSize=(8, 8)).apply(lab[..., 0])
    return cv2.cvtColor(lab, cv2.COLOR_LAB2BGR)


def _pad(content: np.ndarray, size: int, value: int) -> np.ndarray:
    height, width = content.shape[:2]
    top, left = (size - height) // 2, (size - width) // 2
    return cv2.copyMakeBorder(
        content, top, size - height - top, left, size - width - left, cv2.BORDER_CONSTANT, value=(value,) * 3
    )


def build_shard(
    index: Path, number: int, shards: int, recipe: Recipe, pixels: Path, rows: Path, code: str, threads: int
) -> ShardReport:
    """Write shard ``number`` of ``shards``: the photographs of ``index`` that ``shard_of`` puts there, sorted by name.

    ``pixels`` becomes uint8 RGB (n, size, size, 3), ``rows`` a table of image and digest in the same order. Hard links
    to both stay in the folder ``.cache`` beside them, so that the next build decodes only what it does not find there
    with the same digest, made by the same ``code`` (a digest of this library), recipe and OpenCV.

    Raises ``RetinaflowError`` listing every photograph that is missing, has changed since the index was written or
    cannot be decoded.
    """
    cv2.setNumThreads(1)  # the threads below each have a photograph of their own to decode
    keep_freed_memory()
    members = (row for row in stream_table(index, INDEX_COLUMNS) if shard_of(row["image"], shards) == number)
    wanted = sorted(members, key=lambda row: row["image"])
    keys = [_key(row) for row in wanted]
    maker = {"code": code, "variant": recipe.name, "opencv": cv2.__version__}
    kept = _read_kept(pixels, rows, _stamp(pixels, number), maker, recipe.size)

    rows.unlink(missing_ok=True)  # or a kill between the two files would leave new pixels beside old rows
    with whole_file(pixels) as part:
        if not (kept and keys == list(kept) and _link_kept(pixels, part)):
            _fill(part, index, wanted, recipe, kept, threads)
    write_table(rows, ROW_COLUMNS, ({column: row[column] for column in ROW_COLUMNS} for row in wanted))
    _keep(pixels, rows, _stamp(pixels, number), maker)
    reused = sum(key in kept for key in keys)
    return ShardReport(images=len(wanted), decoded=len(wanted) - reused, reused=reused)


def _key(row: Row) -> Key:
    return row["image"], row["digest"]


def _fill(
    part: Path, index: Path, wanted: list[Row], recipe: Recipe, kept: dict[Key, np.ndarray], threads: int
) -> None:
    """Write the pixels of ``wanted`` to ``part``, from ``kept`` where it has them."""
    # Written and not mapped: a page takes a fault to map, counts as memory, and kills the process if the disk is full.
    with open(part, "wb") as file:
        shape = (len(wanted), recipe.size, recipe.size, 3)
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        file.flush()
        start, photograph_bytes = file.tell(), math.prod(shape[1:])

        def place(positions: range) -> list[str]:
            failures = []
            for position in positions:
                row = wanted[position]
                pixels = kept.get(_key(row))
                try:
                    if pixels is None:
                        pixels = load(index.parent / row["grade_name"] / row["filename"], row, recipe)
                except RetinaflowError as error:
                    failures.append(str(error))
                else:
                    _write_at(file.fileno(), start + position * photograph_bytes, pixels)
            return failures

        some = [range(first, min(first + AT_ONCE, len(wanted))) for first in range(0, len(wanted), AT_ONCE)]
        with ThreadPoolExecutor(threads) as pool:
            failures = list(itertools.chain.from_iterable(pool.map(place, some)))
    if failures:
        raise RetinaflowError(
            f"{index}: {len(failures)} of its photographs cannot be used:\n"
            + "\n".join(failures)
            + "\nRemove what cannot be decoded, or list it under `exclude` of its data set; put back what is missing; "
            "`touch` what has changed, for the inventory to read it again. Then run again."
        )


def _write_at(descriptor: int, offset: int, pixels: np.ndarray) -> None:
    left = pixels.data.cast("B")
    while left:  # short of space, the system writes a part before it says so
        written = os.pwrite(descriptor, left, offset)
        offset, left = offset + written, left[written:]


def load(path: Path, row: Mapping[str, str], recipe: Recipe) -> np.ndarray:
    """What ``prepare`` makes of the photograph ``path``, whose ``width``, ``height`` and ``digest`` are in ``row``.

    Raises ``RetinaflowError`` if it cannot be read or decoded, or has another digest.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RetinaflowError(f"{path}: cannot be read, {error.strerror}") from error
    found = digest(content)
    if found != row["digest"]:
        raise RetinaflowError(f"{path}: changed since the inventory, digest {found} instead of {row['digest']}")
    try:
        return prepare(content, int(row["width"]), int(row["height"]), recipe)
    except RetinaflowError as error:
        raise RetinaflowError(f"{path}: {error}") from error


# A workflow engine deletes the outputs of a job before it runs. What a build may reuse therefore has a second name, in
# a folder of its own: pixels and rows, named as they are, and a stamp that says what made them.


def _kept(path: Path) -> Path:
    return path.parent / ".cache" / path.name


def _stamp(pixels: Path, number: int) -> Path:
    return _kept(pixels).with_name(f"{number}.json")


def _read_kept(pixels: Path, rows: Path, stamp: Path, maker: dict[str, str], size: int) -> dict[Key, np.ndarray]:
    """Pixels (size, size, 3) by image and digest, in the order of the kept shard; empty if there is none to rely on."""
    try:
        if json.loads(stamp.read_text(encoding="utf-8")) != maker:
            return {}
        array, _ = read_shard(_kept(pixels), _kept(rows))
        keys = [_key(row) for row in read_table(_kept(rows), ROW_COLUMNS)]
    except (OSError, ValueError, RetinaflowError):
        return {}
    return dict(zip(keys, array, strict=True)) if array.shape[1:3] == (size, size) else {}


def _link_kept(pixels: Path, part: Path) -> bool:
    try:
        os.link(_kept(pixels), part)
        os.utime(part)
    except OSError:  # nothing kept, or the file is another user's, which Linux does not let one link to
        part.unlink(missing_ok=True)
        return False
    return True


def _keep(pixels: Path, rows: Path, stamp: Path, maker: dict[str, str]) -> None:
    # The stamp goes first and comes last: whenever this is cut short, pixels and rows that may not match have none.
    stamp.unlink(missing_ok=True)
    try:
        for path in (pixels, rows):
            with whole_file(_kept(path)) as part:
                os.link(path, part)
    except OSError as error:
        logging.getLogger(__name__).info("%s is not kept for reuse: %s", pixels, error)
        return
    write_json(stamp, maker)
