"""Label tables, CSV as people and programs export it, and the meaning of image names and grades in them."""

import codecs
import csv
import io
import re
from collections.abc import Callable, Iterator, Sequence
from typing import NamedTuple

from retinaflow.data.image_files import IMAGE_EXTENSIONS
from retinaflow.errors import RetinaflowError
from retinaflow.storage.archives import TABLE_BYTES, read_member, split_archive

DELIMITERS = (",", ";", "\t")
DRIVE = re.compile(r"\s*[A-Za-z]:")
SHOWN = 10


class LabelRow(NamedTuple):
    """One row of a label table.

    Attributes:
        image: Name of the image.
        grade_text: Its grade as written.
        row: Number of the row. The header is row 1.
    """

    image: str
    grade_text: str
    row: int


def image_name(filename: str) -> str:
    """Return ``filename`` without the extension of an image, in any case, and without blanks around it.

    The name includes any other extension, as in ``a.v2``.
    """
    name = filename.strip()
    if name.lower().endswith(IMAGE_EXTENSIONS):
        return name[: name.rindex(".")].strip()
    return name


def name_parser(pattern: str) -> Callable[[str], tuple[str, str]]:
    """Return a function that reads patient and eye from the name of an image.

    The eye is ``""`` if it is unknown. An image whose whole name does not match is a patient of its own.

    Args:
        pattern: Regular expression with the group ``patient`` and, optionally, the group ``eye``.

    Raises:
        RetinaflowError: ``pattern`` is no regular expression or has no group ``patient``.
    """
    try:
        # A name may have any character, and `.` should match each of them.
        compiled = re.compile(pattern, re.DOTALL)
    except re.error as error:
        raise RetinaflowError(f"data.patient_pattern: {pattern!r} is no regular expression ({error}).") from error
    if "patient" not in compiled.groupindex:
        raise RetinaflowError(
            f"data.patient_pattern: {pattern!r} has no group named 'patient', expected one as in "
            "'(?P<patient>.+)_(?P<eye>left|right)'."
        )

    def parse(image: str) -> tuple[str, str]:
        match = compiled.fullmatch(image)
        groups = match.groupdict() if match else {}
        return groups.get("patient") or image, groups.get("eye") or ""

    return parse


def read_labels(path: str, image_column: str, grade_column: str) -> list[LabelRow]:
    """Read image names and grades from a label table.

    The delimiter is a comma, semicolon or tab. The encoding is UTF-8, or UTF-16 with a byte order mark ("Unicode text"
    in Excel). Other columns and blank rows are ignored. Grades stay text, for ``parse_grade``.

    Args:
        path: The table, or ``x.zip`` with one inside.
        image_column: Column of the image names. The last component of a relative path names the image.
        grade_column: Column of the grades. If no column has the exact name, upper and lower case count as equal.

    Raises:
        RetinaflowError: The table cannot be read, is empty or too large. A column is missing or occurs twice. An image
            name is missing, an absolute path or one that leads upwards.
    """
    text = _read_text(path)
    cure = "add it if the table has none, or set data.image_column and data.grade_column"
    delimiter, width, (image, grade) = _columns(path, text, wanted=(image_column, grade_column), cure=cure)
    labels = []
    for number, cells in _data_rows(path, text, delimiter):
        if len(cells) != width:
            if any(cell.strip() for cell in cells[width:]):
                raise RetinaflowError(
                    f"{path}: row {number} has {len(cells)} values, expected {width} as in the header: put a value "
                    "that contains the delimiter in quotes."
                )
            cells += [""] * (width - len(cells))
        labels.append(LabelRow(_checked_name(path, number, cells[image]), cells[grade].strip(), number))
    if not labels:
        raise RetinaflowError(f"{path}: no row below the header, expected one for each image. Add them.")
    return labels


def read_paths(path: str) -> list[str]:
    """Read a list of image paths: the column ``image`` of a ``.csv`` table, or the lines of a text file.

    Blank entries are ignored.

    Raises:
        RetinaflowError: The list cannot be read, or the table has no such column.
    """
    text = _read_text(path)
    if path.lower().endswith(".csv"):
        cure = "or add it if the table has none"
        delimiter, _, (image,) = _columns(path, text, wanted=("image",), cure=cure)
        paths = ["".join(cells[image : image + 1]) for _, cells in _data_rows(path, text, delimiter)]
    else:
        paths = text.split("\n")
    return [path.strip() for path in paths if path.strip()]


def parse_grade(text: str, grade_names: Sequence[str]) -> int | None:
    """Return the grade 0 to k - 1 of ``text``, which is one of the k ``grade_names`` or a number (2, 2.0 or 2,0).

    Returns:
        The grade, or None for any other text. Also None for a number if one of the names is the number of another
        grade: there, 1 could be name or number.
    """
    text = text.strip()
    if text in grade_names:
        return list(grade_names).index(text)
    if any(name.isdecimal() and int(name) != grade for grade, name in enumerate(grade_names)):
        return None
    number = re.fullmatch(r"([0-9]{1,9})([.,]0+)?", text)
    if number and int(number[1]) < len(grade_names):
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
            f"{path}: is larger than {TABLE_BYTES} bytes, expected a table with a row for each image. Correct the "
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
            f"{path}: is empty, expected a header row and one row for each image. Correct the path or fill it."
        )
    return text


def _columns(path: str, text: str, *, wanted: Sequence[str], cure: str) -> tuple[str, int, list[int]]:
    """Return the delimiter, the number of columns, and the places of the ``wanted`` ones."""
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
        # A quote that makes no sense with this delimiter: the table has another one.
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
    # A backslash separates folders on Windows and is part of a name elsewhere. The table does not show which.
    outside = cell.lstrip().startswith("/") or "\\" in cell or ".." in folders.split("/") or DRIVE.match(cell)
    if outside or name in ("", ".", ".."):
        raise RetinaflowError(
            f"{path}: row {number} names the image {cell[:80]!r}, expected an image name, with or without extension. "
            "A path must be relative, have / between folders and lead nowhere upwards. Correct the row."
        )
    return name
