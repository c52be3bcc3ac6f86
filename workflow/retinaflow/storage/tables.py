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
    """Read a table that a stage of this workflow wrote, as rows. See ``retinaflow.data.frames`` for a data frame.

    Raises ``RetinaflowError`` if the file cannot be read, one of ``columns`` is missing, two have one name, a row is
    shorter or longer than the header or a quote is never closed.
    """
    return list(stream_table(path, columns))


def stream_table(path: str | os.PathLike[str], columns: Sequence[str] = ()) -> Iterator[Row]:
    """Yield the rows that ``read_table`` returns, without holding all of them in memory."""
    values = stream_values(path, columns)
    header = next(values)
    yield from (dict(zip(header, row, strict=True)) for row in values)


def stream_values(path: str | os.PathLike[str], columns: Sequence[str] = ()) -> Iterator[list[str]]:
    """Yield the header, then the values of each row, and raise as ``read_table`` does."""
    try:
        with open(path, newline="", **ENCODING) as file:
            # Strict, or a quote that a damaged file lacks would swallow all rows after it.
            yield from _checked(path, csv.reader(file, strict=True), columns)
    except (OSError, csv.Error) as error:
        raise RetinaflowError(f"{path}: cannot be read as a table ({error}). {REBUILD}") from error


def _checked(path: str | os.PathLike[str], lines: Iterator[list[str]], columns: Sequence[str]) -> Iterator[list[str]]:
    header = next(lines, [])
    if wrong := [column for column in columns if header.count(column) != 1]:
        fault = "is there twice" if wrong[0] in header else "is missing"
        found = ", ".join(header[:SHOWN])[:200] or "an empty file"
        raise RetinaflowError(f"{path}: column {wrong[0]!r} {fault}; found {found}. {REBUILD}")
    yield header
    for number, row in enumerate(filter(None, lines), start=1):
        if len(row) != len(header):
            raise RetinaflowError(
                f"{path}: row {number} does not have the {len(header)} values of the header. {REBUILD}"
            )
        yield row


def write_table(path: str | os.PathLike[str], columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> None:
    """Write ``rows`` under a header of ``columns``; a row with any other key is a ``ValueError``."""
    values = []
    for row in rows:
        if unknown := row.keys() - set(columns):
            raise ValueError(f"{path}: a row has {sorted(unknown)}, which is none of the columns {list(columns)}")
        values.append([row.get(column, "") for column in columns])
    write_values(path, columns, values)


def write_values(path: str | os.PathLike[str], columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Write the values of each row, in the order of ``columns``, below the header."""
    # A carriage return inside a value is a line end to a reader unless quoted, which the csv module forgets to do.
    returns = any("\r" in str(value) for row in rows for value in row)
    with whole_file(path) as part, open(part, "w", newline="", **ENCODING) as file:
        quoting: Literal[0, 1] = csv.QUOTE_ALL if returns else csv.QUOTE_MINIMAL
        writer = csv.writer(file, lineterminator="\n", quoting=quoting)
        writer.writerow(columns)
        writer.writerows(rows)
