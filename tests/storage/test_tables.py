import csv

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz import mutated
from retinaflow.errors import RetinaflowError
from retinaflow.storage.tables import guarded, read_table, unguarded, write_table

text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


@given(st.lists(st.fixed_dictionaries({"image": text, "level": text}), max_size=5))
def test_read_rows_equal_the_written_ones(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("table") / "table.csv"
    write_table(path, ("image", "level"), rows)
    assert read_table(path, ("image",)) == rows


def test_names_that_are_not_utf8_pass_unchanged(tmp_path):
    name = b"ret\xedna".decode("utf-8", "surrogateescape")
    write_table(tmp_path / "t.csv", ("image",), [{"image": name}])
    assert read_table(tmp_path / "t.csv") == [{"image": name}]


def test_a_missing_column_is_named(tmp_path):
    write_table(tmp_path / "t.csv", ("image",), [])
    with pytest.raises(RetinaflowError, match=r"t\.csv: column 'level' is missing; found image"):
        read_table(tmp_path / "t.csv", ("level",))


@pytest.mark.parametrize("line", ["a", "a,1,2"])
def test_a_ragged_row_is_named(tmp_path, line):
    (tmp_path / "t.csv").write_text(f"image,level\nb,0\n{line}\n")
    with pytest.raises(RetinaflowError, match="row 2 does not have the 2 values"):
        read_table(tmp_path / "t.csv")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "column 'image' is missing; found an empty file"),
        (b"image,level,image\na,0,b\n", "column 'image' is there twice; found image, level, image"),
        (b"level," * 5000 + b"x\n", "column 'image' is missing; found level"),
        (b'image,level\na,"0\nb,1\nc,2\n', "cannot be read as a table .unexpected end of data"),
        (b"image,level\na," + b"0" * 200_000 + b"\n", "cannot be read as a table .field larger than field limit"),
    ],
)
def test_a_damaged_table_is_named(tmp_path, content, expected):
    (tmp_path / "t.csv").write_bytes(content)
    with pytest.raises(RetinaflowError, match=rf"t\.csv: {expected}.*Delete the file") as caught:
        read_table(tmp_path / "t.csv", ("image",))
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("name", ["missing.csv", "."])
def test_a_table_that_is_not_there_is_named(tmp_path, name):
    with pytest.raises(RetinaflowError, match="cannot be read as a table"):
        read_table(tmp_path / name)


@given(
    st.one_of(
        st.binary(max_size=200),
        mutated([b'image,level\na,0\n"b, c",1\n', 'image,level,note\né,0,"x\ny"\n'.encode()]),
    )
)
def test_whatever_the_file_holds_rows_are_whole_or_refused(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("table") / "t.csv"
    path.write_bytes(content)
    try:
        rows = read_table(path, ("image", "level"))
    except RetinaflowError as error:
        assert str(error).startswith(str(path))  # noqa: PT017
    else:
        assert all(isinstance(value, str) for row in rows for value in row.values())
        assert all({"image", "level"} <= row.keys() for row in rows)


def test_an_unknown_key_is_an_error_and_writes_nothing(tmp_path):
    with pytest.raises(ValueError, match="kappa"):
        write_table(tmp_path / "t.csv", ("image",), [{"image": "a", "kappa": 1}])
    assert not list(tmp_path.iterdir())


FORMULAS = [
    "=1+1",
    "+A1",
    "-A1",
    "@SUM(A1)",
    "\t=1",
    "\r=1",
    "=cmd|' /C calc'!A0",
    "-2+3",
    '=HYPERLINK("http://a")',
    "'=1",
]


@pytest.mark.parametrize("value", FORMULAS)
def test_cell_that_looks_like_a_formula_is_text_in_a_spreadsheet(tmp_path, value):
    write_table(tmp_path / "t.csv", ("image",), [{"image": value}])
    with open(tmp_path / "t.csv", newline="") as file:
        (cell,) = list(csv.reader(file))[1]
    assert cell == f"'{value}"
    assert read_table(tmp_path / "t.csv") == [{"image": value}]


@pytest.mark.parametrize("value", ["-1", "+0.5", "-1e-05", "-.5", "nan", "-inf", "", "'", "'a", "a=1", -0.25, 3])
def test_numbers_and_other_texts_are_written_as_they_are(tmp_path, value):
    write_table(tmp_path / "t.csv", ("value", "other"), [{"value": value, "other": 1}])
    with open(tmp_path / "t.csv", newline="") as file:
        assert list(csv.reader(file))[1] == [str(value), "1"]
    assert read_table(tmp_path / "t.csv")[0]["value"] == str(value)


@given(st.text("'=+-@\t\r1e.a\n,", max_size=6))
def test_guarded_cells_are_read_as_they_were(value):
    assert unguarded(str(guarded(value))) == value
