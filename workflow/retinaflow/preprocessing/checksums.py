"""Whether the table of a shard has checksums of its pixels."""

import csv
from pathlib import Path

from retinaflow.preprocessing.shards import CHECKSUM_COLUMN


def has_checksums(rows: Path) -> bool:
    """Return whether the table ``rows`` of a shard has checksums, which the first versions did not write.

    Column names are quoted where the name of an image needs it.
    """
    with open(rows, encoding="utf-8", errors="surrogateescape", newline="") as file:
        return CHECKSUM_COLUMN in next(csv.reader(file), [])
