import csv
import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from fuzz import mutated
from retinaflow.errors import RetinaflowError
from retinaflow.metrics import evaluate
from retinaflow.predictions import pool, read_predictions, write_predictions, write_scores

CLASSES = ["no DR", "mild", "severe"]
PROBABILITIES = np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6], [0.25, 0.5, 0.25], [0.5, 0.5, 0.0]])
ACTUAL = np.array([0, 2, 0, 1])
NAMES = ["1_left.jpeg", "1_right.jpeg", "2_left.jpeg", "2_right.jpeg"]


def test_columns_and_values(tmp_path):
    write_predictions(tmp_path / "predictions.csv", NAMES, ACTUAL, PROBABILITIES, CLASSES)
    assert (tmp_path / "predictions.csv").read_text().splitlines() == [
        "filename,actual_class,actual_class_index,pred_class,pred_class_index,"
        "probability_no DR,probability_mild,probability_severe",
        "1_left.jpeg,no DR,0,no DR,0,0.7,0.2,0.1",
        "1_right.jpeg,severe,2,severe,2,0.1,0.3,0.6",
        "2_left.jpeg,no DR,0,mild,1,0.25,0.5,0.25",
        "2_right.jpeg,mild,1,no DR,0,0.5,0.5,0",
    ]


# File names: any text but NUL and /; surrogates stand for bytes that are not UTF-8.
filenames = st.text(
    st.one_of(st.sampled_from(",;\"\n\r\t 'é漢\udcff"), st.characters(exclude_characters="\0/", codec="utf-8")),
    min_size=1,
)
rows = st.tuples(filenames, st.integers(0, 2), st.lists(st.integers(0, 2**24), min_size=3, max_size=3).filter(any))


@settings(deadline=None)
@given(st.lists(rows))
def test_what_is_written_is_read(entries):
    names = [name for name, _, _ in entries]
    actual = np.array([level for _, level, _ in entries], dtype=np.int64)
    counts = np.array([weights for _, _, weights in entries], dtype=np.float64).reshape(-1, 3)
    probabilities = counts / counts.sum(axis=1, keepdims=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "predictions.csv")
        write_predictions(path, names, actual, probabilities, CLASSES)
        read = read_predictions(path, CLASSES)
    assert read[0] == names
    assert np.array_equal(read[1], actual)
    assert read[1].dtype == np.int64
    assert read[2].shape == probabilities.shape
    # Nine digits tell any two numbers of a network, which are float32, apart.
    assert np.allclose(read[2], probabilities, rtol=1e-8, atol=0)


@pytest.mark.parametrize(
    ("column", "value", "expected"),
    [
        ("probability_mild", "high", "could not convert string to float: 'high'; expected a class 0 to 2"),
        ("probability_mild", "", "could not convert string to float: ''"),
        ("probability_mild", "0,5", "could not convert string to float: '0,5'"),
        ("actual_class_index", "1.5", "'1.5'; expected a class 0 to 2"),
        ("actual_class_index", "x", "'x'; expected a class 0 to 2"),
        ("actual_class_index", "3", "'3'; expected a class 0 to 2"),
        ("actual_class_index", "-1", "'-1'; expected a class 0 to 2"),
        ("actual_class_index", "9" * 5000, "'999.*; expected a class 0 to 2"),
        ("probability_mild", "nan", r"\[0.25, nan, 0.25\]; expected numbers from 0 to 1"),
        ("probability_mild", "inf", r"\[0.25, inf, 0.25\]"),
        ("probability_mild", "0.6", r"\[0.25, 0.6, 0.25\]"),
        ("probability_mild", "-0.5", r"\[0.25, -0.5, 0.25\]"),
    ],
)
def test_what_is_no_answer_of_a_model_is_refused(tmp_path, column, value, expected):
    path = tmp_path / "predictions.csv"
    write_predictions(path, NAMES, ACTUAL, PROBABILITIES, CLASSES)
    with open(path, newline="") as file:
        table = list(csv.DictReader(file))
    table[2][column] = value
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, table[0])
        writer.writeheader()
        writer.writerows(table)
    with pytest.raises(RetinaflowError, match=rf"predictions\.csv: .*row 3 .*{expected}.*Delete the file") as caught:
        read_predictions(path, CLASSES)
    assert len(str(caught.value)) < 500


def test_probabilities_below_0_are_refused_even_if_they_add_up(tmp_path):
    write_predictions(tmp_path / "p.csv", NAMES[:1], ACTUAL[:1], np.array([[1.25, -0.25, 0.0]]), CLASSES)
    with pytest.raises(RetinaflowError, match=r"row 1 are \[1.25, -0.25, 0.0\]; expected numbers from 0 to 1"):
        read_predictions(tmp_path / "p.csv", CLASSES)


def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("predictions") / "predictions.csv"
    write_predictions(path, NAMES, ACTUAL, PROBABILITIES, CLASSES)
    return path


@given(st.data())
def test_a_damaged_table_is_refused_or_holds_answers(tmp_path_factory, data):
    path = written(tmp_path_factory)
    path.write_bytes(data.draw(mutated([path.read_bytes()])))
    try:
        names, actual, probabilities = read_predictions(path, CLASSES)
    except RetinaflowError as error:
        assert str(error).startswith(str(path))  # noqa: PT017
    else:
        assert len(names) == len(actual) == len(probabilities)
        assert ((actual >= 0) & (actual < 3)).all()
        assert probabilities.sum(axis=1) == pytest.approx(np.ones(len(names)), abs=1e-6)


def test_predictions_of_other_classes_are_refused(tmp_path):
    write_predictions(tmp_path / "predictions.csv", NAMES, ACTUAL, PROBABILITIES, CLASSES)
    with pytest.raises(RetinaflowError, match="column 'probability_moderate' is missing"):
        read_predictions(tmp_path / "predictions.csv", ["no DR", "moderate", "severe"])


def test_names_and_answers_of_different_number_are_not_written(tmp_path):
    with pytest.raises(ValueError, match="zip"):
        write_predictions(tmp_path / "predictions.csv", NAMES[:3], ACTUAL, PROBABILITIES, CLASSES)
    assert list(tmp_path.iterdir()) == []


def test_scores_are_three_files(tmp_path):
    outputs = [tmp_path / name for name in ("predictions.csv", "metrics.json", "confusion.png")]
    write_scores("Tiny.fold-1", "Tiny", "validation", NAMES, ACTUAL, PROBABILITIES, CLASSES, 2, *outputs)
    assert read_predictions(outputs[0], CLASSES)[0] == NAMES
    metrics = json.loads(outputs[1].read_text())
    assert metrics == {
        "run": "Tiny.fold-1",
        "backbone": "Tiny",
        "part": "validation",
        "classes": CLASSES,
        **evaluate(ACTUAL, PROBABILITIES, CLASSES, 2),
    }
    assert metrics["confusion_matrix"] == [[1, 1, 0], [1, 0, 0], [0, 0, 1]]
    with Image.open(outputs[2]) as figure:
        assert figure.width > 100


def test_pooled_folds_are_scored_as_one_set(tmp_path):
    """Not as the mean of the folds: kappa of all together is another number."""
    parts = [slice(0, 1), slice(1, 4)]
    folds = [tmp_path / f"{number}.csv" for number in range(2)]
    for path, part in zip(folds, parts, strict=True):
        write_predictions(path, NAMES[part], ACTUAL[part], PROBABILITIES[part], CLASSES)
    outputs = [tmp_path / "pooled" / name for name in ("predictions.csv", "metrics.json", "confusion.png")]
    pool("Tiny", folds, CLASSES, 1, *outputs)
    names, actual, probabilities = read_predictions(outputs[0], CLASSES)
    assert names == NAMES
    assert np.array_equal(actual, ACTUAL)
    assert np.array_equal(probabilities, PROBABILITIES)
    metrics = json.loads(outputs[1].read_text())
    assert (metrics["run"], metrics["backbone"], metrics["part"]) == ("Tiny", "Tiny", "out-of-fold")
    expected = evaluate(ACTUAL, PROBABILITIES, CLASSES, 1)
    assert {key: metrics[key] for key in expected} == expected
