"""Rows of label tables, and the meaning of the image names, patients and eyes in them."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from retinaflow.data.image_files import IMAGE_EXTENSIONS
from retinaflow.data.label_tables import open_table, read_text
from retinaflow.errors import RetinaflowError
from retinaflow.storage.patterns import BoundedPattern

EYE_COLUMNS = ("left", "right")
DRIVE = re.compile(r"\s*[A-Za-z]:")
# Problem of an image whose label says that nobody could grade it, so that it has no truth.
UNGRADED = "ungradable"

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
        row: Number of the row. The header is row 1. It is 0 if the label is that of a folder.
        patient: Its patient, ``""`` if the table has no column of patients.
        eye: ``left``, ``right``, or ``""`` if unknown.
        folder: Folder that the table has before the name of the image, or ``""``.
        table: The table, if there are several.
        subgroups: Value of each column of subgroups.
    """

    image: str
    grade_text: str
    row: int
    patient: str = ""
    eye: str = ""
    folder: str = field(default="", compare=False)
    table: str = field(default="", compare=False)
    subgroups: tuple[str, ...] = field(default=(), compare=False)

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

    The eye is ``""`` if it is unknown. L and OS are ``left``, R and OD are ``right``; other texts stay, such as 1, of
    which names have no common meaning. An image whose whole name does not match is a patient of its own.

    Args:
        pattern: Regular expression with the group ``patient`` and, optionally, the group ``eye``.

    Raises:
        RetinaflowError: ``pattern`` is no regular expression or has no group ``patient``. The function raises it if
            a name takes too long.
    """
    bounded = BoundedPattern(pattern, where="data.patient_pattern")
    if "patient" not in bounded.groups:
        raise RetinaflowError(
            f"data.patient_pattern: {pattern!r} has no group named 'patient', expected one as in "
            "'(?P<patient>.+)_(?P<eye>left|right)'."
        )

    def parse(image: str) -> tuple[str, str]:
        groups = bounded.groups_of(image) or {}
        eye = groups.get("eye") or ""
        return groups.get("patient") or image, eye if eye.isdecimal() else EYES.get(eye.casefold(), eye)

    return parse


def matches_none(pattern: str, images: Sequence[str]) -> bool:
    """Return whether ``pattern`` matches no whole name of ``images``."""
    bounded = BoundedPattern(pattern, where="data.patient_pattern")
    return all(bounded.groups_of(image) is None for image in images)


def read_labels(
    path: str | Sequence[str],
    image_column: str | Sequence[str],
    grade_column: str | Sequence[str],
    *,
    patient_column: str | None = None,
    eye_column: str | None = None,
    subgroups: Sequence[str] = (),
    pairs: str | None = None,
) -> list[LabelRow]:
    """Read image names, grades, patients, eyes and subgroups from a label table.

    The delimiter is a comma, semicolon, tab or blank. The encoding is UTF-8, or UTF-16 with a byte order mark ("Unicode
    text" in Excel). The table may be a workbook of Excel. Other columns and blank rows are ignored. Grades stay text,
    for ``grade_texts``.

    Args:
        path: The table, ``x.zip`` with one inside, or a list of these.
        image_column: Column of the image names. The last component of a relative path names the image. Several columns
            are several images a row; an empty cell is no image.
        grade_column: Column of the grades. If no column has the exact name, upper and lower case count as equal, and
            blanks around the name do not count. This holds for all columns. Several columns are the grades of as many
            images, or those of one image, whose grade is in the one that is not empty.
        patient_column: Column of the patients, if there is one.
        eye_column: Column of the eyes, if there is one.
        subgroups: Columns of subgroups.
        pairs: Table of the images of each patient, see ``read_pairs``. The label table counts before it.

    Raises:
        RetinaflowError: The table cannot be read, is empty or too large. A column is missing or occurs twice. An image
            name is missing, an absolute path or one that leads upwards. A patient is missing, or an eye is unknown.
    """
    tables = [path] if isinstance(path, str) else path
    columns = _Columns(_as_list(image_column), _as_list(grade_column), patient_column, eye_column, list(subgroups))
    rows = [row for table in tables for row in _read_table(table, columns, where=table if len(tables) > 1 else "")]
    if pairs is None:
        return rows
    known = read_pairs(pairs)
    return [_with_pair(row, *known[row.image]) if row.image in known else row for row in rows]


def read_pairs(path: str) -> dict[str, tuple[str, str]]:
    """Read the table of pairs: the patient and the eye of each image.

    The columns ``left`` and ``right`` have image names. The patient has the name of the left image, or else the right.

    Raises:
        RetinaflowError: The table cannot be read, a column is missing, or an image is in two rows.
    """
    table = open_table(path, EYE_COLUMNS, cure="or set data.train.pairs or data.test.pairs to a table with them")
    known: dict[str, tuple[str, str]] = {}
    for number, cells in table.rows:
        row = cells + [""] * (table.width - len(cells))
        images = {
            eye: _checked_name(path, number, row[place])[1] if row[place].strip() else ""
            for eye, place in zip(EYE_COLUMNS, table.places, strict=True)
        }
        patient = images["left"] or images["right"]
        for eye, image in images.items():
            if image and known.setdefault(image, (patient, eye)) != (patient, eye):
                raise RetinaflowError(
                    f"{path}: row {number} has the image {image!r}, which another row has, too. Expected one row for "
                    "each patient. Correct it."
                )
    return known


def _with_pair(row: LabelRow, patient: str, eye: str) -> LabelRow:
    return replace(row, patient=row.patient or patient, eye=row.eye or eye)


def folder_labels(files: Sequence[str], parse_grade: Callable[[str], int | None]) -> list[LabelRow]:
    """Return labels of images that lie in folders of their grades.

    The grade is that of the folders that ``parse_grade`` knows, if they agree. Other folders have no meaning.

    Args:
        files: Path of each image relative to the folder of images, without extension.
        parse_grade: Function that returns the grade of a name, or None.
    """
    labels = []
    for file in files:
        *folders, name = file.split("/")
        known = {parse_grade(folder): folder for folder in folders if parse_grade(folder) is not None}
        grade_text = next(iter(known.values())) if len(known) == 1 else "/".join(folders)
        labels.append(LabelRow(name, grade_text, 0, folder="/".join(folders)))
    return labels


@dataclass(frozen=True)
class _Columns:
    """Names of the columns of a label table."""

    images: list[str]
    grades: list[str]
    patient: str | None
    eye: str | None
    subgroups: list[str]

    def names(self) -> list[str]:
        """Return all names, each once."""
        others = [name for name in (self.patient, self.eye) if name]
        return list(dict.fromkeys([*self.images, *self.grades, *others, *self.subgroups]))


def _images_of(images: list[str], grades: list[str]) -> list[tuple[str, str]]:
    """Return the cell of each image in a row, and its grade. ``images`` and ``grades`` are the cells of the row."""
    if len(images) == 1:
        text = grades[0].strip() if len(grades) == 1 else "/".join(dict.fromkeys(filter(None, map(str.strip, grades))))
        return [(images[0], text)]
    if len(grades) == 1:
        grades = grades * len(images)
    return [(image, grade.strip()) for image, grade in zip(images, grades, strict=True) if image.strip()]


def _as_list(names: str | Sequence[str]) -> list[str]:
    return [names] if isinstance(names, str) else list(names)


def _read_table(path: str, columns: _Columns, *, where: str) -> list[LabelRow]:
    cure = "add it if the table has none, or set data.image_column and data.grade_column"
    if columns.patient or columns.eye:
        cure += ", data.patient_column and data.eye_column"
    if columns.subgroups:
        cure += ", and subgroups"
    names = columns.names()
    table = open_table(path, names, cure=cure, may_lack_header=True)
    place = dict(zip(names, table.places, strict=True))
    images, grades, subgroups = (
        [place[name] for name in wanted] for wanted in (columns.images, columns.grades, columns.subgroups)
    )
    labels = []
    for number, cells in table.rows:
        if len(cells) != table.width:
            if any(cell.strip() for cell in cells[table.width :]):
                raise RetinaflowError(
                    f"{path}: row {number} has {len(cells)} values, expected {table.width} as in the first row: put a "
                    "value that contains the delimiter in quotes."
                )
            cells += [""] * (table.width - len(cells))
        known = _checked_patient(path, number, cells[place[columns.patient]]) if columns.patient else ""
        side = eye_of_cell(path, number, cells[place[columns.eye]], ", or set data.eye_column") if columns.eye else ""
        groups = tuple([cells[one].strip() for one in subgroups])
        for image, grade in _images_of([cells[one] for one in images], [cells[one] for one in grades]):
            folder, name = _checked_name(path, number, image)
            labels.append(LabelRow(name, grade, number, known, side, folder=folder, table=where, subgroups=groups))
    if not labels:
        raise RetinaflowError(f"{path}: no row below the header, expected one for each image. Add them.")
    return labels


def read_paths(path: str) -> list[str]:
    """Read a list of image paths: the column ``image`` of a ``.csv`` table, or the lines of a text file.

    Blank entries are ignored.

    Raises:
        RetinaflowError: The list cannot be read, or the table has no such column.
    """
    if path.lower().endswith(".csv"):
        table = open_table(path, ("image",), cure="or add it if the table has none")
        (image,) = table.places
        paths = ["".join(cells[image : image + 1]) for _, cells in table.rows]
    else:
        paths = read_text(path).split("\n")
    return [path.strip() for path in paths if path.strip()]


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
    return patient_of_cell(cell)


def patient_of_cell(cell: str) -> str:
    """Return the patient in a cell of a table. Programs write 12 as 12.0 if another row of the column is empty."""
    return re.sub(r"^([0-9]+)[.]0$", r"\1", cell.strip())


def eye_of_cell(path: str, number: int, cell: str, also: str = "") -> str:
    """Return ``left`` or ``right``, the eye in a cell of row ``number``, or ``""`` for an empty cell.

    Raises:
        RetinaflowError: The cell names no eye. ``also`` is advice for the end of the message.
    """
    text = cell.strip().casefold().removesuffix(".0")
    if text and text not in EYES:
        raise RetinaflowError(
            f"{path}: row {number} has {cell[:80]!r} as the eye. Expected left or right, L or R, OS or OD, or 1 for "
            f"right and 2 for left; empty if it is unknown. Correct the row{also}."
        )
    return EYES.get(text, "")
