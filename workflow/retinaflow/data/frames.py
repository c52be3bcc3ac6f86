"""Tables between stages as data frames: the strict reader and writer of ``storage.tables`` with pandas around them.

pandas itself pads short rows and shifts long ones without a message, so it reads no file here.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from retinaflow.errors import RetinaflowError
from retinaflow.storage.tables import REBUILD, stream_values, write_values


def read_frame(
    path: str | os.PathLike[str], columns: Sequence[str] = (), *, types: Mapping[str, type] | None = None
) -> pd.DataFrame:
    """Read a table that a stage of this workflow wrote.

    Args:
        path: The CSV file.
        columns: Columns that it must have; it may have others.
        types: ``int`` or ``float`` for columns of numbers. All other columns are text (dtype object, ``""`` if empty).

    Returns:
        All columns of the table in its order, with the index 0 to n - 1.

    Raises:
        RetinaflowError: As ``storage.tables.read_table``; or a value of a number column is no number.
    """
    values = stream_values(path, columns)
    header = next(values)
    # Names of files may have bytes that are no UTF-8, which pandas' own text type does not hold.
    frame = pd.DataFrame(list(values), columns=header, dtype=object)
    for column, kind in (types or {}).items():
        frame[column] = parse_numbers(path, frame[column], kind)
    return frame


def parse_numbers(path: str | os.PathLike[str], column: pd.Series, kind: type) -> pd.Series:
    """Parse a text column of the table ``path``, whose index counts the rows from 0, as ``int`` or ``float``.

    Raises:
        RetinaflowError: A value is no number. The message names its row.
    """
    rows = zip(column.index.tolist(), column, strict=True)
    numbers = [_number(path, column.name, row + 1, text, kind) for row, text in rows]
    return pd.Series(numbers, column.index, dtype=kind, name=column.name)


def _number(path: str | os.PathLike[str], column: object, row: int, text: str, kind: type) -> float:
    try:
        return kind(text)
    except (ValueError, OverflowError) as error:
        raise RetinaflowError(
            f"{path}: row {row} has {text!r} in column {column!r}, expected a number. {REBUILD}"
        ) from error


def write_rows(path: str | os.PathLike[str], columns: Sequence[str], rows: Sequence[Any]) -> None:
    """Write rows, as mappings or in the order of ``columns``, as ``write_frame`` writes a data frame."""
    write_frame(path, pd.DataFrame(rows, columns=list(columns), dtype=object))


def write_frame(path: str | os.PathLike[str], frame: pd.DataFrame) -> None:
    """Write a data frame without its index. Numbers are written as ``str`` writes them, so each can be read back."""
    # Values of Python, because NumPy writes its own otherwise: 0.1 for float32, True for bool.
    columns = [frame[column].tolist() for column in frame.columns]
    write_values(path, list(frame.columns), list(zip(*columns, strict=True)))
