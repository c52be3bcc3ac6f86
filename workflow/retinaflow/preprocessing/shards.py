"""Shards: the shard of each image, and reading of shards."""

import hashlib
from pathlib import Path

import numpy as np

from retinaflow.errors import RetinaflowError
from retinaflow.storage.tables import REBUILD, read_table

ROW_COLUMNS = ("image", "digest")


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
    """Read a shard.

    Args:
        pixels: File of pixels.
        rows: Table of image and digest.

    Returns:
        Pixels, uint8 RGB (n, size, size, 3), mapped read-only from the file, and the names of the n images.

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
    return array, read_image_names(rows, pixels, len(array))


def read_image_names(rows: Path, array: Path, count: int) -> list[str]:
    """Read the names of the images of a file.

    Args:
        rows: Table with a row for each image.
        array: File that the table belongs to, for messages.
        count: Number of images in ``array``.

    Raises:
        RetinaflowError: The table is missing, damaged or has another number of rows.
    """
    names = [row["image"] for row in read_table(rows, ROW_COLUMNS)]
    if len(names) != count:
        raise RetinaflowError(
            f"{array}: found {count} images, but {len(names)} rows in {rows}; expected as many. "
            "Delete both files and run again to rebuild them."
        )
    return names


def _square(array: np.ndarray) -> bool:
    return array.ndim == 4 and array.shape[1] == array.shape[2] and array.shape[3] == 3 and array.flags.c_contiguous
