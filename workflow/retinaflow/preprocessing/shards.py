"""Shards: which photograph belongs to which, and reading one back."""

import hashlib
from pathlib import Path

import numpy as np

from retinaflow.errors import RetinaflowError
from retinaflow.storage.tables import REBUILD, read_table

ROW_COLUMNS = ("image", "digest")


def shard_of(image: str, shards: int) -> int:
    """The number, 0 to ``shards`` - 1, of the shard that ``image`` belongs to.

    Jump consistent hash (Lamping and Veach 2014, arXiv 1406.2294, figure 1) of the BLAKE2b-64 of the name: an image
    stays where it is whatever other images there are, and one shard more moves only the 1/n that it takes over.
    """
    key = int.from_bytes(hashlib.blake2b(image.encode(errors="surrogateescape"), digest_size=8).digest(), "little")
    shard, jump = -1, 0
    while jump < shards:
        shard = jump
        key = (key * 2862933555777941757 + 1) % 2**64
        jump = int((shard + 1) * (2**31 / ((key >> 33) + 1)))
    return shard


def read_shard(pixels: Path, rows: Path) -> tuple[np.memmap, list[str]]:
    """The pixels of a shard, uint8 RGB (n, size, size, 3), mapped read-only from the file, and its n image names.

    Raises ``RetinaflowError`` naming the file if either is missing, truncated or not what this workflow writes, or if
    they do not belong together.
    """
    try:
        array = np.load(pixels, mmap_mode="r", allow_pickle=False)
    except Exception as error:  # NumPy has no one exception for a file that is not an array
        raise RetinaflowError(f"{pixels}: cannot be read as an array of pixels ({error}). {REBUILD}") from error
    if not isinstance(array, np.memmap) or array.dtype != np.uint8 or not _square(array):
        found = f"{array.dtype} {array.shape}" if isinstance(array, np.memmap) else "an archive of arrays"
        raise RetinaflowError(f"{pixels}: found {found}; expected uint8 (n, size, size, 3) in C order. {REBUILD}")
    expected = array.offset + array.nbytes
    if (size := pixels.stat().st_size) != expected:
        raise RetinaflowError(f"{pixels}: {size} bytes, expected {expected} for uint8 {array.shape}. {REBUILD}")
    return array, read_images(rows, pixels, len(array))


def read_images(rows: Path, array: Path, count: int) -> list[str]:
    """The names of the ``count`` images of the file ``array``, by the table ``rows`` that is written beside it.

    Raises ``RetinaflowError`` if the table is missing, damaged or has not as many rows.
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
