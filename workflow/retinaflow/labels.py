"""Read a label table, CSV as people and programs export it, plain or inside a .zip archive."""

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from retinaflow.archives import read_member, split_archive
from retinaflow.errors import RetinaflowError

IMAGE_EXTENSIONS = (".jpeg", ".jpg", ".png", ".tif", ".tiff", ".bmp")
DELIMITERS = (",", ";", "\t")


class LabelRow(NamedTuple):
    """One row of a label table: name of the image, level as written, and number of the row (the header is row 1)."""

    image: str
    level_text: str
    row: int


def image_name(filename: str) -> str:
    """Name of an image: ``filename`` without a photograph's extension (any case) and without blanks around it.

    What follows a dot and is no such extension belongs to the name, as in ``a.v2``.
    """
    name = filename.strip()
    for extension in IMAGE_EXTENSIONS:
        if name.lower().endswith(extension):
            return name[: -len(extension)].strip()
    return name


def read_labels(path: str, image_column: str, level_column: str) -> list[LabelRow]:
    """Read image names and levels from a CSV table (UTF-8; comma, semicolon or tab), or ``x.zip`` with one inside.

    Other columns and blank rows are passed over; levels stay text, for ``parse_level``.
    Raises ``RetinaflowError`` if the table cannot be read or is empty, lacks a column or has it twice, or an image name
    is missing or a path.
    """
    text = _read_text(path)
    headers = {delimiter: _header(path, text, delimiter) for delimiter in DELIMITERS}
    fitting = [one for one in DELIMITERS if headers[one].count(image_column) == headers[one].count(level_column) == 1]
    if not fitting:
        found = max(headers.values(), key=len)
        raise RetinaflowError(
            f"{path}: expected the columns {image_column!r} and {level_column!r}, each once; found "
            f"{', '.join(map(repr, found))}. Correct the header row, or the names of the columns in the configuration."
        )
    header = headers[fitting[0]]
    image, level = header.index(image_column), header.index(level_column)
    labels = []
    for number, cells in _data_rows(path, text, fitting[0]):
        if any(cell.strip() for cell in cells[len(header) :]):
            raise RetinaflowError(
                f"{path}: row {number} has {len(cells)} values, expected {len(header)} as in the header: put a value "
                "that contains the delimiter in quotes."
            )
        cells += [""] * (len(header) - len(cells))
        labels.append(LabelRow(_checked_name(path, number, cells[image]), cells[level].strip(), number))
    if not labels:
        raise RetinaflowError(f"{path}: no row below the header, expected one for each photograph.")
    return labels


def count_labels(path: str) -> int:
    """Number of rows that ``read_labels`` finds, without looking at what is in them.

    Raises ``RetinaflowError`` if the table cannot be read.
    """
    text = _read_text(path)
    delimiter = max(DELIMITERS, key=lambda delimiter: len(_header(path, text, delimiter)))
    return len(_data_rows(path, text, delimiter))


def parse_level(text: str, classes: Sequence[str]) -> int | None:
    """Level 0..k-1 that ``text`` names among k ``classes``: by the class's name or as a number (``2``, ``2.0``).

    None for anything else.
    """
    text = text.strip()
    if text in classes:
        return list(classes).index(text)
    number = re.fullmatch(r"([0-9]{1,9})(\.0+)?", text)
    if number and int(number[1]) < len(classes):
        return int(number[1])
    return None


def _read_text(path: str) -> str:
    try:
        content = read_member(path) if split_archive(path) else Path(path).read_bytes()
        text = content.decode("utf-8-sig")
    except OSError as error:
        raise RetinaflowError(
            f"{path}: the label table cannot be read ({error.strerror}). Correct the path."
        ) from error
    except UnicodeDecodeError as error:
        raise RetinaflowError(
            f"{path}: byte {error.start + 1} ({content[error.start]:#04x}) is not UTF-8, expected a CSV table in "
            "UTF-8. Save it again as 'CSV UTF-8'."
        ) from error
    if "\0" in text:
        raise RetinaflowError(f"{path}: holds NUL bytes, expected a CSV table in UTF-8. Save it again as 'CSV UTF-8'.")
    return text


def _header(path: str, text: str, delimiter: str) -> list[str]:
    try:
        return [cell.strip() for cell in next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))]
    except StopIteration:
        raise RetinaflowError(f"{path}: is empty, expected a header row and one row for each photograph.") from None
    except csv.Error:
        # A quote that makes no sense with this delimiter: it is not the one.
        return []


def _data_rows(path: str, text: str, delimiter: str) -> list[tuple[int, list[str]]]:
    # Strict, because a quote that is never closed would swallow all rows after it.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    rows = []
    try:
        for number, cells in enumerate(reader, start=1):
            if number > 1 and any(map(str.strip, cells)):
                rows.append((number, cells))
    except csv.Error as error:
        raise RetinaflowError(
            f"{path}: line {reader.line_num} is not CSV ({error}). Close or remove the quotes there."
        ) from error
    return rows


def _checked_name(path: str, number: int, cell: str) -> str:
    name = image_name(cell)
    if not name or name in (".", "..") or "/" in name or "\\" in name:
        raise RetinaflowError(
            f"{path}: row {number} names the image {cell!r}, expected the name of a photograph, with or without its "
            "extension, and no path. Correct the row."
        )
    return name
