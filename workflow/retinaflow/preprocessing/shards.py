"""Shards: the shard of each image, and reading of shards."""

import hashlib
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from retinaflow.errors import RetinaflowError
from retinaflow.storage.integrity import REBUILD
from retinaflow.storage.tables import Row, read_table

ROW_COLUMNS = ("image", "digest")
CHECKSUM_COLUMN = "checksum"
NO_CHECKSUM = -1  # of images in shards of earlier versions


class Shard(NamedTuple):
    """A shard.

    Attributes:
        array: Pixels, uint8 RGB (n, size, size, 3), mapped read-only from the file.
        names: Names of the n images.
        digests: Digests of their files.
        checksums: ``checksum`` of the pixels of each image, or ``NO_CHECKSUM``.
    """

    array: np.memmap
    names: list[str]
    digests: list[str]
    checksums: list[int]


def checksum(pixels: np.ndarray) -> int:
    """Return the CRC-32 of contiguous pixels. It takes a third of a millisecond for a megabyte."""
    return zlib.crc32(pixels.data.cast("B"))


def verify_pixels(pixels: np.ndarray, expected: int, *, image: str, file: str) -> None:
    """Compare the pixels of an image with their checksum.

    Args:
        pixels: Contiguous pixels.
        expected: Their ``checksum`` in the table of the shard, or ``NO_CHECKSUM``.
        image: Name of the image, for messages.
        file: Pixel file of the shard, for messages.

    Raises:
        RetinaflowError: The pixels differ.
    """
    if expected != NO_CHECKSUM and checksum(pixels) != expected:
        raise RetinaflowError(
            f"{file}: the pixels of {image!r} differ from their checksum, so this file is damaged. {REBUILD}"
        )


def shard_of(image: str, shards: int) -> int:
    """Return the number of the shard that ``image`` belongs to, 0 to ``shards`` - 1.

    It is the jump consistent hash (Lamping and Veach 2014, arXiv 1406.2294, figure 1) of the BLAKE2b-64 of the name. An
    image keeps its shard when other images are added or removed. Another shard moves only the 1/n of images that it
    takes over.
    """
    key = int.from_bytes(hashlib.blake2b(image.encode(errors="surrogateescape"), digest_size=8).digest(), "little")
    shard, jump = -1, 0
    while jump < shards:
        shard = jump
        key = (key * 2862933555777941757 + 1) % 2**64
        jump = int((shard + 1) * (2**31 / ((key >> 33) + 1)))
    return shard


def read_shard(pixels: Path, rows: Path) -> tuple[np.memmap, list[str]]:
    """Return the pixels and the names of ``open_shard``."""
    shard = open_shard(pixels, rows)
    return shard.array, shard.names


def open_shard(pixels: Path, rows: Path) -> Shard:
    """Open a shard. Its pixels are not read and not yet compared with their checksums.

    Args:
        pixels: File of pixels.
        rows: Table of image and digest.

    Raises:
        RetinaflowError: A file is missing, truncated or not written by this workflow, or the files do not belong
            together. The message names the file.
    """
    try:
        array = np.load(pixels, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # NumPy raises many types for a file that is not an array.
        raise RetinaflowError(f"{pixels}: cannot be read as an array of pixels ({error}). {REBUILD}") from error
    if not isinstance(array, np.memmap) or array.dtype != np.uint8 or not _square(array):
        found = f"{array.dtype} {array.shape}" if isinstance(array, np.memmap) else "an archive of arrays"
        raise RetinaflowError(f"{pixels}: found {found}; expected uint8 (n, size, size, 3) in C order. {REBUILD}")
    expected = array.offset + array.nbytes
    if (size := pixels.stat().st_size) != expected:
        raise RetinaflowError(f"{pixels}: {size} bytes, expected {expected} for uint8 {array.shape}. {REBUILD}")
    table = _read_rows(rows, pixels, len(array))
    checksums = [_parse_checksum(rows, row) for row in table]
    return Shard(array, [row["image"] for row in table], [row["digest"] for row in table], checksums)


def read_image_names(rows: Path, array: Path, count: int) -> list[str]:
    """Read the names of the images of a file.

    Args:
        rows: Table with a row for each image.
        array: File that the table belongs to, for messages.
        count: Number of images in ``array``.

    Raises:
        RetinaflowError: The table is missing, damaged or has another number of rows.
    """
    return [row["image"] for row in _read_rows(rows, array, count)]


def _read_rows(rows: Path, array: Path, count: int) -> list[Row]:
    table = read_table(rows, ROW_COLUMNS)
    if len(table) != count:
        raise RetinaflowError(
            f"{array}: found {count} images, but {len(table)} rows in {rows}; expected as many. "
            "Delete both files and run again to rebuild them."
        )
    return table


def _parse_checksum(rows: Path, row: Row) -> int:
    text = row.get(CHECKSUM_COLUMN)
    try:
        return NO_CHECKSUM if text is None else int(text, 16)
    except ValueError as error:
        raise RetinaflowError(
            f"{rows}: image {row['image']!r} has the checksum {text!r}, expected eight hexadecimal digits. {REBUILD}"
        ) from error


def shard_rows(keys: Sequence[tuple[str, str]], checksums: Sequence[int]) -> list[dict[str, str]]:
    """Return the rows of the table of a shard: image, digest and checksum of each image."""
    return [
        {"image": image, "digest": digest, CHECKSUM_COLUMN: f"{value:08x}"}
        for (image, digest), value in zip(keys, checksums, strict=True)
    ]


def _square(array: np.ndarray) -> bool:
    return array.ndim == 4 and array.shape[1] == array.shape[2] and array.shape[3] == 3 and array.flags.c_contiguous
