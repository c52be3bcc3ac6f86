"""Label tables, CSV as people and programs export it, and the meaning of image names and grades in them."""

import codecs
import csv
import io
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from retinaflow.data.image_files import IMAGE_EXTENSIONS
from retinaflow.errors import RetinaflowError
from retinaflow.storage.archives import TABLE_BYTES, read_member, split_archive

DELIMITERS = (",", ";", "\t")
DRIVE = re.compile(r"\s*[A-Za-z]:")
SHOWN = 10


EYES = {
    **dict.fromkeys(("left", "l", "os", "2"), "left"),
    **dict.fromkeys(("right", "r", "od", "1"), "right"),
}


@dataclass(frozen=True)
class LabelRow:
    """One row of a label table.

    Attributes:
        image: Name of the image.
        grade_text: Its grade as written.
        row: Number of the row. The header is row 1.
        patient: Its patient, ``""`` if the table has no column of patients.
        eye: ``left``, ``right``, or ``""`` if unknown.
        folder: Folder that the table has before the name of the image, or ``""``.
    """

    image: str
    grade_text: str
    row: int
    patient: str = ""
    eye: str = ""
    folder: str = field(default="", compare=False)

    @property
    def relative_path(self) -> str:
        """Folder and name of the image."""
        return f"{self.folder}/{self.image}" if self.folder else self.image


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


def matches_none(pattern: str, images: Sequence[str]) -> bool:
    """Return whether ``pattern`` matches no whole name of ``images``."""
    compiled = re.compile(pattern, re.DOTALL)
    return not any(map(compiled.fullmatch, images))


def read_labels(
    path: str,
    image_column: str,
    grade_column: str,
    *,
    patient_column: str | None = None,
    eye_column: str | None = None,
) -> list[LabelRow]:
    """Read image names, grades, patients and eyes from a label table.

    The delimiter is a comma, semicolon or tab. The encoding is UTF-8, or UTF-16 with a byte order mark ("Unicode text"
    in Excel). Other columns and blank rows are ignored. Grades stay text, for ``grade_texts``.

    Args:
        path: The table, or ``x.zip`` with one inside.
        image_column: Column of the image names. The last component of a relative path names the image.
        grade_column: Column of the grades. If no column has the exact name, upper and lower case count as equal, and
            blanks around the name do not count. This holds for all columns.
        patient_column: Column of the patients, if there is one.
        eye_column: Column of the eyes, if there is one.

    Raises:
        RetinaflowError: The table cannot be read, is empty or too large. A column is missing or occurs twice. An image
            name is missing, an absolute path or one that leads upwards. A patient is missing, or an eye is unknown.
    """
    text = _read_text(path)
    cure = "add it if the table has none, or set data.image_column and data.grade_column"
    if patient_column or eye_column:
        cure += ", data.patient_column and data.eye_column"
    named = [image_column, grade_column, *filter(None, (patient_column, eye_column))]
    delimiter, width, (image, grade, *others) = _columns(path, text, wanted=named, cure=cure)
    patient = others.pop(0) if patient_column else None
    eye = others.pop(0) if eye_column else None
    labels = []
    for number, cells in _data_rows(path, text, delimiter):
        if len(cells) != width:
            if any(cell.strip() for cell in cells[width:]):
                raise RetinaflowError(
                    f"{path}: row {number} has {len(cells)} values, expected {width} as in the header: put a value "
                    "that contains the delimiter in quotes."
                )
            cells += [""] * (width - len(cells))
        folder, name = _checked_name(path, number, cells[image])
        known = "" if patient is None else _checked_patient(path, number, cells[patient])
        side = "" if eye is None else _checked_eye(path, number, cells[eye])
        labels.append(LabelRow(name, cells[grade].strip(), number, known, side, folder=folder))
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
    column = column.strip()
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


def _checked_name(path: str, number: int, cell: str) -> tuple[str, str]:
    """Folder and name of an image."""
    folders, _, filename = cell.strip().rpartition("/")
    name = image_name(filename)
    # A backslash separates folders on Windows and is part of a name elsewhere. The table does not show which.
    outside = cell.lstrip().startswith("/") or "\\" in cell or ".." in folders.split("/") or DRIVE.match(cell)
    if outside or name in ("", ".", ".."):
        raise RetinaflowError(
            f"{path}: row {number} names the image {cell[:80]!r}, expected an image name, with or without extension. "
            "A path must be relative, have / between folders and lead nowhere upwards. Correct the row."
        )
    return "/".join(folder for folder in folders.split("/") if folder not in ("", ".")), name


def _checked_patient(path: str, number: int, cell: str) -> str:
    if not cell.strip():
        raise RetinaflowError(f"{path}: row {number} names no patient, expected one in each row. Correct the row.")
    # Programs write whole numbers as 12.0 if another row of the column is empty.
    return re.sub(r"^([0-9]+)[.]0$", r"\1", cell.strip())


def _checked_eye(path: str, number: int, cell: str) -> str:
    text = cell.strip().casefold().removesuffix(".0")
    if text and text not in EYES:
        raise RetinaflowError(
            f"{path}: row {number} has {cell[:80]!r} as the eye. Expected left or right, L or R, OS or OD, or 1 for "
            "right and 2 for left; empty if it is unknown. Correct the row, or set data.eye_column."
        )
    return EYES.get(text, "")
