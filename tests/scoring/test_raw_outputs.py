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
from retinaflow.scoring.raw_outputs import Outputs, average, pool, read_outputs, write_outputs
from retinaflow.storage.tables import read_table


def test_columns_and_values_of_outputs(tmp_path):
    write_outputs(tmp_path / "raw_outputs.csv", OUTPUTS)
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
def test_what_is_written_is_read(entries):
    texts = [name for name, _, _ in entries]
    counts = np.array([weights for _, _, weights in entries], dtype=np.float64)
    outputs, levels = counts / counts.sum(axis=1, keepdims=True), np.array([level for _, level, _ in entries])
    said = Outputs(texts, texts, texts, texts, levels, outputs)
    with tempfile.TemporaryDirectory() as folder:
        write_outputs(Path(folder, "raw_outputs.csv"), said)
        read = read_outputs(Path(folder, "raw_outputs.csv"), "softmax", 3)
    assert [read.images, read.filenames, read.patients, read.eyes] == [texts] * 4
    assert np.array_equal(read.grades, said.grades)
    assert read.grades.dtype == np.int64
    # Nine digits tell any two numbers of a network, which are float32, apart.
    assert np.allclose(read.outputs, said.outputs, rtol=1e-8, atol=0)


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        ("output_1", "high", "row 3 has could not convert string to float: 'high'; expected a class 0 to 2"),
        ("output_1", "", "row 3 has could not convert string to float: ''"),
        ("output_1", "0,5", "row 3 has could not convert string to float: '0,5'"),
        ("grade", "1.5", "row 3 has '1.5'; expected a class 0 to 2"),
        ("grade", "3", "row 3 has '3'; expected a class 0 to 2"),
        ("grade", "-1", "row 3 has '-1'; expected a class 0 to 2"),
        ("grade", "9" * 5000, "row 3 has '999.*; expected a class 0 to 2"),
        ("output_1", "nan", r"row 3 are \[0.25, nan, 0.25\], which are none of objective softmax"),
        ("output_1", "inf", r"row 3 are \[0.25, inf, 0.25\]"),
        ("output_1", "0.6", r"row 3 are \[0.25, 0.6, 0.25\]"),
        ("output_1", "-0.5", r"row 3 are \[0.25, -0.5, 0.25\]"),
    ],
)
def test_what_is_no_output_of_a_model_is_refused(tmp_path, column, value, expected):
    path = tmp_path / "raw_outputs.csv"
    write_outputs(path, OUTPUTS)
    table = read_table(path)
    table[2][column] = value
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, table[0])
        writer.writeheader()
        writer.writerows(table)
    with pytest.raises(RetinaflowError, match=rf"outputs\.csv: .*{expected}.*Delete the file") as caught:
        read_outputs(path, "softmax", 3)
    assert len(str(caught.value)) < 500


@given(st.data())
def test_a_damaged_table_is_refused_or_holds_outputs(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("outputs") / "raw_outputs.csv"
    write_outputs(path, OUTPUTS)
    path.write_bytes(data.draw(mutated([path.read_bytes()])))
    try:
        read = read_outputs(path, "softmax", 3)
    except RetinaflowError as error:
        assert str(error).startswith(str(path))  # noqa: PT017
    else:
        assert len(read.images) == len(read.grades) == len(read.outputs) > 0
        assert ((read.grades >= 0) & (read.grades < 3)).all()
        assert read.outputs.sum(axis=1) == pytest.approx(np.ones(len(read.images)), abs=1e-6)


def test_outputs_of_another_objective_or_of_nothing_are_refused(tmp_path):
    write_outputs(tmp_path / "raw_outputs.csv", of(4))
    with pytest.raises(RetinaflowError, match="column 'output_1' is missing"):
        read_outputs(tmp_path / "raw_outputs.csv", "softmax", 3)
    write_outputs(tmp_path / "none.csv", of(0))
    with pytest.raises(RetinaflowError, match=r"none\.csv: found no photograph"):
        read_outputs(tmp_path / "none.csv", "regression", 3)


def test_pooled_folds_are_one_table(tmp_path):
    folds = [of(4, seed=1), of(3, seed=2)]
    tables = [tmp_path / f"{number}.csv" for number in range(2)]
    for path, said in zip(tables, folds, strict=True):
        write_outputs(path, said)
    pool(tables, "regression", 3, tmp_path / "pooled.csv")
    lines = [path.read_text().splitlines() for path in (*tables, tmp_path / "pooled.csv")]
    assert lines[2] == lines[0] + lines[1][1:]
    with pytest.raises(RetinaflowError, match=r"'1\.0_left' is in two of them"):
        pool(tables[:1] * 2, "regression", 3, tmp_path / "pooled.csv")


def test_what_single_views_give_is_kept_beside_the_means(tmp_path):
    """Read, pooled or averaged, it is what a table of its own would be."""
    means, single = of(60, seed=1), of(60, seed=1)._replace(outputs=of(60, seed=2).outputs)
    write_outputs(tmp_path / "both.csv", means, single.outputs)
    write_outputs(tmp_path / "means.csv", means)
    write_outputs(tmp_path / "no_tta.csv", single)
    header = "image,filename,patient,eye,grade,output_0,no_tta_0"
    assert (tmp_path / "both.csv").read_text().splitlines()[0] == header
    for kind, other in (("output", "means"), ("no_tta", "no_tta")):
        own = read_outputs(tmp_path / f"{other}.csv", "regression", 3)
        assert np.array_equal(read_outputs(tmp_path / "both.csv", "regression", 3, kind).outputs, own.outputs)
        for combine, tables in ((pool, lambda path: [path]), (average, lambda path: [(path, "regression")] * 2)):
            combine(tables(tmp_path / "both.csv"), "regression", 3, tmp_path / "combined.csv", kind)
            combine(tables(tmp_path / f"{other}.csv"), "regression", 3, tmp_path / "own.csv")
            assert (tmp_path / "combined.csv").read_text() == (tmp_path / "own.csv").read_text()
    with pytest.raises(RetinaflowError, match="column 'no_tta_0' is missing"):
        read_outputs(tmp_path / "means.csv", "regression", 3, "no_tta")


def test_systems_of_one_objective_are_averaged_output_by_output(tmp_path):
    write_outputs(tmp_path / "a.csv", OUTPUTS)
    write_outputs(tmp_path / "b.csv", OUTPUTS._replace(outputs=SOFTMAX[::-1]))
    average([(tmp_path / "a.csv", "softmax"), (tmp_path / "b.csv", "softmax")], "softmax", 3, tmp_path / "mean.csv")
    read = read_outputs(tmp_path / "mean.csv", "softmax", 3)
    assert read.outputs == pytest.approx((SOFTMAX + SOFTMAX[::-1]) / 2)
    assert (read.images, read.eyes, read.grades.tolist()) == (NAMES, OUTPUTS.eyes, LEVELS.tolist())


def test_of_systems_with_other_objectives_the_severities_are_averaged(tmp_path):
    write_outputs(tmp_path / "a.csv", OUTPUTS)
    write_outputs(tmp_path / "b.csv", OUTPUTS._replace(outputs=np.array([[0.5], [9.0], [-1.0], [1.0]])))
    tables = [(tmp_path / "a.csv", "softmax"), (tmp_path / "b.csv", "regression")]
    average(tables, "regression", 3, tmp_path / "mean.csv")
    read = read_outputs(tmp_path / "mean.csv", "regression", 3)
    assert read.outputs[:, 0] == pytest.approx(np.mean([[0.4, 1.5, 1.0, 0.5], [0.5, 2.0, 0.0, 1.0]], axis=0))


@pytest.mark.parametrize("change", [{"images": ["1_left", "1_right", "2_left", "3_left"]}, {"grades": LEVELS[::-1]}])
def test_systems_of_other_photographs_or_labels_are_not_averaged(tmp_path, change):
    write_outputs(tmp_path / "a.csv", OUTPUTS)
    write_outputs(tmp_path / "b.csv", OUTPUTS._replace(**change))
    with pytest.raises(RetinaflowError, match=r"b\.csv: other photographs or classes than in .*a\.csv"):
        average([(tmp_path / f"{name}.csv", "softmax") for name in "ab"], "softmax", 3, tmp_path / "mean.csv")
