"""Tables that people and programs export: CSV in several dialects, text separated by blanks, and Excel workbooks."""

import codecs
import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from retinaflow.data.excel import is_workbook, read_sheets
from retinaflow.data.image_files import IMAGE_EXTENSIONS
from retinaflow.errors import RetinaflowError
from retinaflow.storage.archives import TABLE_BYTES, read_member, split_archive

DELIMITERS = (",", ";", "\t")
BLANK = " "
SHOWN = 10

Rows = Iterator[tuple[int, list[str]]]


@dataclass(frozen=True)
class Table:
    """A table that is read row by row.

    Attributes:
        places: Place of each column that was asked for.
        width: Number of columns.
        rows: Number and values of each row that is not blank. The header, row 1, is left out.
        optional: Place of each optional column that the table has, by its name.
    """

    places: list[int]
    width: int
    rows: Rows
    optional: Mapping[str, int] = field(default_factory=dict)


def open_table(
    path: str, wanted: Sequence[str], *, cure: str, may_lack_header: bool = False, optional: Sequence[str] = ()
) -> Table:
    """Open a table and find some of its columns.

    Args:
        path: The table, or ``x.zip`` with one inside. A CSV table has commas, semicolons or tabs, else blanks.
        wanted: Names of the columns. If no column has the exact name, upper and lower case count as equal. Blanks
            around a name do not count.
        cure: Advice for a column that is missing.
        may_lack_header: Whether a table of two columns that begins with the name of an image file has no header. Its
            columns are the ``wanted`` ones.
        optional: Names of columns that the table may lack.

    Raises:
        RetinaflowError: The table cannot be read, is empty or too large. A column is missing, or one of them or of the
            optional ones occurs twice.
    """
    content = _read_bytes(path)
    if is_workbook(content):
        return _of_workbook(path, content, wanted, cure=cure, optional=optional)
    text = _decoded(path, content)
    headers = {delimiter: _header(text, delimiter) for delimiter in (*DELIMITERS, BLANK)}
    for delimiter, header in headers.items():
        if places := _all_places(header, wanted):
            found = _optional_places(path, header, optional)
            return Table(places, len(header), _data_rows(path, text, delimiter), found)
    if may_lack_header and len(wanted) == 2:
        for delimiter, header in headers.items():
            if len(header) == 2 and header[0].lower().endswith(IMAGE_EXTENSIONS):
                return Table([0, 1], 2, _data_rows(path, text, delimiter, first=1))
    del headers[BLANK]
    raise _missing(path, wanted, cure, found=max(headers.values(), key=len))


def read_text(path: str) -> str:
    """Read a text file, or the table in an archive.

    Raises:
        RetinaflowError: It cannot be read, is empty or too large, or is no text in UTF-8 or UTF-16.
    """
    return _decoded(path, _read_bytes(path))


def _read_bytes(path: str) -> bytes:
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
    return content


def _decoded(path: str, content: bytes) -> str:
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


def _of_workbook(path: str, content: bytes, wanted: Sequence[str], *, cure: str, optional: Sequence[str]) -> Table:
    """The one sheet that has all columns. Its header is the first row that is not blank."""
    sheets = [(name, rows) for name, rows in read_sheets(path, content) if rows]
    found = {name: _all_places(rows[0][1], wanted) for name, rows in sheets}
    having = [name for name, places in found.items() if places]
    if len(having) > 1:
        raise RetinaflowError(
            f"{path}: the sheets {' and '.join(map(repr, having[:SHOWN]))} have the columns "
            f"{' and '.join(map(repr, wanted))}, expected one sheet with them. Save that sheet as 'CSV UTF-8'."
        )
    if not having:
        raise _missing(path, wanted, cure, found=sheets[0][1][0][1] if sheets else [])
    rows = dict(sheets)[having[0]]
    width = max(len(cells) for _, cells in rows)
    return Table(found[having[0]], width, iter(rows[1:]), _optional_places(path, rows[0][1], optional))


def _missing(path: str, wanted: Sequence[str], cure: str, *, found: Sequence[str]) -> RetinaflowError:
    names = [repr(name[:40]) for name in found]
    shown = ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
    return RetinaflowError(
        f"{path}: expected the columns {' and '.join(map(repr, wanted))}, each once; found {shown or 'no CSV'} in "
        f"the first row. Correct it, {cure}."
    )


def _all_places(header: Sequence[str], wanted: Sequence[str]) -> list[int]:
    """Place of each column; empty unless each is there once."""
    places = [_places(header, column.strip()) for column in wanted]
    return [place for (place,) in places] if all(len(place) == 1 for place in places) else []


def _optional_places(path: str, header: Sequence[str], optional: Sequence[str]) -> dict[str, int]:
    """Place of each optional column that is there."""
    found = {column: places for column in optional if (places := _places(header, column))}
    if twice := [column for column, places in found.items() if len(places) > 1]:
        raise RetinaflowError(
            f"{path}: the first row has the column {twice[0]!r} {len(found[twice[0]])} times, expected it once. Rename "
            "or remove the others."
        )
    return {column: places[0] for column, places in found.items()}


def _places(header: Sequence[str], column: str) -> list[int]:
    exact = [place for place, name in enumerate(header) if name == column]
    return exact or [place for place, name in enumerate(header) if name.casefold() == column.casefold()]


def _header(text: str, delimiter: str) -> list[str]:
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=delimiter == BLANK)
        header = [cell.strip() for cell in next(reader)]
    except csv.Error:
        # A quote that makes no sense with this delimiter: the table has another one.
        return []
    # Blanks at the end of a line are no column.
    while delimiter == BLANK and header and not header[-1]:
        header.pop()
    return header


def _data_rows(path: str, text: str, delimiter: str, *, first: int = 2) -> Rows:
    # Strict, because a quote that is never closed would swallow all rows after it.
    reader = csv.reader(
        io.StringIO(text, newline=""), delimiter=delimiter, skipinitialspace=delimiter == BLANK, strict=True
    )
    number = 0
    try:
        for number, cells in enumerate(reader, start=1):
            if number >= first and any(map(str.strip, cells)):
                yield number, cells
    except csv.Error as error:
        raise RetinaflowError(
            f"{path}: row {number + 1} is not CSV ({error}; read up to line {reader.line_num}). Close or remove the "
            "quotes there."
        ) from error
