"""Label tables: delimiters, encodings, quotes, image names and grades."""

import csv
import io
import os
import time
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz import mutated
from retinaflow.data.grade_texts import grade_parser, map_faults, parse_grade
from retinaflow.data.labels import IMAGE_EXTENSIONS, LabelRow, image_name, name_parser, read_labels, read_pairs
from retinaflow.errors import RetinaflowError
from retinaflow.storage.archives import TABLE_BYTES

DATA = Path(os.environ.get("RETINAFLOW_DATA", Path(__file__).parents[2] / "../shared/data"))
GRADE_NAMES = ["none", "mild", "moderate", "severe", "proliferative"]


def read(tmp_path: Path, content: str | bytes) -> list[LabelRow]:
    path = tmp_path / "labels.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return read_labels(str(path), "image", "level")


TWO = [LabelRow("10_left", "0", 2), LabelRow("10_right", "4", 3)]


@pytest.mark.parametrize(
    "content",
    [
        "image,level\n10_left,0\n10_right,4\n",
        "image,level\n10_left,0\n10_right,4",
        "image,level\r\n10_left,0\r\n10_right,4\r\n",
        "image,level\r10_left,0\r10_right,4\r",
        "\ufeffimage,level\n10_left,0\n10_right,4\n",
        '"image","level"\n"10_left","0"\n"10_right","4"\n',
        "image;level\n10_left;0\n10_right;4\n",
        'image\tlevel\tnote\n10_left\t0\t"a, b"\n10_right\t4\t\n',
        "image;level;a, b, c, d\n10_left;0;1,2\n10_right;4;\n",
        "Usage,level,image\nPrivate,0,10_left\nPublic,4,10_right\n",
        " image , level \n 10_left , 0 \n 10_right , 4 \n",
        "image,level\n10_left.jpeg,0\n10_right.JPG,4\n",
        "image,level\n10_left,0,\n10_right,4,\n",
        "image,level\n10_left,0\n10_right,4\n\n,\n",
        "image,level\n10_left,0\n10_right,4\n".encode("utf-16"),
        "\ufeffimage\tlevel\r\n10_left\t0\r\n10_right\t4\r\n".encode("utf-16-be"),
        "Image,LEVEL\n10_left,0\n10_right,4\n",
        "IMAGE,Level,level\n10_left,9,0\n10_right,9,4\n",
        "image,level\ntrain/10_left.jpeg,0\n./a b/10_right.JPeG,4\n",
        "image,level," + ",".join(f"c{n}" for n in range(5000)) + "\n10_left,0\n10_right,4\n",
        "a|b,image,level\n1|2,10_left,0\n,10_right,4\n",
    ],
)
def test_all_dialects_are_read_alike(tmp_path: Path, content: str | bytes) -> None:
    assert read(tmp_path, content) == TWO


def test_rows_are_counted_as_in_a_spreadsheet(tmp_path: Path) -> None:
    rows = read(tmp_path, 'image,level,note\na,1,"two\nlines"\n\nb,2,\nc\n')
    assert rows == [LabelRow("a", "1", 2), LabelRow("b", "2", 4), LabelRow("c", "", 5)]


def test_table_in_an_archive_is_read(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("labels.csv", "image,level\n10_left,0\n10_right,4\n")
    assert read_labels(str(path), "image", "level") == TWO
    assert read_labels(f"{path}/labels.csv", "image", "level") == TWO


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"\xef\xbb\xbf", "is empty"),
        (b"\n \r\n", "is empty"),
        (b"image,level\n", "no row below the header"),
        (b"image,level\n\n,\n", "no row below the header"),
        (b"image,grade\na,1\n", "'image' and 'level', each once; found 'image', 'grade'"),
        (b"image;grade\na;1\n", "found 'image', 'grade'"),
        (b"image,level,level\na,1,2\n", "found 'image', 'level', 'level'"),
        (b"image,level\na,1\nb,\0\n", "NUL"),
        (b"image,level\n\xe9,1\n", r"byte 13 \(0xe9\) is not UTF-8"),
        (b"10_left,0\n10_right,4\n", "found '10_left', '0' in the first row. Correct it, add it if"),
        (b"image|level\na|1\n", r"found 'image\|level' in the first row"),
        (b"Image,IMAGE,level\na,a,1\n", "found 'Image', 'IMAGE', 'level'"),
        ((",".join(f"c{n}" for n in range(5000)) + "\n").encode(), "'c9' and 4990 more in the first row"),
        (b"<html><body>404 not found</body></html>", "expected the columns .* found '<html>"),
        (b"PK\x03\x04\n\x00\x00", "NUL"),
        ("image,level\na,1\n".encode("utf-16")[2:], "NUL"),
        ("image,level\na,1\n".encode("utf-16") + b"\xd8", "is not UTF-16"),
        ("image,level\na,1\n".encode("utf-32"), "NUL"),
        (b'image,level\na,1\n"b,2\nc,3\n', "row 3 is not CSV .*read up to line 4"),
        (b'image,level\na,1\n"b"c,2\n', "row 3 is not CSV"),
        (b'"image,level\na,1\n', "found "),
        (b"image,level\na,1\nb," + b"2" * 200_000 + b"\n", r"row 3 is not CSV \(field larger than field limit"),
        (b"image,level," + b"x" * 200_000 + b"\na,1\n", "found no CSV in the first row"),
        (b"image,level\na,1\nb,2,5\n", "row 3 has 3 values, expected 2"),
        (b"image,level\na,1\na,b,2\n", "row 3 has 3 values, expected 2"),
        (b"image,level\na,1\n,2\n", "row 3 names the image ''"),
        (b"image,level\na,1\n.jpeg,2\n", "row 3 names the image '.jpeg'"),
        (b"image,level\n../x,1\n", "row 2 names the image '../x'"),
        (b"image,level\n..,1\n", "row 2 names"),
        (b"image,level\n/x.jpeg,1\n", "row 2 names"),
        (b"image,level\n//server/x.jpeg,1\n", "row 2 names"),
        (b"image,level\na/../x,1\n", "row 2 names"),
        (b"image,level\na/..,1\n", "row 2 names"),
        (b"image,level\na/,1\n", "row 2 names"),
        (b"image,level\na/.png,1\n", "row 2 names"),
        (b"image,level\na\\b,1\n", "row 2 names"),
        (b"image,level\n..\\x,1\n", "row 2 names"),
        (b"image,level\nC:/data/x.jpeg,1\n", "row 2 names"),
        (b"image,level\nC:x.jpeg,1\n", "row 2 names"),
        (b"image,level\n/" + b"x" * 100_000 + b",1\n", "row 2 names the image '/x{79}', expected"),
    ],
)
def test_unusable_table_is_an_error_that_names_the_place(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "labels.csv"
    path.write_bytes(content)
    with pytest.raises(RetinaflowError, match=rf"labels\.csv.*{message}") as caught:
        read_labels(str(path), "image", "level")
    assert len(str(caught.value)) < 1000


def test_table_that_is_too_large_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "labels.csv"
    path.write_bytes(b"image,level\n")
    os.truncate(path, 2**40)  # Sparse: needs no space on disk.
    with pytest.raises(RetinaflowError, match=rf"labels\.csv: is larger than {TABLE_BYTES} bytes"):
        read_labels(str(path), "image", "level")


def test_quoted_values_may_have_delimiters_line_ends_and_quotes(tmp_path: Path) -> None:
    rows = read(tmp_path, 'image,level\n"a, b","1"\n"two\nlines.PNG",2\n"in ""quotes""",0\n')
    assert rows == [LabelRow("a, b", "1", 2), LabelRow("two\nlines", "2", 3), LabelRow('in "quotes"', "0", 4)]


@pytest.mark.parametrize("name", ["missing.csv", "missing.zip", "."])
def test_missing_table_is_an_error(tmp_path: Path, name: str) -> None:
    with pytest.raises(RetinaflowError, match=r"cannot be read"):
        read_labels(str(tmp_path / name), "image", "level")


@pytest.mark.parametrize(
    ("filename", "name"),
    [
        ("10_left.jpeg", "10_left"),
        ("10_left.JPG", "10_left"),
        ("a.Tiff", "a"),
        ("a.v2", "a.v2"),
        ("a.v2.png", "a.v2"),
        ("a.jpeg.jpeg", "a.jpeg"),
        (" a .bmp ", "a"),
        ("jpeg", "jpeg"),
    ],
)
def test_only_extensions_of_images_are_dropped(filename: str, name: str) -> None:
    assert image_name(filename) == name


names = st.text(st.characters(exclude_categories=["C", "Z"], exclude_characters="/\\:"), min_size=1, max_size=8).filter(
    lambda name: name not in (".", "..") and not name.lower().endswith(IMAGE_EXTENSIONS)
)


@given(
    rows=st.lists(st.tuples(names, st.text(st.characters(exclude_categories=["C", "Z"]), max_size=4)), min_size=1),
    delimiter=st.sampled_from(",;\t"),
    extension=st.sampled_from(["", *IMAGE_EXTENSIONS]),
    bom=st.booleans(),
)
def test_written_labels_are_read_again(
    tmp_path_factory: pytest.TempPathFactory, rows: list[tuple[str, str]], delimiter: str, extension: str, bom: bool
) -> None:
    text = io.StringIO()
    csv.writer(text, delimiter=delimiter).writerows(
        [("level", "image"), *((grade, n + extension) for n, grade in rows)]
    )
    path = tmp_path_factory.mktemp("labels") / "labels.csv"
    path.write_bytes(text.getvalue().encode("utf-8-sig" if bom else "utf-8"))
    expected = [LabelRow(name, grade, number) for number, (name, grade) in enumerate(rows, start=2)]
    assert read_labels(str(path), "image", "level") == expected


TABLES = [
    b'image,level\n"10_left","0"\r\n10_right,4\na/b.jpeg,2\n',
    'image;level;note\n10_left;0,0;"x\ny"\n10_right;4;\n'.encode("utf-16"),
    "\ufeffUsage\tLevel\tImage\nPrivate\t0\tü_left.png\n".encode(),
]


@given(
    st.one_of(
        st.binary(max_size=200),
        st.text(st.sampled_from('image,level;\t"\n\r \0/\\.0é\ufeff'), max_size=60).map(str.encode),
        mutated(TABLES),
    )
)
def test_any_content_is_read_or_a_clear_error(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.mktemp("labels") / "labels.csv"
    path.write_bytes(content)
    try:
        labels = read_labels(str(path), "image", "level")
    except RetinaflowError as error:
        assert str(error).startswith(str(path))  # noqa: PT017
    else:
        assert all(label.image and "/" not in label.image and label.image != ".." for label in labels)


@pytest.mark.parametrize(
    ("text", "grade"),
    [
        ("0", 0),
        (" 4 ", 4),
        ("2.0", 2),
        ("2.000", 2),
        ("2,0", 2),
        ("2,5", None),
        ("02", 2),
        ("mild", 1),
        ("proliferative", 4),
        ("5", None),
        ("-1", None),
        ("2.5", None),
        ("2.", None),
        ("", None),
        ("Mild", 1),
        ("nan", None),
        ("1e0", None),
        ("²", None),
        ("٣", None),
        ("9" * 5000, None),
    ],
)
def test_grades_are_numbers_or_names(text: str, grade: int | None) -> None:
    assert parse_grade(text, GRADE_NAMES) == grade


def test_grade_names_that_are_other_numbers_are_only_names() -> None:
    grades = ["1", "2", "3"]
    assert [parse_grade(text, grades) for text in ("1", "3", "0", "2.0")] == [0, 2, None, None]
    assert [parse_grade(text, ["0", "1", "2"]) for text in ("1", "2.0", "3")] == [1, 2, None]


@pytest.mark.parametrize(
    ("text", "grade"),
    [
        ("No_DR", 0),
        ("No DR", 0),
        ("NO-DR", 0),
        ("nodr", 0),
        ("Mild", 1),
        ("Mild DR", 1),
        ("moderate NPDR", 2),
        ("Severe", 3),
        ("Proliferate_DR", 4),
        ("PROLIFERATIVE", 4),
        ("PDR", 4),
        ("no", None),
        ("DR", None),
        ("mild moderate", None),
        ("mild1", None),
    ],
)
def test_names_of_grades_match_in_any_spelling(text: str, grade: int | None) -> None:
    assert parse_grade(text, ["no_dr", "mild", "moderate", "severe", "proliferative"]) == grade


def test_name_that_fits_two_grades_is_no_grade() -> None:
    assert parse_grade("A B", ["a_b", "a-b"]) is None
    assert parse_grade("a-b", ["a_b", "a-b"]) == 1
    assert parse_grade("-1", ["0", "1"]) is None


@pytest.mark.parametrize(
    ("grade_map", "grades"),
    [
        (
            {"referable": ["2", "3", "4"], "not_referable": ["0", "1"]},
            {"0": 0, "1": 0, "2": 1, "3.0": 1, " 4 ": 1, "5": None, "": None, "referable": None},
        ),
        ({"R0": "0", "R1": "referable"}, {"R0": 0, "r1": 1, "R-1": 1, "R2": None, "0": None}),
        ({"R0": "0", "1": ["R1", "Proliferate DR"]}, {"r0": 0, "R1": 1, "proliferate_dr": 1, "1": None}),
        ({"-1": "0", "1": "1"}, {"-1": 0, "1": 1}),
    ],
)
def test_grade_map_replaces_numbers_and_names(grade_map: dict, grades: dict[str, int | None]) -> None:
    parse = grade_parser(["not_referable", "referable"], grade_map)
    assert {text: parse(text) for text in grades} == grades


@pytest.mark.parametrize(
    ("text", "grade"),
    [("mild", 1), ("glaucoma，mild", 1), ("none,severe，mild", 2), ("glaucoma, cataract", None), ("", None)],
)
def test_grade_of_several_values_is_the_highest(text: str, grade: int | None) -> None:
    assert (
        grade_parser(["none", "mild", "severe"], {"0": ["none"], "1": ["mild"], "2": ["severe"]}, ",，")(text) == grade
    )


def test_faults_of_a_grade_map_are_named() -> None:
    names = ["a", "b"]
    assert not list(map_faults({"x": "0", "b": ["y", "Y "]}, names))
    assert list(map_faults({"a": "0", "b": ["1", "2"]}, names)) == [
        "a: 0 has two meanings; write a: [0] if 0 stands in the table, or a: a if 'a' stands there"
    ]
    assert not list(map_faults({"a": "a", "b": ["1", "2"]}, names))
    assert list(map_faults({"x": "2"}, names)) == ["'2' is no grade; expected 0 to 1 or one of a, b"]
    assert list(map_faults({"a": ["1"], "b": ["1.0"]}, names)) == ["'1.0' has two grades; leave one of them"]


@pytest.mark.parametrize("header", ["image,level", "image,level ", "Image , LEVEL"])
@pytest.mark.parametrize("columns", [("image", "level"), (" image", "level "), ("IMAGE ", "Level")])
def test_columns_match_without_blanks_and_case(tmp_path: Path, header: str, columns: tuple[str, str]) -> None:
    (tmp_path / "a.csv").write_text(f"{header}\n10_left,0\n10_right,4\n")
    assert read_labels(str(tmp_path / "a.csv"), *columns) == TWO


def test_several_columns_that_match_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("image,level , level\na,0,1\n")
    with pytest.raises(RetinaflowError, match="each once"):
        read_labels(str(tmp_path / "a.csv"), "image", "level")


BRSET = "image_id,patient_id,camera,exam_eye,DR_ICDR\n"
BRSET_COLUMNS = {"patient_column": "patient_id", "eye_column": "exam_eye"}


@pytest.mark.parametrize(
    ("text", "eye"),
    [
        *((text, "left") for text in ("left", "LEFT", "L", "os", "OS", "2", "2.0", " l ")),
        *((text, "right") for text in ("right", "Right", "r", "OD", "od", "1", "1.0")),
        ("", ""),
    ],
)
def test_patient_and_eye_are_read_from_columns(tmp_path: Path, text: str, eye: str) -> None:
    (tmp_path / "a.csv").write_text(f"{BRSET}img1,7,Canon,{text},3\n")
    rows = read_labels(str(tmp_path / "a.csv"), "image_id", "DR_ICDR", **BRSET_COLUMNS)
    assert rows == [LabelRow("img1", "3", 2, "7", eye)]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("img2,8,Canon,OU,1", "row 3 has 'OU' as the eye"),
        ("img2,8,Canon,3,1", "row 3 has '3' as the eye"),
        ("img2,8,Canon,0,1", "row 3 has '0' as the eye"),
        ("img2, ,Canon,1,1", "row 3 names no patient"),
    ],
)
def test_unknown_eye_or_patient_is_an_error_of_its_row(tmp_path: Path, row: str, message: str) -> None:
    (tmp_path / "a.csv").write_text(f"{BRSET}img1,7,Canon,1,3\n{row}\n")
    with pytest.raises(RetinaflowError, match=message):
        read_labels(str(tmp_path / "a.csv"), "image_id", "DR_ICDR", **BRSET_COLUMNS)


def test_patient_numbers_have_one_form(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text("image,level,patient\na,0,12.0\nb,0,12\nc,0,012\nd,0,P1.0\n")
    rows = read_labels(str(tmp_path / "a.csv"), "image", "level", patient_column="patient")
    assert [row.patient for row in rows] == ["12", "12", "012", "P1.0"]


@pytest.mark.real
@pytest.mark.skipif(not (DATA / "testLabels15.csv").exists(), reason="no Kaggle 2015 labels at RETINAFLOW_DATA")
def test_kaggle_tables_are_read_fast() -> None:
    train = read_labels(str(DATA / "trainLabels15.csv"), "image", "level")
    test = read_labels(str(DATA / "testLabels15.csv"), "image", "level")
    assert (len(train), train[0]) == (35125, LabelRow("10_left", "0", 2))
    assert (len(test), test[0]) == (53576, LabelRow("1_left", "0", 2))
    start = time.process_time()
    read_labels(str(DATA / "testLabels15.csv"), "image", "level")
    assert time.process_time() - start < 2  # Each dry run reads it.


def test_subgroups_are_read_from_their_columns(tmp_path):
    table = tmp_path / "labels.csv"
    table.write_text("image,level,Camera ,site\na.png,1, Canon ,north\nb.png,2,,south\n")
    rows = read_labels(str(table), "image", "level", subgroups=["camera", "site"])
    assert [row.subgroups for row in rows] == [("Canon", "north"), ("", "south")]


def test_row_of_a_patient_has_the_images_of_both_eyes(tmp_path):
    table = tmp_path / "labels.csv"
    table.write_text("ID,left,right,l,r\n7,7_left.jpg,7_right.jpg,0,3\n8,8_left.jpg,,1,\n")
    rows = read_labels(str(table), ["left", "right"], ["l", "r"], patient_column="ID")
    assert [(row.image, row.grade_text, row.patient, row.row) for row in rows] == [
        ("7_left", "0", "7", 2),
        ("7_right", "3", "7", 2),
        ("8_left", "1", "8", 3),
    ]


def test_grade_is_in_the_column_that_is_not_empty(tmp_path):
    table = tmp_path / "labels.csv"
    table.write_text("image,l,r\n1_l1,2,\n1_r1,,4\n1_r2,1,1\n1_l2,1,2\n")
    rows = read_labels(str(table), "image", ["l", "r"])
    assert [row.grade_text for row in rows] == ["2", "4", "1", "1/2"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("left;right\na;b\nc;a\n", "row 3 has the image 'a', which another row has, too"),
        ("left;other\na;b\n", "expected the columns 'left' and 'right'"),
    ],
)
def test_pairs_that_cannot_be_used_are_an_error(tmp_path, text, message):
    (tmp_path / "pairs.csv").write_text(text)
    with pytest.raises(RetinaflowError, match=message):
        read_pairs(str(tmp_path / "pairs.csv"))


def test_label_table_counts_before_the_pairs(tmp_path):
    (tmp_path / "pairs.csv").write_text("left;right\na.png;b.png\n;c.png\n")
    (tmp_path / "labels.csv").write_text("image,level,patient\na,0,7\nc.png,1,8\nd,2,9\n")
    path = str(tmp_path / "labels.csv")
    rows = read_labels(path, "image", "level", pairs=str(tmp_path / "pairs.csv"))
    assert [(row.patient, row.eye) for row in rows] == [("a", "left"), ("c", "right"), ("", "")]
    rows = read_labels(path, "image", "level", patient_column="patient", pairs=str(tmp_path / "pairs.csv"))
    assert [(row.patient, row.eye) for row in rows] == [("7", "left"), ("8", "right"), ("9", "")]


def test_one_grade_column_is_that_of_all_images_of_a_row(tmp_path):
    (tmp_path / "labels.csv").write_text("left,right,level\na,b,2\n")
    rows = read_labels(str(tmp_path / "labels.csv"), ["left", "right"], "level")
    assert [(row.image, row.grade_text) for row in rows] == [("a", "2"), ("b", "2")]


@pytest.mark.parametrize(
    ("text", "eye"),
    [("OD", "right"), ("os", "left"), ("L", "left"), ("right", "right"), ("1", "1"), ("macula", "macula")],
)
def test_eye_of_a_name_has_one_spelling(text: str, eye: str) -> None:
    assert name_parser("(?P<patient>.+)_(?P<eye>.+)")(f"7_{text}") == ("7", eye)
