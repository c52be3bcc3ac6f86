"""Pairs of models: differences by hand, on the same bootstrap samples, of the same images."""

import csv
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from fuzz import mutated
from retinaflow.errors import RetinaflowError
from retinaflow.evaluation.bootstrap import bootstrap_kappas, interval
from retinaflow.evaluation.pairs import COMPARED_COLUMNS, Pair, compare_pairs, read_predicted_grades
from retinaflow.storage.tables import write_table

PATIENTS = 40
ACTUAL = np.random.default_rng(0).integers(0, 4, 2 * PATIENTS)


def write(path: Path, levels: np.ndarray, actual: np.ndarray = ACTUAL, order: np.ndarray | None = None) -> Path:
    """Write predictions for both eyes of some patients."""
    rows = [
        {
            "filename": f"{row // 2:03d}_{row % 2}.jpeg",
            "patient": f"{row // 2:03d}",
            "grade": actual[row],
            "predicted_grade": levels[row],
        }
        for row in (range(len(levels)) if order is None else order)
    ]
    write_table(path, COMPARED_COLUMNS, rows)
    return path


def answers(mistakes: float, seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.where(rng.random(len(ACTUAL)) < mistakes, rng.integers(0, 4, len(ACTUAL)), ACTUAL)


def compare(tables: dict[str, Path], *, grade_count: int, samples: int, seed: int) -> list[Pair]:
    """Return the pairs of models from their tables."""
    grades = read_predicted_grades(tables, grade_count)
    return compare_pairs(grades, samples=samples, seed=seed)


def test_difference_interval_and_share(tmp_path: Path) -> None:
    given = [answers(0.3, 1), answers(0.4, 2), answers(0.9, 3)]
    names = ["A", "A+eye_average", "B"]
    tables = {name: write(tmp_path / f"{name}.csv", levels) for name, levels in zip(names, given, strict=True)}
    pairs = compare(tables, grade_count=4, samples=200, seed=5)
    assert [(pair.model, pair.other_model) for pair in pairs] == [
        ("A", "A+eye_average"),
        ("A", "B"),
        ("A+eye_average", "B"),
    ]
    kappas = [cohen_kappa_score(ACTUAL, levels, weights="quadratic") for levels in given]
    patients = [f"{row // 2:03d}" for row in range(len(ACTUAL))]
    drawn = bootstrap_kappas(ACTUAL, given, grade_count=4, patients=patients, samples=200, seed=5)
    for pair, (one, other) in zip(pairs, ((0, 1), (0, 2), (1, 2)), strict=True):
        assert pair.difference == pytest.approx(kappas[one] - kappas[other])
        assert [pair.low, pair.high] == interval(drawn[one] - drawn[other])
        assert pair.share == pytest.approx(
            np.mean([0.5 if a == b else a > b for a, b in zip(drawn[one], drawn[other], strict=True)])
        )
        assert pair.low < pair.difference < pair.high
    # Three times as many mistakes cannot be chance; a tenth more can.
    assert pairs[1].low > 0
    assert pairs[1].share == 1
    assert pairs[0].low < 0 < pairs[0].high


def test_equal_models_have_no_difference(tmp_path: Path) -> None:
    levels = answers(0.3, 1)
    pair = compare({name: write(tmp_path / name, levels) for name in "AB"}, grade_count=4, samples=50, seed=1)[0]
    assert pair == Pair("A", "B", 0.0, 0.0, 0.0, 0.5)


def test_order_of_the_rows_changes_nothing(tmp_path: Path) -> None:
    order = np.random.default_rng(1).permutation(len(ACTUAL))
    first, second = answers(0.3, 1), answers(0.5, 2)
    tables = {"A": write(tmp_path / "a.csv", first), "B": write(tmp_path / "b.csv", second)}
    shuffled = {"A": write(tmp_path / "c.csv", first, order=order), "B": tables["B"]}
    assert compare(tables, grade_count=4, samples=50, seed=1) == compare(shuffled, grade_count=4, samples=50, seed=1)


def test_reversed_pair_has_the_opposite_difference() -> None:
    assert Pair("A", "B", 0.1, -0.2, 0.3, 0.75).reversed() == Pair("B", "A", -0.1, -0.3, 0.2, 0.25)
    assert Pair("A", "B", None, None, None, None).reversed() == Pair("B", "A", None, None, None, None)


def test_undefined_values_are_none(tmp_path: Path) -> None:
    constant = np.zeros(len(ACTUAL), int)
    tables = {name: write(tmp_path / name, constant, actual=constant) for name in "AB"}
    assert compare(tables, grade_count=4, samples=50, seed=1) == [Pair("A", "B", None, None, None, None)]
    known = {name: write(tmp_path / name, answers(0.3, 1)) for name in "AB"}
    assert compare(known, grade_count=4, samples=0, seed=1) == [Pair("A", "B", 0.0, None, None, None)]
    one = {name: write(tmp_path / name, np.array([0, 1]), actual=np.array([0, 1])) for name in "AB"}
    assert compare(one, grade_count=4, samples=50, seed=1) == [Pair("A", "B", 0.0, None, None, None)], (
        "one patient is always the same"
    )


def test_single_model_has_no_pair(tmp_path: Path) -> None:
    assert compare({"A": write(tmp_path / "a.csv", answers(0.3, 1))}, grade_count=4, samples=50, seed=1) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"levels": ACTUAL[:-2], "actual": ACTUAL[:-2]}, "a filename differs from .*a.csv"),
        ({"levels": ACTUAL, "actual": (ACTUAL + 1) % 4}, "a grade differs from .*a.csv"),
        ({"levels": ACTUAL + 1}, "row .* has grade '4', expected 0 to 3"),
        ({"levels": ACTUAL[:0]}, "found no image"),
    ],
)
def test_error_names_tables_of_other_images(tmp_path: Path, change: dict[str, Any], message: str) -> None:
    tables = {"A": write(tmp_path / "a.csv", answers(0.3, 1)), "B": write(tmp_path / "b.csv", **change)}
    with pytest.raises(RetinaflowError, match=rf"b\.csv: {message}"):
        compare(tables, grade_count=4, samples=50, seed=1)


def test_error_names_images_of_other_patients(tmp_path: Path) -> None:
    tables = {name: write(tmp_path / f"{name}.csv", answers(0.3, 1)) for name in "ab"}
    with open(tables["b"], newline="") as file:
        rows = list(csv.DictReader(file))
    write_table(tables["b"], COMPARED_COLUMNS, [*rows[:-1], {**rows[-1], "patient": "another"}])
    with pytest.raises(RetinaflowError, match=r"b\.csv: a patient differs from .*a\.csv"):
        compare(tables, grade_count=4, samples=50, seed=1)


@given(st.data())
def test_damaged_table_is_refused_or_compared(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    path = write(tmp_path_factory.mktemp("pairs") / "a.csv", ACTUAL[:6], actual=ACTUAL[:6])
    path.write_bytes(data.draw(mutated([path.read_bytes()])))
    try:
        assert compare({"A": path}, grade_count=4, samples=3, seed=1) == []
    except RetinaflowError as error:
        assert str(error).startswith(str(path))  # noqa: PT017
