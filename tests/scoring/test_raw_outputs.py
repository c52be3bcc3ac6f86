import csv
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from examples import LEVELS, NAMES, OUTPUTS, SOFTMAX, of
from fuzz import mutated
from retinaflow.errors import RetinaflowError
from retinaflow.scoring.raw_outputs import RawOutputs, average, pool, read_raw_outputs, write_raw_outputs
from retinaflow.storage.integrity import record_of
from retinaflow.storage.tables import read_table


def test_columns_and_values_of_raw_outputs(tmp_path):
    write_raw_outputs(tmp_path / "raw_outputs.csv", OUTPUTS)
    assert (tmp_path / "raw_outputs.csv").read_text().splitlines() == [
        "image,filename,patient,eye,grade,output_0,output_1,output_2",
        "1_left,1_left.jpeg,1,left,0,0.7,0.2,0.1",
        "1_right,1_right.jpeg,1,right,2,0.1,0.3,0.6",
        "2_left,2_left.jpeg,2,left,0,0.25,0.5,0.25",
        "2_right,2_right.jpeg,2,right,1,0.5,0.5,0",
    ]


# Names: any text but NUL and /; surrogates stand for bytes that are not UTF-8.
names = st.text(
    st.one_of(st.sampled_from(",;\"\n\r\t 'é漢\udcff"), st.characters(exclude_characters="\0/", codec="utf-8")),
    min_size=1,
)
rows = st.tuples(names, st.integers(0, 2), st.lists(st.integers(0, 2**24), min_size=3, max_size=3).filter(any))


@settings(deadline=None, max_examples=50)
@given(st.lists(rows, min_size=1, max_size=5))
def test_written_raw_outputs_are_read(entries):
    texts = [name for name, _, _ in entries]
    counts = np.array([weights for _, _, weights in entries], dtype=np.float64)
    outputs, grades = counts / counts.sum(axis=1, keepdims=True), np.array([grade for _, grade, _ in entries])
    raw_outputs = RawOutputs(texts, texts, texts, texts, grades, outputs)
    with tempfile.TemporaryDirectory() as folder:
        write_raw_outputs(Path(folder, "raw_outputs.csv"), raw_outputs)
        read = read_raw_outputs(Path(folder, "raw_outputs.csv"), "softmax", grade_count=3)
    assert [read.images, read.filenames, read.patients, read.eyes] == [texts] * 4
    assert np.array_equal(read.grades, grades)
    assert read.grades.dtype == np.int64
    # Two different float32 numbers differ in nine digits.
    assert np.allclose(read.outputs, outputs, rtol=1e-8, atol=0)


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        ("output_1", "high", "row 3 has 'high' in column 'output_1', expected a number"),
        ("output_1", "", "row 3 has '' in column 'output_1', expected a number"),
        ("output_1", "0,5", "row 3 has '0,5' in column 'output_1', expected a number"),
        ("grade", "1.5", "row 3 has grade '1.5', expected 0 to 2"),
        ("grade", "3", "row 3 has grade '3', expected 0 to 2"),
        ("grade", "-1", "row 3 has grade '-1', expected 0 to 2"),
        ("grade", "9" * 5000, "row 3 has grade '999.*, expected 0 to 2"),
        ("output_1", "nan", r"row 3 are \[0.25, nan, 0.25\], which is impossible for objective softmax"),
        ("output_1", "inf", r"row 3 are \[0.25, inf, 0.25\]"),
        ("output_1", "0.6", r"row 3 are \[0.25, 0.6, 0.25\]"),
        ("output_1", "-0.5", r"row 3 are \[0.25, -0.5, 0.25\]"),
    ],
)
def test_impossible_raw_outputs_are_refused(tmp_path, column, value, expected):
    path = tmp_path / "raw_outputs.csv"
    write_raw_outputs(path, OUTPUTS)
    table = read_table(path)
    table[2][column] = value
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, table[0])
        writer.writeheader()
        writer.writerows(table)
    record_of(path).unlink()
    with pytest.raises(RetinaflowError, match=rf"outputs\.csv: .*{expected}.*Delete the file") as caught:
        read_raw_outputs(path, "softmax", grade_count=3)
    assert len(str(caught.value)) < 500


@given(st.data())
def test_damaged_table_is_refused_or_has_raw_outputs(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("outputs") / "raw_outputs.csv"
    write_raw_outputs(path, OUTPUTS)
    record_of(path).unlink()
    path.write_bytes(data.draw(mutated([path.read_bytes()])))
    try:
        read = read_raw_outputs(path, "softmax", grade_count=3)
    except RetinaflowError as error:
        assert str(error).startswith(str(path))  # noqa: PT017
    else:
        assert len(read.images) == len(read.grades) == len(read.outputs) > 0
        assert ((read.grades >= 0) & (read.grades < 3)).all()
        assert read.outputs.sum(axis=1) == pytest.approx(np.ones(len(read.images)), abs=1e-6)


def test_other_objectives_and_empty_tables_are_refused(tmp_path):
    write_raw_outputs(tmp_path / "raw_outputs.csv", of(4))
    with pytest.raises(RetinaflowError, match="column 'output_1' is missing"):
        read_raw_outputs(tmp_path / "raw_outputs.csv", "softmax", grade_count=3)
    write_raw_outputs(tmp_path / "none.csv", of(0))
    with pytest.raises(RetinaflowError, match=r"none\.csv: found no image"):
        read_raw_outputs(tmp_path / "none.csv", "regression", grade_count=3)


def test_pooled_folds_are_one_table(tmp_path):
    folds = [of(4, seed=1), of(3, seed=2)]
    tables = [tmp_path / f"{number}.csv" for number in range(2)]
    for path, fold in zip(tables, folds, strict=True):
        write_raw_outputs(path, fold)
    pool(tables, tmp_path / "pooled.csv", objective="regression", grade_count=3)
    lines = [path.read_text().splitlines() for path in (*tables, tmp_path / "pooled.csv")]
    assert lines[2] == lines[0] + lines[1][1:]
    with pytest.raises(RetinaflowError, match=r"image '1\.0_left' is in two of them"):
        pool(tables[:1] * 2, tmp_path / "pooled.csv", objective="regression", grade_count=3)


def test_raw_outputs_without_tta_equal_those_of_an_own_table(tmp_path):
    """The table has them beside the means over views. They are read, pooled and averaged."""
    means, no_tta = of(60, seed=1), of(60, seed=1)._replace(outputs=of(60, seed=2).outputs)
    write_raw_outputs(tmp_path / "both.csv", means, no_tta.outputs)
    write_raw_outputs(tmp_path / "means.csv", means)
    write_raw_outputs(tmp_path / "no_tta.csv", no_tta)
    header = "image,filename,patient,eye,grade,output_0,no_tta_0"
    assert (tmp_path / "both.csv").read_text().splitlines()[0] == header
    for kind, other in (("output", "means"), ("no_tta", "no_tta")):
        own = read_raw_outputs(tmp_path / f"{other}.csv", "regression", grade_count=3)
        assert np.array_equal(
            read_raw_outputs(tmp_path / "both.csv", "regression", grade_count=3, kind=kind).outputs, own.outputs
        )
        for combine, tables in ((pool, lambda path: [path]), (average, lambda path: [(path, "regression")] * 2)):
            options = {"objective": "regression", "grade_count": 3}
            combine(tables(tmp_path / "both.csv"), tmp_path / "combined.csv", **options, kind=kind)
            combine(tables(tmp_path / f"{other}.csv"), tmp_path / "own.csv", **options)
            assert (tmp_path / "combined.csv").read_text() == (tmp_path / "own.csv").read_text()
    with pytest.raises(RetinaflowError, match="column 'no_tta_0' is missing"):
        read_raw_outputs(tmp_path / "means.csv", "regression", grade_count=3, kind="no_tta")


def test_models_of_one_objective_are_averaged_by_output(tmp_path):
    write_raw_outputs(tmp_path / "a.csv", OUTPUTS)
    write_raw_outputs(tmp_path / "b.csv", OUTPUTS._replace(outputs=SOFTMAX[::-1]))
    tables = [(tmp_path / "a.csv", "softmax"), (tmp_path / "b.csv", "softmax")]
    average(tables, tmp_path / "mean.csv", objective="softmax", grade_count=3)
    read = read_raw_outputs(tmp_path / "mean.csv", "softmax", grade_count=3)
    assert read.outputs == pytest.approx((SOFTMAX + SOFTMAX[::-1]) / 2)
    assert (read.images, read.eyes, read.grades.tolist()) == (NAMES, OUTPUTS.eyes, LEVELS.tolist())


def test_models_of_different_objectives_are_averaged_by_severity(tmp_path):
    write_raw_outputs(tmp_path / "a.csv", OUTPUTS)
    write_raw_outputs(tmp_path / "b.csv", OUTPUTS._replace(outputs=np.array([[0.5], [9.0], [-1.0], [1.0]])))
    tables = [(tmp_path / "a.csv", "softmax"), (tmp_path / "b.csv", "regression")]
    average(tables, tmp_path / "mean.csv", objective="regression", grade_count=3)
    read = read_raw_outputs(tmp_path / "mean.csv", "regression", grade_count=3)
    assert read.outputs[:, 0] == pytest.approx(np.mean([[0.4, 1.5, 1.0, 0.5], [0.5, 2.0, 0.0, 1.0]], axis=0))


@pytest.mark.parametrize("change", [{"images": ["1_left", "1_right", "2_left", "3_left"]}, {"grades": LEVELS[::-1]}])
def test_models_with_other_images_or_grades_are_not_averaged(tmp_path, change):
    write_raw_outputs(tmp_path / "a.csv", OUTPUTS)
    write_raw_outputs(tmp_path / "b.csv", OUTPUTS._replace(**change))
    with pytest.raises(RetinaflowError, match=r"b\.csv: its images or grades differ from those of .*a\.csv"):
        average(
            [(tmp_path / f"{name}.csv", "softmax") for name in "ab"],
            tmp_path / "mean.csv",
            objective="softmax",
            grade_count=3,
        )
