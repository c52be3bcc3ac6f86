"""Forms of label tables: text with blanks, tables without header, Excel workbooks, several tables, class folders."""

import io
import sys
import time
import zipfile
from pathlib import Path

import pytest
from openpyxl import Workbook

from retinaflow.data import excel
from retinaflow.data.excel import CELLS, OLD_EXCEL, UNPACKED_BYTES
from retinaflow.data.grade_texts import grade_parser
from retinaflow.data.label_tables import open_table
from retinaflow.data.labels import LabelRow, folder_labels, read_labels
from retinaflow.errors import RetinaflowError

GRADE_NAMES = ["no_dr", "mild", "moderate", "severe", "proliferative"]
TWO = [("a", "0"), ("b", "4")]


def read(path: Path, **columns: str) -> list[tuple[str, str]]:
    return [(row.image, row.grade_text) for row in read_labels(str(path), "image", "level", **columns)]


@pytest.mark.parametrize(
    "content",
    [
        "a.jpg 0\nb.jpg 4\n",
        "a.jpg   0  \nb.jpg 4",
        "a.jpg\t0\nb.jpg\t4\n",
        "a.JPG,0\nb.png,4\n",
        "a.jpg;0\n\nb.jpg;4\n",
        "train/a.jpg 0\ntrain/b.jpg 4\n",
        "a.dcm 0\nb.dcm 4\n",
        "image level\na 0\nb 4\n",
        "image   level  \na.jpg   0\nb.jpg 4  \n",
        "level image other\n0 a x\n4 b\n",
        'image level\n"a" 0\nb 4\n',
    ],
)
def test_text_with_blanks_or_without_header_is_read(tmp_path: Path, content: str) -> None:
    (tmp_path / "labels.txt").write_text(content)
    assert read(tmp_path / "labels.txt") == TWO


def test_rows_without_a_header_are_counted_from_one(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("a.jpg 0\n\nb.jpg 4\n")
    assert [row.row for row in read_labels(str(tmp_path / "labels.txt"), "image", "level")] == [1, 3]


@pytest.mark.parametrize(
    ("content", "columns", "message"),
    [
        ("a 0\nb 4\n", {}, "expected the columns 'image' and 'level'"),
        ("a.jpg 0 1\nb.jpg 4 1\n", {}, "expected the columns"),
        ("a.jpg 0\nb.jpg 4 5\n", {}, "row 2 has 3 values, expected 2"),
        ("a.jpg 0\nb.jpg 4\n", {"patient_column": "p"}, "expected the columns 'image' and 'level' and 'p'"),
        ("my a.jpg 0\n", {}, "expected the columns"),
        ("a.jpg\nb.jpg\n", {}, "expected the columns"),
        ("/x/a.jpg 0\n", {}, "row 1 names the image '/x/a.jpg'"),
        ("\nimage level\n", {}, "expected the columns"),
    ],
)
def test_text_that_is_no_table_is_an_error(tmp_path: Path, content: str, columns: dict[str, str], message: str) -> None:
    (tmp_path / "labels.txt").write_text(content)
    with pytest.raises(RetinaflowError, match=message):
        read(tmp_path / "labels.txt", **columns)


def test_rows_of_several_tables_name_their_table(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("image,level\na,0\n")
    (tmp_path / "b.txt").write_text("b.jpg 4\n")
    tables = [str(tmp_path / "a.csv"), str(tmp_path / "b.txt")]
    rows = read_labels(tables, "image", "level")
    assert [(row.image, row.grade_text, row.row, row.table) for row in rows] == [
        ("a", "0", 2, tables[0]),
        ("b", "4", 1, tables[1]),
    ]
    assert read_labels(tables[:1], "image", "level")[0].table == ""


def workbook(path: Path, *sheets: list[list[object]]) -> Path:
    book = Workbook()
    book.remove(book.active)
    for rows in sheets:
        sheet = book.create_sheet()
        for row in rows:
            sheet.append(row)
    book.save(path)
    return path


HEADER = ["other", "Image ", "level"]


@pytest.mark.parametrize("name", ["t.xlsx", "t.xls", "t.csv"])
@pytest.mark.parametrize(
    "rows",
    [
        [HEADER, [1, "a", 0], [2, "b", 4]],
        [HEADER, [None, "a.jpg", 0.0], [], [None, "b", "4"]],
        [[], HEADER, ["x", "a", "0"], ["y", "b", 4]],
    ],
)
def test_workbook_is_read_like_csv(tmp_path: Path, name: str, rows: list[list[object]]) -> None:
    assert read(workbook(tmp_path / name, rows)) == TWO


def test_workbook_has_patients_eyes_and_numbers_as_names(tmp_path: Path) -> None:
    path = workbook(tmp_path / "t.xlsx", [["image", "level", "p", "e"], [17, 2, 5.0, 1], ["x", "Mild", "P7", "OS"]])
    rows = read_labels(str(path), "image", "level", patient_column="p", eye_column="e")
    assert rows == [LabelRow("17", "2", 2, "5", "right"), LabelRow("x", "Mild", 3, "P7", "left")]


def test_the_sheet_with_the_columns_is_read(tmp_path: Path) -> None:
    table = [["image", "level"], ["a", 0], ["b", 4]]
    assert read(workbook(tmp_path / "t.xlsx", [["notes"], ["x"]], [], table)) == TWO
    with pytest.raises(RetinaflowError, match="the sheets 'Sheet' and 'Sheet1' have the columns"):
        read(workbook(tmp_path / "t.xlsx", table, table))
    with pytest.raises(RetinaflowError, match="expected the columns 'image' and 'level', each once; found 'notes'"):
        read(workbook(tmp_path / "t.xlsx", [["notes"], ["x"]]))
    with pytest.raises(RetinaflowError, match="found no CSV"):
        read(workbook(tmp_path / "t.xlsx", []))


def test_formula_is_not_evaluated(tmp_path: Path) -> None:
    path = workbook(tmp_path / "t.xlsx", [["image", "level"], ["a", "=1+1"]])
    assert read(path) == [("a", "")]


# A workbook of Excel 97 with the sheets notes, grades (first row blank) and empty. Its cells are texts, numbers, dates,
# a time, a truth value, an error and a formula that was never calculated. Written with xlwt 1.3.0.
OLD = Path(__file__).with_name("labels.xls")


@pytest.mark.parametrize("name", ["t.xls", "t.xlsx", "t.csv"])
def test_old_workbook_is_read_like_the_new_one(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    path.write_bytes(OLD.read_bytes())
    rows = read_labels(str(path), "image", "level", patient_column="patient", eye_column="eye")
    assert rows == [
        LabelRow("0012", "0", 3, "7", "right"),
        LabelRow("Ä_links", "4", 5, "P-7", "left"),
        LabelRow("17", "mild", 6, "8", "right"),
    ]


def test_values_of_an_old_workbook_are_texts_of_a_table() -> None:
    table = open_table(str(OLD), ["visit", "reader", "note"], cure="")
    assert [[cells[place] if place < len(cells) else "" for place in table.places] for _, cells in table.rows] == [
        ["2019-03-04T00:00:00", "0.5", "True"],
        ["09:30:00", "2", "#N/A"],
        ["2019-03-04T12:00:00", "1.25", ""],
    ]
    with pytest.raises(RetinaflowError, match="expected the columns 'visitor', each once; found 'Exported from the gr"):
        open_table(str(OLD), ["visitor"], cure="")


def test_old_workbook_has_the_same_bound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(excel, "CELLS", 5)
    with pytest.raises(RetinaflowError, match=r"labels\.xls: the sheet 'grades' has more than"):
        read(OLD)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (OLD_EXCEL + bytes(512), r"cannot be read as an Excel workbook \(.*Save it again as \.xlsx"),
        (OLD_EXCEL + bytes(512) + "EncryptedPackage".encode("UTF-16-LE"), "it has a password.*without a password as"),
        (OLD.read_bytes().replace(b"\x42\0\x02\0", b"\x2f\0\x02\0", 1), "it has a password"),
    ],
)
def test_old_workbook_that_cannot_be_read_is_an_error(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "t.xls").write_bytes(content)
    with pytest.raises(RetinaflowError, match=rf"t\.xls: .*{message}"):
        read(tmp_path / "t.xls")


def test_damaged_old_workbook_is_an_error_or_is_read(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path, whole = tmp_path / "t.xls", OLD.read_bytes()
    damaged = [whole[:end] for end in range(8, len(whole), 97)]
    damaged += [whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :] for place in range(8, len(whole), 7)]
    for content in damaged:
        path.write_bytes(content)
        try:
            assert len(read(path)) <= 3
        except RetinaflowError as error:
            assert "t.xls" in str(error)  # noqa: PT017
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("name", "reader"), [("t.xlsx", "openpyxl"), ("t.xls", "xlrd")])
def test_missing_reader_of_workbooks_is_a_clear_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, reader: str
) -> None:
    path = workbook(tmp_path / name, [["image", "level"], ["a", 0]])
    if reader == "xlrd":
        path.write_bytes(OLD.read_bytes())
    monkeypatch.setitem(sys.modules, reader, None)
    with pytest.raises(RetinaflowError, match=rf"needs {reader}\. Install it"):
        read(path)


def changed(path: Path, sheet: str, compression: int = zipfile.ZIP_DEFLATED) -> Path:
    """Replace the content of the first sheet of a workbook."""
    content = path.read_bytes()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(path, "w", compression) as new:
        for name in old.namelist():
            new.writestr(name, sheet if "sheet1.xml" in name else old.read(name))
    return path


SHEET = (
    '<worksheet xmlns="http://schemas.openxmlformats.org/spreadsheetml/2006/main"><dimension ref="A1:XFD1048576"/>'
    "<sheetData>{}</sheetData></worksheet>"
)


def inline(place: str, text: str) -> str:
    return f'<c r="{place}" t="inlineStr"><is><t>{text}</t></is></c>'


TABLE = (
    f'<row r="1">{inline("A1", "image")}{inline("B1", "level")}</row>'
    f'<row r="2">{inline("A2", "a")}{inline("B2", "0")}</row>'
    f'<row r="3">{inline("A3", "b")}{inline("B3", "4")}</row>'
)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (f'{TABLE}<row r="99999999999">{inline("A99999999999", "c")}</row>', "more than|cannot be read"),
        (TABLE + "".join(f'<row r="{n}">{inline(f"ZZZ{n}", "x")}</row>' for n in range(4, 1200)), "more than"),
        (TABLE[:-9], "cannot be read as an Excel workbook"),
    ],
)
def test_sheet_built_to_exhaust_is_refused_in_time(tmp_path: Path, rows: str, message: str) -> None:
    assert CELLS < 18_278 * 1196
    path = changed(workbook(tmp_path / "t.xlsx", [["image", "level"], ["a", 0]]), SHEET.format(rows))
    start = time.perf_counter()
    with pytest.raises(RetinaflowError, match=message):
        read(path)
    assert time.perf_counter() - start < 20


def test_declared_size_of_a_sheet_is_ignored(tmp_path: Path) -> None:
    path = changed(workbook(tmp_path / "t.xlsx", [["image", "level"], ["a", 0]]), SHEET.format(TABLE))
    start = time.perf_counter()
    assert read(path) == TWO
    assert time.perf_counter() - start < 5


def test_workbook_that_unpacks_to_too_much_is_refused(tmp_path: Path) -> None:
    path = changed(workbook(tmp_path / "t.xlsx", [["a"]]), SHEET.format(TABLE + " " * UNPACKED_BYTES))
    assert path.stat().st_size < 10**6
    with pytest.raises(RetinaflowError, match=f"unpacks to more than {UNPACKED_BYTES} bytes"):
        read(path)


def test_unusual_compression_is_refused(tmp_path: Path) -> None:
    path = changed(workbook(tmp_path / "t.xlsx", [["a"]]), SHEET.format(TABLE), zipfile.ZIP_LZMA)
    with pytest.raises(RetinaflowError, match="its compression is not that of Excel"):
        read(path)


def test_entities_are_not_expanded_without_a_bound(tmp_path: Path) -> None:
    entities = "".join(f'<!ENTITY e{n} "{f"&e{n - 1};" * 20}">' for n in range(1, 12))
    sheet = f'<!DOCTYPE x [<!ENTITY e0 "aaaaaaaaaa">{entities}]>' + SHEET.format(TABLE.replace(">b<", ">&e11;<", 1))
    path = changed(workbook(tmp_path / "t.xlsx", [["a"]]), sheet)
    start = time.perf_counter()
    with pytest.raises(RetinaflowError, match="cannot be read as an Excel workbook"):
        read(path)
    assert time.perf_counter() - start < 20


def test_truncated_workbook_is_an_error_or_is_read(tmp_path: Path) -> None:
    path = workbook(tmp_path / "t.xlsx", [["image", "level"], ["a", 0], ["b", 4]])
    whole = path.read_bytes()
    for end in range(4, len(whole), 97):
        path.write_bytes(whole[:end])
        with pytest.raises(RetinaflowError, match=r"t\.xlsx"):
            read(path)
    for place in range(0, len(whole), 61):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        try:
            assert len(read(path)) <= 2
        except RetinaflowError as error:
            assert "t.xlsx" in str(error)  # noqa: PT017


@pytest.mark.parametrize(
    ("file", "grade"),
    [
        ("No_DR/a", 0),
        ("0/a", 0),
        ("train/Mild/a", 1),
        ("Proliferate_DR/batch 1/a", 4),
        ("mild/1/a", 1),
        ("mild/2/a", None),
        ("5/a", None),
        ("other/a", None),
        ("a", None),
    ],
)
def test_grade_is_that_of_the_folder(file: str, grade: int | None) -> None:
    parse = grade_parser(GRADE_NAMES)
    (row,) = folder_labels([file], parse)
    assert (row.image, row.relative_path) == ("a", file)
    assert parse(row.grade_text) == grade


def test_folders_may_have_a_grade_map() -> None:
    parse = grade_parser(["no", "yes"], {"healthy": "no", "yes": ["sick", "very sick"]})
    rows = folder_labels(["healthy/a", "sick/b", "Very_Sick/c", "no/d"], parse)
    assert [parse(row.grade_text) for row in rows] == [0, 1, 1, None]
