"""Soft labels: the mean of the labels of several readers."""

import re
from pathlib import Path

import numpy as np
import pytest

from configurations import labelled
from retinaflow.config.checks import combination_problems
from retinaflow.data.inventory import SUBGROUP
from retinaflow.errors import RetinaflowError
from retinaflow.networks.objectives import targets
from retinaflow.settings.train import decisive_settings
from retinaflow.storage.tables import read_table, write_table
from retinaflow.training.job import train_job
from retinaflow.training.soft_labels import NO_GRADE, read_readers, soft_targets
from small import THREE, small_job, typed

BY_READER = np.array([[0, 0, 2], [1, NO_GRADE, 2], [NO_GRADE] * 3])
OWN = np.array([0, 2, 1])


@pytest.mark.parametrize(
    ("objective", "expected"),
    [
        ("softmax", [[2 / 3, 0, 1 / 3], [0, 0.5, 0.5], [0, 1, 0]]),
        ("regression", [[2 / 3], [1.5], [1]]),
        ("ordinal", [[1 / 3, 1 / 3], [1, 0.5], [1, 0]]),
    ],
)
def test_targets_are_the_mean_of_readers(objective, expected):
    found = soft_targets(objective, OWN, BY_READER, 3)
    assert found.dtype == np.float32
    assert found == pytest.approx(np.array(expected), abs=1e-6)


def test_smoothing_applies_to_the_mean():
    smoothed = soft_targets("softmax", OWN, BY_READER, 3, 0.3)
    assert smoothed == pytest.approx(0.7 * soft_targets("softmax", OWN, BY_READER, 3) + 0.1, abs=1e-6)


@pytest.mark.parametrize("objective", ["softmax", "regression", "ordinal"])
def test_agreeing_readers_give_the_label_itself(objective):
    three = np.repeat(OWN[:, np.newaxis], 3, axis=1)
    assert np.array_equal(soft_targets(objective, OWN, three, 3), targets(objective, OWN, 3))


def write_readers(index: Path, values: list[tuple[str, str]]) -> None:
    rows = [
        {**row, f"{SUBGROUP}one": one, f"{SUBGROUP}two": two}
        for row, (one, two) in zip(read_table(index), values, strict=True)
    ]
    write_table(index, list(rows[0]), rows)


@pytest.fixture
def index(tmp_path):
    rows = [{"image": "b", "grade": 0}, {"image": "a", "grade": 1}]
    write_table(tmp_path / "index.csv", ("image", "grade"), rows)
    return tmp_path / "index.csv"


def test_grades_are_read_in_the_order_of_the_images(index):
    write_readers(index, [("0", "severe"), ("1", "")])
    found = read_readers([index], ["a", "b"], [" one", "two"], THREE)
    assert found.tolist() == [[1, NO_GRADE], [0, 2]]
    assert read_readers([index], ["a", "b"], [], THREE) is None


def test_cell_that_is_no_grade_is_an_error(index):
    write_readers(index, [("0", "7"), ("1", "")])
    expected = "image 'b' has '7' in the column 'two' of train.soft_labels; expected a grade or an empty cell"
    with pytest.raises(RetinaflowError, match=re.escape(expected)):
        read_readers([index], ["a", "b"], ["one", "two"], THREE)


def test_missing_column_is_an_error(index):
    with pytest.raises(RetinaflowError, match="subgroup_one"):
        read_readers([index], ["a", "b"], ["one"], THREE)


def test_each_training_set_needs_the_columns(tmp_path):
    known = {"data__subgroups": ["one", "camera"], "models": {"VGG16": {}}}
    assert not list(combination_problems(labelled(tmp_path, train__soft_labels=["one"], **known)))
    assert list(combination_problems(labelled(tmp_path, train__soft_labels=["one", "two"], **known))) == [
        "models.VGG16.soft_labels: data set train has no grades of two; its subgroups are one, camera; add the "
        "columns of the readers to them"
    ]
    (problem,) = combination_problems(labelled(tmp_path, train__soft_labels=["one"], models={"VGG16": {}}))
    assert "its subgroups are none" in problem


def test_setting_that_is_off_is_no_parameter():
    assert "soft_labels" not in decisive_settings(typed())
    assert decisive_settings(typed(soft_labels=["one"]))["soft_labels"] == ["one"]


@pytest.mark.parametrize("head_epochs", [0, 1])
def test_only_disagreeing_readers_change_the_weights(tmp_path, few_parts, head_epochs):
    (index,), _ = few_parts[0]
    own = [row["grade"] for row in read_table(index)]
    losses = []
    for number, (columns, values) in enumerate(
        [
            ([], [(grade, grade) for grade in own]),
            (["one", "two"], [(grade, grade) for grade in own]),
            (["one", "two"], [(grade, "0") for grade in own]),
        ]
    ):
        write_readers(index, values)
        settings = typed(epochs=1, head_epochs=head_epochs, soft_labels=columns)
        job = small_job(tmp_path / str(number), few_parts, settings)
        train_job(job)
        losses.append(read_table(job.outputs.history)[-1]["loss"])
    assert losses[0] == losses[1] != losses[2]
