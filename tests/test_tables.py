import pytest
from hypothesis import given
from hypothesis import strategies as st

from retinaflow.errors import RetinaflowError
from retinaflow.tables import read_table, write_table

text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))


@given(st.lists(st.fixed_dictionaries({"image": text, "level": text}), max_size=5))
def test_what_is_written_is_read(tmp_path_factory, rows):
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


def test_an_unknown_key_is_an_error_and_writes_nothing(tmp_path):
    with pytest.raises(ValueError, match="kappa"):
        write_table(tmp_path / "t.csv", ("image",), [{"image": "a", "kappa": 1}])
    assert not list(tmp_path.iterdir())
