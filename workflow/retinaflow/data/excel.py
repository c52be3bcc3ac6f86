"""Sheets of Excel workbooks (.xlsx), read within bounds, since a small file can unpack to any size."""

import io
import zlib
from collections.abc import Iterator
from datetime import date, time
from importlib.util import find_spec
from typing import Any
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile

from retinaflow.errors import RetinaflowError

ZIP = b"PK\x03\x04"
WORKBOOK = "xl/workbook.xml"
UNPACKED_BYTES = 2**27
ROWS = 2**20  # of a sheet of Excel
CELLS = 10**7

SheetRows = list[tuple[int, list[str]]]


def is_workbook(content: bytes) -> bool:
    """Return whether a file is a workbook of Excel since 2007, whatever its name."""
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
        RetinaflowError: The workbook is damaged or too large, or openpyxl is not installed.
    """
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
    if find_spec("openpyxl") is None:
        raise RetinaflowError(
            f"{path}: is an Excel workbook, which needs openpyxl. Install it (pip install openpyxl), or save the table "
            "as 'CSV UTF-8'."
        )
    from openpyxl import load_workbook

    try:
        book = load_workbook(io.BytesIO(content), read_only=True, data_only=True, keep_links=False)
        return [(sheet.title, list(_rows(path, sheet))) for sheet in book.worksheets]
    except RetinaflowError:
        raise
    # openpyxl checks little, so that damage appears as an error of any kind.
    except (Exception, zlib.error) as error:
        raise _damaged(path, f"{type(error).__name__}: {str(error)[:200]}") from error


def _rows(path: str, sheet: Any) -> Iterator[tuple[int, list[str]]]:
    # The size that a sheet declares can be wrong, and rows would be filled up to it.
    sheet.reset_dimensions()
    cells = 0
    for number, row in enumerate(sheet.iter_rows(values_only=True), start=1):
        cells += len(row)
        if number > ROWS or cells > CELLS:
            raise RetinaflowError(
                f"{path}: the sheet {sheet.title[:40]!r} has more than {ROWS} rows or {CELLS} values, expected a row "
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


def _damaged(path: str, reason: str) -> RetinaflowError:
    return RetinaflowError(
        f"{path}: cannot be read as an Excel workbook ({reason}). Save it again as .xlsx or as 'CSV UTF-8'."
    )
