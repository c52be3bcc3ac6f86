"""The split: whole patients, every class on both sides, and as few moves as possible when patients come and go."""

import os
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from retinaflow.data.inventory import INVENTORY_COLUMNS
from retinaflow.data.labels import read_labels
from retinaflow.data.split import SPLIT_COLUMNS, fold_patients, split_patients, write_split
from retinaflow.errors import RetinaflowError
from retinaflow.storage.tables import Row, read_table, write_table

DATA = Path(os.environ.get("RETINAFLOW_DATA", Path(__file__).parents[2] / "../shared/data"))
CLASSES = ["none", "mild", "moderate"]
Levels = dict[str, list[int]]

patients = st.dictionaries(
    st.text(max_size=4), st.lists(st.integers(0, 2), min_size=1, max_size=3), min_size=1, max_size=40
)
shares = st.integers(1, 99).map(lambda percent: percent / 100)


def rows_of(levels: Levels) -> list[Row]:
    return [
        {"image": f"{patient}_{number}", "patient": patient, "grade": str(level)}
        for patient, its in levels.items()
        for number, level in enumerate(its)
    ]


def members(rows: list[Row]) -> set[str]:
    return {row["patient"] for row in rows}


@given(levels=patients, share=shares, seed=st.integers(), unit=st.sampled_from(["patient", "image"]))
def test_split_divides_rows_and_keeps_units_whole(levels: Levels, share: float, seed: int, unit: str) -> None:
    rows = rows_of(levels)
    train, validation = split_patients(rows, share, unit, seed)
    assert not {row[unit] for row in train} & {row[unit] for row in validation}
    chosen = {row["image"] for row in validation}
    assert train == [row for row in rows if row["image"] not in chosen]
    assert validation == [row for row in rows if row["image"] in chosen]


@given(levels=patients, share=shares, seed=st.integers())
def test_share_is_exact_to_within_a_patient_of_each_level(levels: Levels, share: float, seed: int) -> None:
    chosen = members(split_patients(rows_of(levels), share, "patient", seed)[1])
    for worst in range(3):
        stratum = {patient for patient, its in levels.items() if max(its) == worst}
        assert abs(len(stratum & chosen) - share * len(stratum)) < 1
        if len(stratum) > 1:
            assert 0 < len(stratum & chosen) < len(stratum)


@given(levels=patients, share=shares, seed=st.integers(), data=st.data())
def test_a_patient_more_or_less_moves_at_most_one_other_of_its_level(
    levels: Levels, share: float, seed: int, data: st.DataObject
) -> None:
    gone = data.draw(st.sampled_from(sorted(levels)))
    fewer = {patient: its for patient, its in levels.items() if patient != gone}
    before = members(split_patients(rows_of(levels), share, "patient", seed)[1]) - {gone}
    after = members(split_patients(rows_of(fewer), share, "patient", seed)[1])
    assert len(before ^ after) <= 1
    assert all(max(levels[patient]) == max(levels[gone]) for patient in before ^ after)


@given(levels=patients, share=shares, seed=st.integers(), data=st.data())
def test_order_of_rows_is_irrelevant(levels: Levels, share: float, seed: int, data: st.DataObject) -> None:
    rows = rows_of(levels)
    mixed = data.draw(st.permutations(rows))
    assert members(split_patients(rows, share, "patient", seed)[1]) == members(
        split_patients(mixed, share, "patient", seed)[1]
    )
    fold_of = dict(zip((row["image"] for row in rows), fold_patients(rows, 3, "patient", seed), strict=True))
    assert [fold_of[row["image"]] for row in mixed] == fold_patients(mixed, 3, "patient", seed)


def test_seed_decides() -> None:
    rows = rows_of({str(patient): [patient % 3, 0] for patient in range(60)})
    parts = [frozenset(members(split_patients(rows, 0.2, "patient", seed)[1])) for seed in (1, 1, 2, -1)]
    assert len(set(parts)) == 3
    assert parts[0] == parts[1]
    assert fold_patients(rows, 5, "patient", 1) != fold_patients(rows, 5, "patient", 2)


@pytest.mark.parametrize(
    ("count", "share", "expected"), [(10, 0.15, 2), (50, 0.29, 15), (2, 0.1, 1), (2, 0.9, 1), (1, 0.3, 0)]
)
def test_share_is_rounded_half_up(count: int, share: float, expected: int) -> None:
    """0.29 x 50 is 14.5, but 14.499999999999998 in binary."""
    rows = rows_of({str(patient): [0] for patient in range(count)})
    assert len(split_patients(rows, share, "patient", 0)[1]) == expected


def test_patients_go_by_their_worst_eye_and_images_by_themselves() -> None:
    rows = rows_of({str(patient): [0, 2] for patient in range(10)})
    by_patient = split_patients(rows, 0.2, "patient", 0)[1]
    assert Counter(row["grade"] for row in by_patient) == {"0": 2, "2": 2}
    assert len(members(by_patient)) == 2
    by_image = split_patients(rows, 0.2, "image", 0)[1]
    assert Counter(row["grade"] for row in by_image) == {"0": 2, "2": 2}
    assert len(members(by_image)) > 2


@given(levels=patients, folds=st.integers(2, 6), seed=st.integers())
def test_folds_keep_patients_whole_and_share_each_level_evenly(levels: Levels, folds: int, seed: int) -> None:
    rows = rows_of(levels)
    fold_of: dict[str, set[int]] = {patient: set() for patient in levels}
    for row, fold in zip(rows, fold_patients(rows, folds, "patient", seed), strict=True):
        fold_of[row["patient"]].add(fold)
    assert all(len(its) == 1 for its in fold_of.values())
    assert set().union(*fold_of.values()) <= set(range(1, folds + 1))
    for worst in range(3):
        counts = Counter(min(fold_of[patient]) for patient, its in levels.items() if max(its) == worst)
        sizes = [counts[fold] for fold in range(1, folds + 1)]
        assert max(sizes) - min(sizes) <= 1


@given(levels=patients, folds=st.integers(2, 6), seed=st.integers(), data=st.data())
def test_a_patient_less_moves_at_most_one_other_a_cut(
    levels: Levels, folds: int, seed: int, data: st.DataObject
) -> None:
    gone = data.draw(st.sampled_from(sorted(levels)))
    fewer = {patient: its for patient, its in levels.items() if patient != gone}

    def folds_of(levels: Levels) -> dict[str, int]:
        rows = rows_of(levels)
        return dict(zip((row["patient"] for row in rows), fold_patients(rows, folds, "patient", seed), strict=True))

    before, after = folds_of(levels), folds_of(fewer)
    assert sum(before[patient] != after[patient] for patient in fewer) <= folds - 1


def test_rare_levels_do_not_meet_in_one_fold() -> None:
    rows = rows_of({"a": [0], "b": [1], "c": [2]})
    assert len(set(fold_patients(rows, 3, "patient", 0))) == 3


def inventory_of(folder: Path, levels: Levels) -> Path:
    rows = [dict.fromkeys(INVENTORY_COLUMNS, "") | row | {"path": f"{row['image']}.jpeg"} for row in rows_of(levels)]
    rows.append(dict.fromkeys(INVENTORY_COLUMNS, "") | {"image": "bad", "path": "bad.jpeg", "problem": "unreadable"})
    write_table(folder / "inventory.csv", INVENTORY_COLUMNS, rows)
    return folder / "inventory.csv"


def test_written_split_holds_the_usable_rows(tmp_path: Path) -> None:
    levels = {f"ü,\n{patient}": [patient % 3, 0] for patient in range(30)}
    pair = (tmp_path / "split/train.csv", tmp_path / "split/validation.csv")
    write_split(inventory_of(tmp_path, levels), CLASSES, 0.2, 0, "patient", 7, [pair])
    train, validation = (read_table(path, SPLIT_COLUMNS) for path in pair)
    assert members(train) | members(validation) == set(levels)
    assert len(members(validation)) == 6
    assert not members(train) & members(validation)
    assert "problem" not in train[0]


def test_written_folds_are_each_validated_once(tmp_path: Path) -> None:
    levels = {str(patient): [patient % 3, 0] for patient in range(30)}
    pairs = [(tmp_path / f"fold-{fold}/train.csv", tmp_path / f"fold-{fold}/validation.csv") for fold in range(1, 5)]
    write_split(inventory_of(tmp_path, levels), CLASSES, 0.2, 4, "patient", 7, pairs)
    tables = [[read_table(path) for path in pair] for pair in pairs]
    assert sorted(patient for _, validation in tables for patient in members(validation)) == sorted(levels)
    for train, validation in tables:
        assert members(train) == set(levels) - members(validation)


@pytest.mark.parametrize(
    ("levels", "folds", "message"),
    [
        (
            {"a": [0], "b": [1], "c": [0], "d": [1]},
            0,
            r"the inventory has no .*'moderate' \(level 2\).* 0 patients with one. Add .*, or take it out",
        ),
        (
            {"a": [0], "b": [1], "c": [0], "d": [1], "e": [2]},
            0,
            r"validation part has no .*'moderate'.* 1 patients.*another seed",
        ),
        ({str(n): [n % 3] for n in range(9)}, 4, r"part of fold \d has no .* 3 patients.*fewer folds"),
    ],
)
def test_part_without_a_class_is_an_error_and_nothing_is_written(
    tmp_path: Path, levels: Levels, folds: int, message: str
) -> None:
    pairs = [(tmp_path / f"{fold}/train.csv", tmp_path / f"{fold}/validation.csv") for fold in range(max(folds, 1))]
    with pytest.raises(RetinaflowError, match=message):
        write_split(inventory_of(tmp_path, levels), CLASSES, 0.2, folds, "patient", 7, pairs)
    assert os.listdir(tmp_path) == ["inventory.csv"]


@pytest.mark.real
@pytest.mark.skipif(not (DATA / "trainLabels15.csv").exists(), reason="no Kaggle 2015 labels at RETINAFLOW_DATA")
def test_kaggle_labels_split_to_within_one_patient_a_level() -> None:
    rows = [
        {"image": label.image, "patient": label.image.partition("_")[0], "grade": label.level_text}
        for label in read_labels(str(DATA / "trainLabels15.csv"), "image", "level")
    ]
    train, validation = split_patients(rows, 0.2, "patient", 2015)
    assert not members(train) & members(validation)
    assert len(members(validation)) == pytest.approx(0.2 * len(members(rows)), abs=5)
    shares = [Counter(row["grade"] for row in part) for part in (validation, rows)]
    for level in "01234":
        assert shares[0][level] / shares[1][level] == pytest.approx(0.2, abs=0.02)
