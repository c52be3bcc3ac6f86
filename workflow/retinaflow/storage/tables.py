"""The CSV tables that stages hand to each other: UTF-8, comma, header row, every value a string."""

import csv
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal

from retinaflow.errors import RetinaflowError
from retinaflow.storage.files import whole_file

Row = dict[str, str]

REBUILD = "Delete the file and run again to rebuild it."
SHOWN = 20

# File names are bytes on disk: what is not UTF-8 passes through a table unchanged.
ENCODING = {"encoding": "utf-8", "errors": "surrogateescape"}


def read_table(path: str | os.PathLike[str], columns: Sequence[str] = ()) -> list[Row]:
    """Read a table that a stage of this workflow wrote.

    Raises ``RetinaflowError`` if the file cannot be read, one of ``columns`` is missing, two have one name, a row is
    shorter or longer than the header or a quote is never closed.
    """
    return list(stream_table(path, columns))


def stream_table(path: str | os.PathLike[str], columns: Sequence[str] = ()) -> Iterator[Row]:
    """The rows that ``read_table`` reads, one after the other: for those who need few of many."""
    try:
        with open(path, newline="", **ENCODING) as file:
            # Strict, or a quote that a damaged file lacks would swallow all rows after it.
            yield from _rows(path, csv.DictReader(file, strict=True), columns)
    except (OSError, csv.Error) as error:
        raise RetinaflowError(f"{path}: cannot be read as a table ({error}). {REBUILD}") from error


def _rows(path: str | os.PathLike[str], reader: "csv.DictReader[str]", columns: Sequence[str]) -> Iterator[Row]:
    header = list(reader.fieldnames or ())
    if wrong := [column for column in columns if header.count(column) != 1]:
        fault = "is there twice" if wrong[0] in header else "is missing"
        found = ", ".join(header[:SHOWN])[:200] or "an empty file"
        raise RetinaflowError(f"{path}: column {wrong[0]!r} {fault}; found {found}. {REBUILD}")
    for number, row in enumerate(reader, start=1):
        if None in row or None in row.values():
            raise RetinaflowError(
                f"{path}: row {number} does not have the {len(header)} values of the header. {REBUILD}"
            )
        yield row


def write_table(path: str | os.PathLike[str], columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> None:
    """Write ``rows`` under a header of ``columns``; a row with any other key is a ``ValueError``."""
    rows = list(rows)
    # A carriage return inside a value is a line end to a reader unless quoted, which the csv module forgets to do.
    returns = any("\r" in str(value) for row in rows for value in row.values())
    with whole_file(path) as part, open(part, "w", newline="", **ENCODING) as file:
        quoting: Literal[0, 1] = csv.QUOTE_ALL if returns else csv.QUOTE_MINIMAL
        writer = csv.DictWriter(file, columns, lineterminator="\n", quoting=quoting)
        writer.writeheader()
        writer.writerows(rows)
