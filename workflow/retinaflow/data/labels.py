"""Read a label table, CSV as people and programs export it, plain or inside a .zip archive."""

import codecs
import csv
import io
import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from retinaflow.errors import RetinaflowError
from retinaflow.storage.archives import TABLE_BYTES, read_member, split_archive

IMAGE_EXTENSIONS = (".jpeg", ".jpg", ".png", ".tif", ".tiff", ".bmp")
DELIMITERS = (",", ";", "\t")
DRIVE = re.compile(r"\s*[A-Za-z]:")
SHOWN = 10


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
    if name.lower().endswith(IMAGE_EXTENSIONS):
        return name[: name.rindex(".")].strip()
    return name


def read_labels(path: str, image_column: str, level_column: str) -> list[LabelRow]:
    """Read image names and levels from a CSV table (comma, semicolon or tab), or ``x.zip`` with one inside.

    UTF-8, or what Excel calls Unicode text (UTF-16 with a byte order mark). Columns go by name, in any case if no
    other spelling is there. Of a relative path, the last component names the image. Other columns and blank rows are
    passed over; levels stay text, for ``parse_level``.
    Raises ``RetinaflowError`` if the table cannot be read, is empty or too large, lacks a column or has it twice, or an
    image name is missing, an absolute path or one that leads upwards.
    """
    text = _read_text(path)
    cure = "add it if the table has none, or set data.image_column and data.grade_column"
    delimiter, header, (image, level) = _columns(path, text, (image_column, level_column), cure)
    labels = []
    for number, cells in _data_rows(path, text, delimiter):
        if len(cells) != header:
            if any(cell.strip() for cell in cells[header:]):
                raise RetinaflowError(
                    f"{path}: row {number} has {len(cells)} values, expected {header} as in the header: put a value "
                    "that contains the delimiter in quotes."
                )
            cells += [""] * (header - len(cells))
        labels.append(LabelRow(_checked_name(path, number, cells[image]), cells[level].strip(), number))
    if not labels:
        raise RetinaflowError(f"{path}: no row below the header, expected one for each photograph. Add them.")
    return labels


def read_paths(path: str) -> list[str]:
    """Paths of photographs as a list has them: the column ``image`` of a ``.csv`` table, or else the lines of a text.

    Blank ones are passed over. Raises ``RetinaflowError`` if the list cannot be read or the column is not there.
    """
    text = _read_text(path)
    if path.lower().endswith(".csv"):
        delimiter, _, (image,) = _columns(path, text, ("image",), "or add it if the table has none")
        paths = ["".join(cells[image : image + 1]) for _, cells in _data_rows(path, text, delimiter)]
    else:
        paths = text.split("\n")
    return [path.strip() for path in paths if path.strip()]


def parse_level(text: str, classes: Sequence[str]) -> int | None:
    """Level 0..k-1 that ``text`` names among k ``classes``: by the class's name or as a number (2, 2.0 or 2,0).

    None for anything else, and for numbers where a class has the name of a number that is not its level: there, 1 may
    be meant as either.
    """
    text = text.strip()
    if text in classes:
        return list(classes).index(text)
    if any(name.isdecimal() and int(name) != level for level, name in enumerate(classes)):
        return None
    number = re.fullmatch(r"([0-9]{1,9})([.,]0+)?", text)
    if number and int(number[1]) < len(classes):
        return int(number[1])
    return None


def _read_text(path: str) -> str:
    try:
        if split_archive(path):
            content = read_member(path)
        else:
            with open(path, "rb") as file:
                content = file.read(TABLE_BYTES + 1)
    except OSError as error:
        raise RetinaflowError(f"{path}: the table cannot be read ({error.strerror}). Correct the path.") from error
    if len(content) > TABLE_BYTES:
        raise RetinaflowError(
            f"{path}: is larger than {TABLE_BYTES} bytes, expected a table with a row for each photograph. Correct the "
            "path, or keep only the columns that are needed."
        )
    encoding = "UTF-16" if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "UTF-8"
    try:
        text = content.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise RetinaflowError(
            f"{path}: byte {error.start + 1} ({content[error.start]:#04x}) is not {encoding}, expected a "
            "CSV table in UTF-8. Save it again as 'CSV UTF-8'."
        ) from error
    if "\0" in text:
        raise RetinaflowError(f"{path}: holds NUL bytes, expected a CSV table in UTF-8. Save it again as 'CSV UTF-8'.")
    if not text.strip():
        raise RetinaflowError(
            f"{path}: is empty, expected a header row and one row for each photograph. Correct the path or fill it."
        )
    return text


def _columns(path: str, text: str, wanted: Sequence[str], cure: str) -> tuple[str, int, list[int]]:
    """Delimiter, number of columns, and places of those that are wanted."""
    headers = {delimiter: _header(text, delimiter) for delimiter in DELIMITERS}
    for delimiter, header in headers.items():
        places = [_places(header, column) for column in wanted]
        if all(len(place) == 1 for place in places):
            return delimiter, len(header), [place[0] for place in places]
    found = [repr(name[:40]) for name in max(headers.values(), key=len)]
    shown = ", ".join(found[:SHOWN]) + (f" and {len(found) - SHOWN} more" if len(found) > SHOWN else "")
    raise RetinaflowError(
        f"{path}: expected the columns {' and '.join(map(repr, wanted))}, each once; found {shown or 'no CSV'} in "
        f"the first row. Correct it, {cure}."
    )


def _places(header: Sequence[str], column: str) -> list[int]:
    exact = [place for place, name in enumerate(header) if name == column]
    return exact or [place for place, name in enumerate(header) if name.casefold() == column.casefold()]


def _header(text: str, delimiter: str) -> list[str]:
    try:
        return [cell.strip() for cell in next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))]
    except csv.Error:
        # A quote that makes no sense with this delimiter: it is not the one.
        return []


def _data_rows(path: str, text: str, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    # Strict, because a quote that is never closed would swallow all rows after it.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    number = 0
    try:
        for number, cells in enumerate(reader, start=1):
            if number > 1 and any(map(str.strip, cells)):
                yield number, cells
    except csv.Error as error:
        raise RetinaflowError(
            f"{path}: row {number + 1} is not CSV ({error}; read up to line {reader.line_num}). Close or remove the "
            "quotes there."
        ) from error


def _checked_name(path: str, number: int, cell: str) -> str:
    folders, _, filename = cell.strip().rpartition("/")
    name = image_name(filename)
    # A backslash separates folders on Windows and is part of a name elsewhere: which one is meant, nobody can tell.
    outside = cell.lstrip().startswith("/") or "\\" in cell or ".." in folders.split("/") or DRIVE.match(cell)
    if outside or name in ("", ".", ".."):
        raise RetinaflowError(
            f"{path}: row {number} names the image {cell[:80]!r}, expected the name of a photograph, with or without "
            "its extension, or a path to it that is relative, has / between folders and leads nowhere upwards. "
            "Correct the row."
        )
    return name
