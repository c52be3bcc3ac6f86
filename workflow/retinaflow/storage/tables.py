"""CSV tables that stages pass to each other: UTF-8, commas, a header row, and every value a string."""

import csv
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal

from retinaflow.errors import RetinaflowError
from retinaflow.storage.integrity import REBUILD, recorded_file, verify

Row = dict[str, str]

COLUMNS_SHOWN = 20

# File names are bytes on disk. Bytes that are not UTF-8 pass through a table unchanged.
ENCODING = {"encoding": "utf-8", "errors": "surrogateescape"}


# A spreadsheet computes a text that starts like this as a formula. An apostrophe before it makes it a text there.
_FORMULA = re.compile(r"'*[=+\-@\t\r]")
_NUMBER = re.compile(r"[-+]?([0-9]+([.][0-9]*)?|[.][0-9]+)([eE][-+]?[0-9]+)?|[-+]?(inf|nan)")


def guarded(value: object) -> object:
    """Return a value as a cell that no spreadsheet computes. Numbers, also in text, stay. ``unguarded`` undoes it."""
    is_formula = isinstance(value, str) and _FORMULA.match(value) and not _NUMBER.fullmatch(value)
    return f"'{value}" if is_formula else value


def unguarded(cell: str) -> str:
    """Return the value that ``guarded`` made a cell of."""
    return cell[1:] if cell.startswith("'") and _FORMULA.match(cell) else cell


def read_table(path: str | os.PathLike[str], columns: Sequence[str] = ()) -> list[Row]:
    """Read a table of a stage as rows. ``retinaflow.data.frames`` reads it as a data frame.

    Raises:
        RetinaflowError: The file cannot be read, one of ``columns`` is missing or occurs twice, a row is shorter or
            longer than the header, or a quote is not closed. The file differs from its record (``integrity``).
    """
    return list(stream_table(path, columns))


def stream_table(path: str | os.PathLike[str], columns: Sequence[str] = ()) -> Iterator[Row]:
    """Yield the rows of ``read_table`` one by one, without all of them in memory."""
    values = stream_values(path, columns)
    header = next(values)
    yield from (dict(zip(header, row, strict=True)) for row in values)


def stream_values(path: str | os.PathLike[str], columns: Sequence[str] = ()) -> Iterator[list[str]]:
    """Yield the header, then the values of each row. Errors are those of ``read_table``."""
    verify(path)
    try:
        with open(path, newline="", **ENCODING) as file:
            # If a damaged file lacks a quote, a reader that is not strict joins all later rows to one value.
            yield from _checked(path, csv.reader(file, strict=True), columns)
    except (OSError, csv.Error) as error:
        raise RetinaflowError(f"{path}: cannot be read as a table ({error}). {REBUILD}") from error


def _checked(path: str | os.PathLike[str], lines: Iterator[list[str]], columns: Sequence[str]) -> Iterator[list[str]]:
    header = next(lines, [])
    if wrong := [column for column in columns if header.count(column) != 1]:
        fault = "is there twice" if wrong[0] in header else "is missing"
        found = ", ".join(header[:COLUMNS_SHOWN])[:200] or "an empty file"
        raise RetinaflowError(f"{path}: column {wrong[0]!r} {fault}; found {found}. {REBUILD}")
    yield header
    for number, row in enumerate(filter(None, lines), start=1):
        if len(row) != len(header):
            raise RetinaflowError(
                f"{path}: row {number} does not have the {len(header)} values of the header. {REBUILD}"
            )
        yield list(map(unguarded, row))


def write_table(path: str | os.PathLike[str], columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> None:
    """Write ``rows`` below a header of ``columns``. A row with another key is a ``ValueError``."""
    values = []
    for row in rows:
        if unknown := row.keys() - set(columns):
            raise ValueError(f"{path}: a row has {sorted(unknown)}, expected only the columns {list(columns)}")
        values.append([row.get(column, "") for column in columns])
    write_values(path, columns, values)


def write_values(path: str | os.PathLike[str], columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Write the values of each row, in the order of ``columns``, below the header, and a record of the file."""
    # Readers take a carriage return without quotes for a line end. The csv module does not quote it by itself.
    returns = any("\r" in str(value) for row in rows for value in row)
    with recorded_file(path, rows=len(rows)) as part, open(part, "w", newline="", **ENCODING) as file:
        quoting: Literal[0, 1] = csv.QUOTE_ALL if returns else csv.QUOTE_MINIMAL
        writer = csv.writer(file, lineterminator="\n", quoting=quoting)
        writer.writerow(columns)
        writer.writerows(map(guarded, row) for row in rows)
