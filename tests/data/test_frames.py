import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retinaflow.data.frames import read_frame, write_frame
from retinaflow.errors import RetinaflowError
from retinaflow.storage.tables import write_table

names = st.text(st.characters(exclude_characters="\0", exclude_categories=[]).filter(str.isprintable))


@given(
    st.lists(st.tuples(names, st.integers(-(2**60), 2**60), st.floats(allow_nan=False)), max_size=5),
)
def test_written_frame_is_read_again(tmp_path_factory, rows):
    path = tmp_path_factory.mktemp("frame") / "table.csv"
    types = {"grade": int, "severity": float}
    frame = pd.DataFrame(rows, columns=["image", *types]).astype({"image": object, **types})
    write_frame(path, frame)
    pd.testing.assert_frame_equal(read_frame(path, ("image",), types=types), frame)


def test_bytes_are_those_of_the_row_writer(tmp_path):
    rows = [
        {"image": 'a, "b"', "grade": 3, "severity": 0.1},
        {"image": b"ret\xedna".decode("utf-8", "surrogateescape"), "grade": 0, "severity": 1e-7},
    ]
    for content in (rows, [*rows, {"image": "line\rend", "grade": 1, "severity": 2.0}], []):
        write_table(tmp_path / "rows.csv", ("image", "grade", "severity"), content)
        write_frame(tmp_path / "frame.csv", pd.DataFrame(content, columns=["image", "grade", "severity"]))
        assert (tmp_path / "frame.csv").read_bytes() == (tmp_path / "rows.csv").read_bytes()


def test_single_precision_is_written_as_python_writes_it(tmp_path):
    write_frame(tmp_path / "t.csv", pd.DataFrame({"output_0": np.float32([0.1])}))
    assert (tmp_path / "t.csv").read_text() == f"output_0\n{float(np.float32(0.1))}\n"


def test_text_that_looks_like_something_else_stays_text(tmp_path):
    (tmp_path / "t.csv").write_text('image,grade\n007,NA\n"",nan\ntrue,1e3\n')
    frame = read_frame(tmp_path / "t.csv")
    assert frame["image"].tolist() == ["007", "", "true"]
    assert frame["grade"].tolist() == ["NA", "nan", "1e3"]


def test_empty_table_keeps_its_columns(tmp_path):
    write_table(tmp_path / "t.csv", ("image", "grade"), [])
    frame = read_frame(tmp_path / "t.csv", types={"grade": int})
    assert list(frame.columns) == ["image", "grade"]
    assert frame["grade"].dtype == int


@pytest.mark.parametrize("line", ["a", "a,1,2"])
def test_ragged_row_is_an_error(tmp_path, line):
    (tmp_path / "t.csv").write_text(f"image,grade\nb,0\n{line}\n")
    with pytest.raises(RetinaflowError, match="row 2 does not have the 2 values"):
        read_frame(tmp_path / "t.csv")


@pytest.mark.parametrize(("text", "kind"), [("two", int), ("", int), ("1.5", int), ("x", float), ("9" * 5000, int)])
def test_value_that_is_no_number_is_an_error(tmp_path, text, kind):
    (tmp_path / "t.csv").write_text(f"image,grade\na,1\nb,{text}\n")
    with pytest.raises(RetinaflowError, match=r"t\.csv: row 2 has .* in column 'grade', expected a number\. Delete"):
        read_frame(tmp_path / "t.csv", types={"grade": kind})
