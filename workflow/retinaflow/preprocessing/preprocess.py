"""Preprocessing, from camera images to shards of square RGB images. A shard has one variant."""

import itertools
import json
import logging
import math
import os
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import cv2
import numpy as np

from retinaflow.data.decoding import DECODE_FLAGS, decode_image
from retinaflow.data.retina import find_retina
from retinaflow.errors import RetinaflowError
from retinaflow.preprocessing.allocator import keep_freed_memory
from retinaflow.preprocessing.shards import CHECKSUM_COLUMN, ROW_COLUMNS, checksum, open_shard, shard_of, shard_rows
from retinaflow.preprocessing.variant import Variant
from retinaflow.storage.files import digest, whole_file, write_json
from retinaflow.storage.integrity import content_of
from retinaflow.storage.tables import Row, stream_table, write_table

JPEG_START = b"\xff\xd8\xff"

# Pixels above this share of the mean are inside the crop. The halo around an overexposed retina gets brighter with the
# mean, but stays below this share. On 960 EyePACS images of 1024 px, other shares hardly change the crop.
CROP_SHARE = 0.1

# Pixel value around the retina after each enhancement. The padding has the same value.
SURROUND = {"none": 0, "ben_graham": 128, "clahe": 0}

IMAGES_PER_TASK = 16  # Images that a thread decodes in one task.

Key = tuple[str, str]  # image and digest
Cached = tuple[np.ndarray, int]  # pixels and their checksum

# Columns of the index of a split that preprocessing reads.
IMAGE_COLUMNS = ("image", "filename", "grade_name", "width", "height", "digest")


class ShardReport(NamedTuple):
    """Number of images in a shard, of decoded images, and of images reused from the cache."""

    images: int
    decoded: int
    reused: int


def prepare(
    content: bytes,
    width: int,
    height: int,
    variant: Variant,
    *,
    decode: Callable[[bytes, int], np.ndarray] = decode_image,
) -> np.ndarray:
    """Decode, crop, resize, enhance and pad one image.

    Args:
        content: Encoded image, as ``decode_image`` reads it.
        width: Width in pixels, from the header.
        height: Height in pixels, from the header.
        variant: Preprocessing variant.
        decode: Function with the parameters and the result of ``decode_image``.

    Returns:
        uint8 RGB (size, size, 3), upright by EXIF and without alpha.

    Raises:
        RetinaflowError: ``content`` cannot be decoded. The message has no file name.
    """
    denominator = reduced_scale(width, height, variant) if content.startswith(JPEG_START) else 1
    image = _crop(decode(content, denominator), variant.crop)
    deciding_side = max if variant.aspect == "keep" else min
    while denominator > 1 and deciding_side(image.shape[:2]) < variant.size:
        denominator //= 2
        image = _crop(decode(content, denominator), variant.crop)
    small = _enhance(_resize(image, variant), variant.enhance)
    return cv2.cvtColor(_pad(small, variant.size, SURROUND[variant.enhance]), cv2.COLOR_BGR2RGB)


def reduced_scale(width: int, height: int, variant: Variant) -> int:
    """Return the largest reduction of both sides (1, 2, 4 or 8) at which a decoded JPEG has enough pixels."""
    # The retina fills the height, and the black at its left and right can be wide. So the shorter side counts.
    whole_width_counts = variant.crop == "none" and variant.aspect == "keep"
    side = max(width, height) if whole_width_counts else min(width, height)
    return max(scale for scale in DECODE_FLAGS if scale == 1 or math.ceil(side / scale) >= variant.size)


def _crop(image: np.ndarray, crop: str) -> np.ndarray:
    if crop == "none":
        return image
    retina = image[retina_box(image)]
    if crop == "trim":
        return retina
    height, width = retina.shape[:2]
    return cv2.bitwise_and(retina, retina, mask=_disc(height, width, max(height, width)))


def retina_box(image: np.ndarray) -> tuple[slice, slice]:
    """Return the rows and columns of the retina in a BGR image, or all of them if no pixel is lit."""
    grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    height, width = grey.shape
    return find_retina(grey, mean=cv2.mean(grey)[0], share=CROP_SHARE).box or (slice(0, height), slice(0, width))


def _disc(height: int, width: int, diameter: float) -> np.ndarray:
    """Mask (height, width) of 255 in the circle around the centre, 0 outside."""
    # OpenCV reads fixed-point coordinates, here with 4 binary places. Pixel centres are at whole numbers.
    centre = (8 * (width - 1), 8 * (height - 1))
    return cv2.circle(np.zeros((height, width), np.uint8), centre, round(8 * diameter), 255, thickness=-1, shift=4)


def _resize(image: np.ndarray, variant: Variant) -> np.ndarray:
    height, width = image.shape[:2]
    target_width = target_height = variant.size
    if variant.aspect == "keep":
        scale = variant.size / max(height, width)
        target_width, target_height = max(1, round(width * scale)), max(1, round(height * scale))
    # Resize each side by itself: OpenCV averages areas only if both sides shrink.
    shrunk = (min(width, target_width), min(height, target_height))
    if shrunk != (width, height):
        image = _shrink(image, shrunk)
    if shrunk != (target_width, target_height):
        image = cv2.resize(image, (target_width, target_height), interpolation=cv2.INTER_CUBIC)
    return image


def _shrink(image: np.ndarray, target: tuple[int, int]) -> np.ndarray:
    """Average the areas that the pixels of ``target`` (width, height) cover, nearly as INTER_AREA does.

    OpenCV averages blocks of whole pixels several times faster than areas that cut pixels. So interpolation first
    shrinks each side to a whole multiple. This step shrinks by a fifth at most, so it hardly adds aliasing.
    """
    height, width = image.shape[:2]
    multiples = [max(1, math.ceil(side / end - 1 / 4)) for side, end in zip((width, height), target, strict=True)]
    whole = (target[0] * multiples[0], target[1] * multiples[1])
    image = cv2.resize(image, whole, interpolation=cv2.INTER_LINEAR)
    return image if whole == target else cv2.resize(image, target, interpolation=cv2.INTER_AREA)


def _enhance(content: np.ndarray, enhance: str) -> np.ndarray:
    if enhance == "ben_graham":
        return subtract_local_mean(content)
    if enhance == "clahe":
        return equalise_lightness(content)
    return content


def subtract_local_mean(content: np.ndarray) -> np.ndarray:
    """Map the local mean to grey 128. Pixels outside 0.9 of the radius become grey. Returns uint8 (height, width, 3).

    The result is 4 * (image - Gaussian blur) + 128 with a sigma of a thirtieth of the radius. The rim is cut off,
    because the blur includes the black border there. Source: B. Graham, "Kaggle Diabetic Retinopathy Detection
    competition report", 2015.
    """
    height, width = content.shape[:2]
    diameter = max(height, width)
    blurred = cv2.GaussianBlur(content, (0, 0), sigmaX=diameter / 2 / 30)
    enhanced = cv2.addWeighted(content, 4, blurred, -4, 128)
    enhanced[_disc(height, width, 0.9 * diameter) == 0] = 128
    return enhanced


def equalise_lightness(content: np.ndarray) -> np.ndarray:
    """Equalise L in CIE Lab of uint8 BGR (height, width, 3) with limited contrast (CLAHE).

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


@dataclass(frozen=True)
class ShardJob:
    """One shard to build.

    Args:
        index: Index table of an organized split, with the columns ``IMAGE_COLUMNS``.
        number: Number of the shard, 0 to ``shards`` - 1.
        shards: Number of shards of the split.
        variant: Preprocessing variant.
        pixels: Output file, uint8 RGB (n, size, size, 3).
        rows: Output table of image, digest and checksum of the pixels, in the same order.
        code: Digest of this library's code. A shard made by other code is not reused.
        threads: Number of threads that decode.
    """

    index: Path
    number: int
    shards: int
    variant: Variant
    pixels: Path
    rows: Path
    code: str
    threads: int = 1


def build_shard(job: ShardJob) -> ShardReport:
    """Write one shard: the images that ``shard_of`` assigns to it, sorted by name.

    Hard links to both outputs stay in the folder ``.cache`` beside them. The next build decodes only images that are
    not cached with the same digest, code, variant and version of OpenCV, or whose cached pixels are damaged.

    Returns:
        The number of images, decoded and reused.

    Raises:
        RetinaflowError: Images are missing, have changed since the index was written or cannot be decoded. The message
            lists all of them.
    """
    cv2.setNumThreads(1)  # Each of the threads below decodes another image.
    keep_freed_memory()
    rows = stream_table(job.index, IMAGE_COLUMNS)
    members = (row for row in rows if shard_of(row["image"], job.shards) == job.number)
    wanted = sorted(members, key=lambda row: row["image"])
    keys = [_key(row) for row in wanted]
    cache = _Cache(job)
    cached = cache.read()

    job.rows.unlink(missing_ok=True)  # Otherwise a kill between the two files leaves new pixels beside old rows.
    with whole_file(job.pixels) as part:
        if cached and keys == list(cached) and all(map(_whole, cached.values())) and cache.link(part):
            checksums, decoded = [value for _, value in cached.values()], 0
        else:
            checksums, decoded = _fill(part, job, wanted, cached)
    write_table(job.rows, (*ROW_COLUMNS, CHECKSUM_COLUMN), shard_rows(keys, checksums))
    cache.write()
    return ShardReport(images=len(wanted), decoded=decoded, reused=len(wanted) - decoded)


def _key(row: Row) -> Key:
    return row["image"], row["digest"]


def _whole(cached: Cached) -> bool:
    """Whether cached pixels have their checksum."""
    pixels, expected = cached
    return checksum(pixels) == expected


def _fill(part: Path, job: ShardJob, wanted: list[Row], cached: dict[Key, Cached]) -> tuple[list[int], int]:
    """Write the pixels of the ``wanted`` images to the file ``part``. Cached pixels are reused.

    Returns:
        The checksum of the pixels of each image, and the number of decoded images.
    """
    checksums, decoded = [0] * len(wanted), [False] * len(wanted)
    # The file is not memory-mapped: each mapped page costs a fault and memory, and a full disk would kill the process.
    with open(part, "wb") as file:
        shape = (len(wanted), job.variant.size, job.variant.size, 3)
        np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        file.flush()
        start, image_bytes = file.tell(), math.prod(shape[1:])

        def write(positions: range) -> list[str]:
            failures = []
            for position in positions:
                row = wanted[position]
                found = cached.get(_key(row))
                try:
                    if found is not None and _whole(found):
                        pixels, checksums[position] = found
                    else:
                        pixels = load_image(job.index.parent / row["grade_name"] / row["filename"], row, job.variant)
                        checksums[position], decoded[position] = checksum(pixels), True
                except RetinaflowError as error:
                    failures.append(str(error))
                else:
                    _write_at(file.fileno(), start + position * image_bytes, pixels)
            return failures

        chunks = [
            range(first, min(first + IMAGES_PER_TASK, len(wanted))) for first in range(0, len(wanted), IMAGES_PER_TASK)
        ]
        with ThreadPoolExecutor(job.threads) as pool:
            failures = list(itertools.chain.from_iterable(pool.map(write, chunks)))
    if failures:
        raise RetinaflowError(
            f"{job.index}: {len(failures)} of its images cannot be used:\n"
            + "\n".join(failures)
            + "\nRemove images that cannot be decoded, or list each under `exclude` of its data set. Restore missing "
            "images. `touch` changed images, so that the inventory reads them again. Then run again."
        )
    return checksums, sum(decoded)


def _write_at(descriptor: int, offset: int, pixels: np.ndarray) -> None:
    left = pixels.data.cast("B")
    while left:  # On a full disk, the system writes a part before it reports an error.
        written = os.pwrite(descriptor, left, offset)
        offset, left = offset + written, left[written:]


def load_image(path: Path, row: Mapping[str, str], variant: Variant) -> np.ndarray:
    """Read and prepare one image.

    Args:
        path: Image file.
        row: Its row in the index, with ``width``, ``height`` and ``digest``.
        variant: Preprocessing variant.

    Returns:
        uint8 RGB (size, size, 3).

    Raises:
        RetinaflowError: The file cannot be read or decoded, or has another digest.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise RetinaflowError(f"{path}: cannot be read, {error.strerror}") from error
    found = digest(content)
    if found != row["digest"]:
        raise RetinaflowError(f"{path}: changed since the inventory, digest {found} instead of {row['digest']}")
    try:
        return prepare(content, int(row["width"]), int(row["height"]), variant)
    except RetinaflowError as error:
        raise RetinaflowError(f"{path}: {error}") from error


class _Cache:
    """Cached files of a shard, in the folder ``.cache`` beside it: pixels, rows, and a stamp.

    Snakemake deletes the outputs of a job before the job runs. So the files for reuse are hard links in a separate
    folder. The stamp records the code, the variant and the version of OpenCV that made them, and the content of the
    row table. A link shares the content of the output, with all damage to it. So cached pixels are reused only with
    their checksum.
    """

    def __init__(self, job: ShardJob) -> None:
        self.job = job
        self.folder = job.pixels.parent / ".cache"
        self.pixels, self.rows = self.folder / job.pixels.name, self.folder / job.rows.name
        self.stamp = self.folder / f"{job.number}.json"
        self.maker = {"code": job.code, "variant": job.variant.name, "opencv": cv2.__version__}

    def read(self) -> dict[Key, Cached]:
        """Return the cached pixels (size, size, 3) by image and digest, in the order of the cached shard.

        They may be damaged.

        Empty if the cache is missing or damaged, or if other code, another variant or another OpenCV made it.
        """
        size = self.job.variant.size
        try:
            if json.loads(self.stamp.read_text(encoding="utf-8")) != {**self.maker, "rows": content_of(self.rows)}:
                return {}
            shard = open_shard(self.pixels, self.rows)
        except (OSError, ValueError, RetinaflowError):
            return {}
        if shard.array.shape[1:3] != (size, size):
            return {}
        cached = zip(shard.array, shard.checksums, strict=True)
        return dict(zip(zip(shard.names, shard.digests, strict=True), cached, strict=True))

    def link(self, part: Path) -> bool:
        """Link the cached pixels to ``part``, with the current time. Return whether that is possible."""
        try:
            os.link(self.pixels, part)
            os.utime(part)
        except OSError:  # Nothing is cached, or Linux refuses to link the file of another user.
            part.unlink(missing_ok=True)
            return False
        return True

    def write(self) -> None:
        """Link the outputs of the job into the cache. A failure is logged and changes nothing else."""
        # Delete the stamp first and write it last. After an interruption, files that may not match have no stamp.
        self.stamp.unlink(missing_ok=True)
        try:
            for source, target in ((self.job.pixels, self.pixels), (self.job.rows, self.rows)):
                with whole_file(target) as part:
                    os.link(source, part)
        except OSError as error:
            logging.getLogger(__name__).info("%s is not cached: %s", self.job.pixels, error)
            return
        write_json(self.stamp, {**self.maker, "rows": content_of(self.rows)})
