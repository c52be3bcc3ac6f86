"""Sheets of Excel workbooks (.xlsx and .xls), read within bounds, since a small file can unpack to any size."""

import io
import zlib
from collections.abc import Iterator
from datetime import date, datetime, time
from importlib.util import find_spec
from typing import Any
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile

from retinaflow.errors import RetinaflowError

ZIP = b"PK\x03\x04"
OLD_EXCEL = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"  # Also a workbook of any age with a password.
WORKBOOK = "xl/workbook.xml"
UNPACKED_BYTES = 2**27
ROWS = 2**20  # of a sheet of Excel
CELLS = 10**7

SheetRows = list[tuple[int, list[str]]]


def is_workbook(content: bytes) -> bool:
    """Return whether a file is an Excel workbook, whatever its name."""
    if content.startswith(OLD_EXCEL):
        return True
    if not content.startswith(ZIP):
        return False
    try:
        with ZipFile(io.BytesIO(content)) as archive:
            return WORKBOOK in archive.namelist()
    except (BadZipFile, OSError, ValueError, NotImplementedError):
        return False


def read_sheets(path: str, content: bytes) -> list[tuple[str, SheetRows]]:
    """Read all sheets of a workbook.

    A formula has the value that the workbook stores for it. Formulas are not evaluated.

    Args:
        path: Name of the workbook, for messages.
        content: Its bytes.

    Returns:
        Name of each sheet, and number and values of each row that is not blank.

    Raises:
        RetinaflowError: The workbook is damaged, too large or has a password, or its reader is not installed.
    """
    is_old = content.startswith(OLD_EXCEL)
    if not is_old:
        _check_archive(path, content)
    reader = "xlrd" if is_old else "openpyxl"
    if find_spec(reader) is None:
        raise RetinaflowError(
            f"{path}: is an Excel workbook, which needs {reader}. Install it (pip install {reader}), or save the table "
            "as 'CSV UTF-8'."
        )
    try:
        sheets = _old_sheets(content) if is_old else _sheets(content)
        return [(name, list(_rows(path, name, rows))) for name, rows in sheets]
    except RetinaflowError:
        raise
    # The readers check little, so that damage appears as an error of any kind.
    except (Exception, zlib.error) as error:
        if is_old and _has_password(content, error):
            raise _damaged(path, "it has a password", "without a password ") from error
        raise _damaged(path, f"{type(error).__name__}: {str(error)[:200]}") from error


def _check_archive(path: str, content: bytes) -> None:
    with ZipFile(io.BytesIO(content)) as archive:
        members = archive.infolist()
    if sum(member.file_size for member in members) > UNPACKED_BYTES:
        raise RetinaflowError(
            f"{path}: unpacks to more than {UNPACKED_BYTES} bytes, expected a table with a row for each image. Save "
            "the sheet as 'CSV UTF-8', or keep only the columns that are needed."
        )
    # Other methods decompress without a limit.
    if any(member.compress_type not in (ZIP_STORED, ZIP_DEFLATED) for member in members):
        raise _damaged(path, "its compression is not that of Excel")


def _sheets(content: bytes) -> Iterator[tuple[str, Iterator[Any]]]:
    from openpyxl import load_workbook

    for sheet in load_workbook(io.BytesIO(content), read_only=True, data_only=True, keep_links=False).worksheets:
        # The size that a sheet declares can be wrong, and rows would be filled up to it.
        sheet.reset_dimensions()
        yield sheet.title, sheet.iter_rows(values_only=True)


def _old_sheets(content: bytes) -> Iterator[tuple[str, Iterator[Any]]]:
    import xlrd

    # Notes on damage would go to the standard output.
    with xlrd.open_workbook(file_contents=content, logfile=io.StringIO(), on_demand=True, ragged_rows=True) as book:
        for number, name in enumerate(book.sheet_names()):
            sheet = book.sheet_by_index(number)
            yield name, ([_old_value(cell, book.datemode) for cell in sheet.row(row)] for row in range(sheet.nrows))
            book.unload_sheet(number)


def _old_value(cell: Any, datemode: int) -> Any:
    import xlrd

    if cell.ctype == xlrd.XL_CELL_DATE:
        moment: datetime = xlrd.xldate_as_datetime(cell.value, datemode)
        return moment if cell.value >= 1 else moment.time()
    if cell.ctype == xlrd.XL_CELL_BOOLEAN:
        return bool(cell.value)
    if cell.ctype == xlrd.XL_CELL_ERROR:
        return xlrd.error_text_from_code[cell.value]
    return cell.value


def _has_password(content: bytes, error: Exception) -> bool:
    return "EncryptedPackage".encode("UTF-16-LE") in content or "encrypted" in str(error)


def _rows(path: str, name: str, rows: Iterator[Any]) -> Iterator[tuple[int, list[str]]]:
    cells = 0
    for number, row in enumerate(rows, start=1):
        cells += len(row)
        if number > ROWS or cells > CELLS:
            raise RetinaflowError(
                f"{path}: the sheet {name[:40]!r} has more than {ROWS} rows or {CELLS} values, expected a row "
                "for each image. Remove the other ones, or save it as 'CSV UTF-8'."
            )
        values = [_text(value) for value in row]
        if any(values):
            yield number, values


def _text(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, float) and value.is_integer():
        return str(int(value))
    return value.isoformat() if isinstance(value, date | time) else str(value).strip()


def _damaged(path: str, reason: str, how: str = "") -> RetinaflowError:
    return RetinaflowError(
        f"{path}: cannot be read as an Excel workbook ({reason}). Save it again {how}as .xlsx or as 'CSV UTF-8'."
    )
