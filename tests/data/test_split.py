"""Split: whole patients, every grade on both sides, and few moves when patients are added or removed."""

import dataclasses
import os
from collections import Counter
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from examples import Grades, patients
from retinaflow.data.given_split import given_sides, held_out_sides, listed_sides
from retinaflow.data.inventory import INVENTORY_COLUMNS
from retinaflow.data.labels import LabelRow, read_labels
from retinaflow.data.split import SPLIT_COLUMNS, SplitJob, split_patients, write_split
from retinaflow.errors import RetinaflowError
from retinaflow.storage.tables import read_table, write_table

DATA = Path(os.environ.get("RETINAFLOW_DATA", Path(__file__).parents[2] / "../shared/data"))
GRADE_NAMES = ["none", "mild", "moderate"]
shares = st.integers(1, 99).map(lambda percent: percent / 100)


def images_of(grades: Grades) -> pd.DataFrame:
    rows = [
        (f"{patient}_{number}", patient, grade)
        for patient, of_patient in grades.items()
        for number, grade in enumerate(of_patient)
    ]
    return pd.DataFrame(rows, columns=["image", "patient", "grade"]).astype({"image": object, "patient": object})


def members(images: pd.DataFrame) -> set[str]:
    return set(images["patient"])


def validation_of(grades: Grades, share: float, seed: int) -> set[str]:
    """Patients of the validation side."""
    return members(split_patients(images_of(grades), share, unit="patient", seed=seed)[1])


@given(grades=patients, share=shares, seed=st.integers(), unit=st.sampled_from(["patient", "image"]))
def test_split_keeps_units_whole_and_rows_in_order(grades: Grades, share: float, seed: int, unit: str) -> None:
    images = images_of(grades)
    train, validation = split_patients(images, share, unit=unit, seed=seed)
    assert not set(train[unit]) & set(validation[unit])
    chosen = [image in set(validation["image"]) for image in images["image"]]
    pd.testing.assert_frame_equal(train, images[~np.array(chosen)])
    pd.testing.assert_frame_equal(validation, images[np.array(chosen)])


@given(grades=patients, share=shares, seed=st.integers())
def test_share_of_each_grade_is_exact_to_one_patient(grades: Grades, share: float, seed: int) -> None:
    chosen = validation_of(grades, share, seed)
    for worst in range(3):
        stratum = {patient for patient, of_patient in grades.items() if max(of_patient) == worst}
        assert abs(len(stratum & chosen) - share * len(stratum)) < 1
        if len(stratum) > 1:
            assert 0 < len(stratum & chosen) < len(stratum)


@given(grades=patients, share=shares, seed=st.integers(), data=st.data())
def test_removed_patient_moves_at_most_one_of_its_grade(
    grades: Grades, share: float, seed: int, data: st.DataObject
) -> None:
    gone = data.draw(st.sampled_from(sorted(grades)))
    fewer = {patient: of_patient for patient, of_patient in grades.items() if patient != gone}
    moved = (validation_of(grades, share, seed) - {gone}) ^ validation_of(fewer, share, seed)
    assert len(moved) <= 1
    assert all(max(grades[patient]) == max(grades[gone]) for patient in moved)


@given(grades=patients, share=shares, seed=st.integers(), data=st.data())
def test_order_of_rows_is_irrelevant(grades: Grades, share: float, seed: int, data: st.DataObject) -> None:
    mixed = dict(data.draw(st.permutations(list(grades.items()))))
    assert validation_of(mixed, share, seed) == validation_of(grades, share, seed)


def test_seed_decides_about_the_split() -> None:
    grades = {str(patient): [patient % 3, 0] for patient in range(60)}
    chosen = [frozenset(validation_of(grades, 0.2, seed)) for seed in (1, 1, 2, -1)]
    assert len(set(chosen)) == 3
    assert chosen[0] == chosen[1]


@pytest.mark.parametrize(
    ("count", "share", "expected"), [(10, 0.15, 2), (50, 0.29, 15), (2, 0.1, 1), (2, 0.9, 1), (1, 0.3, 0)]
)
def test_share_is_rounded_half_up(count: int, share: float, expected: int) -> None:
    """0.29 x 50 is 14.5, but 14.499999999999998 in binary."""
    grades = {str(patient): [0] for patient in range(count)}
    assert len(validation_of(grades, share, 0)) == expected


def test_patients_count_by_their_worst_eye_and_images_alone() -> None:
    images = images_of({str(patient): [0, 2] for patient in range(10)})
    by_patient = split_patients(images, 0.2, unit="patient", seed=0)[1]
    assert Counter(by_patient["grade"]) == {0: 2, 2: 2}
    assert len(members(by_patient)) == 2
    by_image = split_patients(images, 0.2, unit="image", seed=0)[1]
    assert Counter(by_image["grade"]) == {0: 2, 2: 2}
    assert len(members(by_image)) > 2


def job_of(folder: Path, grades: Grades, folds: int, pairs: list[tuple[Path, Path]]) -> SplitJob:
    """A split of an inventory with one unusable image."""
    blank = dict.fromkeys(INVENTORY_COLUMNS, "")
    images = images_of(grades).to_dict("records")
    rows = [blank | image | {"path": f"{image['image']}.jpeg"} for image in images]
    rows.append(blank | {"image": "bad", "path": "bad.jpeg", "problem": "unreadable"})
    write_table(folder / "inventory.csv", INVENTORY_COLUMNS, rows)
    return SplitJob(folder / "inventory.csv", GRADE_NAMES, 0.2, folds=folds, unit="patient", seed=7, outputs=pairs)


def patients_in(path: Path) -> set[str]:
    return {row["patient"] for row in read_table(path, SPLIT_COLUMNS)}


def test_written_split_has_the_usable_images(tmp_path: Path) -> None:
    grades = {f"ü,\n{patient}": [patient % 3, 0] for patient in range(30)}
    pair = (tmp_path / "split/train.csv", tmp_path / "split/validation.csv")
    write_split(job_of(tmp_path, grades, 0, [pair]))
    train, validation = map(patients_in, pair)
    assert train | validation == set(grades)
    assert len(validation) == 6
    assert not train & validation
    assert "problem" not in read_table(pair[0])[0]


def test_split_tables_have_the_subgroups(tmp_path: Path) -> None:
    pair = (tmp_path / "train.csv", tmp_path / "validation.csv")
    job = job_of(tmp_path, {str(patient): [patient % 3, 0] for patient in range(30)}, 0, [pair])
    rows = [{**row, "subgroup_site": row["patient"]} for row in read_table(job.inventory)]
    write_table(job.inventory, [*INVENTORY_COLUMNS, "subgroup_site"], rows)
    write_split(job)
    assert all(row["subgroup_site"] == row["patient"] for path in pair for row in read_table(path))


def test_each_written_fold_validates_once(tmp_path: Path) -> None:
    grades = {str(patient): [patient % 3, 0] for patient in range(30)}
    pairs = [(tmp_path / f"fold-{fold}/train.csv", tmp_path / f"fold-{fold}/validation.csv") for fold in range(1, 5)]
    write_split(job_of(tmp_path, grades, 4, pairs))
    sides = [(patients_in(train), patients_in(validation)) for train, validation in pairs]
    assert sorted(patient for _, validation in sides for patient in validation) == sorted(grades)
    for train, validation in sides:
        assert train == set(grades) - validation


@pytest.mark.parametrize(
    ("grades", "folds", "message"),
    [
        (
            {"a": [0], "b": [1], "c": [0], "d": [1]},
            0,
            r"the inventory has no .*grade 2 \('moderate'\).* 0 patients with one. Add .*, or remove it",
        ),
        (
            {"a": [0], "b": [1], "c": [0], "d": [1], "e": [2]},
            0,
            r"validation part has no .*'moderate'.* 1 patients.*another seed",
        ),
        ({str(n): [n % 3] for n in range(9)}, 4, r"part of fold \d has no .* 3 patients.*fewer folds"),
    ],
)
def test_side_without_a_grade_is_an_error_before_anything_is_written(
    tmp_path: Path, grades: Grades, folds: int, message: str
) -> None:
    pairs = [(tmp_path / f"{fold}/train.csv", tmp_path / f"{fold}/validation.csv") for fold in range(max(folds, 1))]
    with pytest.raises(RetinaflowError, match=message):
        write_split(job_of(tmp_path, grades, folds, pairs))
    assert sorted(os.listdir(tmp_path)) == [".inventory.csv.digest", "inventory.csv"]


@pytest.mark.real
@pytest.mark.skipif(not (DATA / "trainLabels15.csv").exists(), reason="no Kaggle 2015 labels at RETINAFLOW_DATA")
def test_kaggle_labels_are_split_to_one_patient_a_grade() -> None:
    labels = read_labels(str(DATA / "trainLabels15.csv"), "image", "level")
    rows = [(label.image.partition("_")[0], int(label.grade_text)) for label in labels]
    images = pd.DataFrame(rows, columns=["patient", "grade"])
    train, validation = split_patients(images, 0.2, unit="patient", seed=2015)
    assert not members(train) & members(validation)
    assert len(members(validation)) == pytest.approx(0.2 * len(members(images)), abs=5)
    shares = validation["grade"].value_counts() / images["grade"].value_counts()
    assert shares.to_numpy() == pytest.approx([0.2] * 5, abs=0.02)


def given(tmp_path: Path, text: str, names: list[tuple[str, str, str]], unit: str = "patient") -> list[list[str]]:
    """Images on both sides of a split that a table prescribes; ``names`` are (image, patient, grade)."""
    (tmp_path / "labels.csv").write_text(text)
    rows = [dict(zip(("image", "patient", "grade"), name, strict=True)) for name in names]
    write_table(
        tmp_path / "i.csv", INVENTORY_COLUMNS, [{**dict.fromkeys(INVENTORY_COLUMNS, ""), **row} for row in rows]
    )
    outputs = (tmp_path / "train.csv", tmp_path / "validation.csv")
    sides = given_sides({"": read_labels(str(tmp_path / "labels.csv"), "image", "split")})
    write_split(SplitJob(tmp_path / "i.csv", ["a", "b"], 0.2, 0, unit, seed=1, outputs=[outputs], given=sides))
    return [[row["image"] for row in read_table(path)] for path in outputs]


SPLIT = "image,split\n1,train\n2.jpg,Training\n3,VAL\n4,validation\n5,test\n"
FIVE = [("1", "p1", "0"), ("2", "p2", "1"), ("3", "p3", "0"), ("4", "p4", "1"), ("5", "p1", "1")]


def test_split_of_the_table_is_used(tmp_path: Path) -> None:
    assert given(tmp_path, SPLIT, FIVE) == [["1", "2"], ["3", "4"]]


def test_split_of_the_table_with_paths(tmp_path: Path) -> None:
    text = "image,split\nP1/OD,train\nP2/OD,train\nP3/OD,val\nP4/OD,val\n"
    names = [(f"P{n}/OD", f"P{n}", str(n % 2)) for n in range(1, 5)]
    assert given(tmp_path, text, names) == [["P1/OD", "P2/OD"], ["P3/OD", "P4/OD"]]


def test_patient_on_both_sides_of_a_given_split_is_an_error(tmp_path: Path) -> None:
    names = [FIVE[0], FIVE[1], ("3", "p1", "0"), FIVE[3]]
    with pytest.raises(RetinaflowError, match="1 patients have images in training and validation, such as 'p1'"):
        given(tmp_path, SPLIT, names)
    assert given(tmp_path, SPLIT, names, "image") == [["1", "2"], ["3", "4"]]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("image,split\n1,train\n2,fold1\n", "row 3 has 'fold1' for the image '2'"),
        ("image,split\n1,train\n2,\n", "row 3 has '' for the image '2'"),
        ("image,split\n1,train\n1,test\n", "the image '1' is in train and test"),
        ("image,split\n1,train\n2,train\n3,train\n", "the validation part has no image of grade 0"),
        ("image,level\n1,train\n", "expected the columns 'image' and 'split'"),
    ],
)
def test_given_split_that_cannot_be_used_is_an_error(tmp_path: Path, text: str, message: str) -> None:
    with pytest.raises(RetinaflowError, match=message):
        given(tmp_path, text, FIVE)


def test_given_sides_of_joined_sets_have_their_names() -> None:
    rows = {"a": [LabelRow("1", "train", 2)], "b": [LabelRow("1", "val", 2)]}
    assert given_sides(rows) == {"a/1": "train", "b/1": "validation"}


@pytest.mark.parametrize("unit", ["patient", "image"])
def test_images_in_folders_are_one_stratum(unit: str) -> None:
    rows = [(f"P{n}/OD", f"P{n}_OD", 0) for n in range(20)]
    images = pd.DataFrame(rows, columns=["image", "patient", "grade"])
    assert [len(side) for side in split_patients(images, 0.2, unit=unit, seed=1)] == [16, 4]
    joined = images.assign(image="a/" + images["image"], patient="a/" + images["patient"])
    assert [len(side) for side in split_patients(joined, 0.2, unit=unit, seed=1)] == [16, 4]


IMAGES = ["a/1_left", "a/1_right", "a/2_left", "b/1_left", "b/P0/OD"]


@pytest.mark.parametrize(
    ("lists", "expected"),
    [
        (
            {"train": ["a/1_left.jpeg", "1_right"], "validation": ["P0/OD.png"]},
            ["train", "train", None, None, "validation"],
        ),
        ({"validation": ["2_left", "b/1_left"]}, ["train", "train", "validation", "validation", "train"]),
        (
            {"train": ["images/b/1_left.jpg"], "validation": ["x/OD"], "test": ["2_left"]},
            [None, None, "test", "train", "validation"],
        ),
    ],
)
def test_sides_follow_from_lists_of_names(lists: dict[str, list[str]], expected: list[str | None]) -> None:
    sides = listed_sides(lists, IMAGES)
    assert [sides.get(image) for image in IMAGES] == expected


@pytest.mark.parametrize(
    ("lists", "message"),
    [
        ({"train": ["a/1_left"], "validation": ["a/1_left.png"]}, "image 'a/1_left' is in train and validation"),
        ({"train": ["1_left"], "validation": ["2_left"]}, "split.lists.train: '1_left' is the name of 2 images, such"),
        (
            {"train": ["2_left"], "validation": ["3_left", *map(str, range(7))]},
            "8 names are those of no image of the training sets: '3_left', '0', '1', '2', '3' and 3 more",
        ),
    ],
)
def test_list_that_cannot_be_used_is_an_error(lists: dict[str, list[str]], message: str) -> None:
    with pytest.raises(RetinaflowError, match=message):
        listed_sides(lists, IMAGES)


def test_images_in_no_list_are_counted_and_named(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pair = (tmp_path / "train.csv", tmp_path / "validation.csv")
    job = job_of(tmp_path, {str(patient): [patient % 3] for patient in range(9)}, 0, [pair])
    images = [row["image"] for row in read_table(job.inventory) if not row["problem"]]
    sides = listed_sides({"train": images[:3], "validation": images[3:6], "test": images[6:7]}, images)
    write_split(dataclasses.replace(job, given=sides, given_by="split.lists"))
    assert [[row["image"] for row in read_table(path)] for path in pair] == [images[:3], images[3:6]]
    assert "3 images are not used, 1 of them in the test set of split.lists and 2 in no set of it: " in caplog.text
    assert all(repr(image) in caplog.text for image in images[6:])


def test_patient_in_two_lists_is_an_error(tmp_path: Path) -> None:
    pair = (tmp_path / "train.csv", tmp_path / "validation.csv")
    job = job_of(tmp_path, {str(patient): [patient % 3, 0] for patient in range(6)}, 0, [pair])
    images = [row["image"] for row in read_table(job.inventory) if not row["problem"]]
    sides = listed_sides({"validation": images[::2]}, images)
    with pytest.raises(RetinaflowError, match=r"split[.]lists: 6 patients have images in training and validation"):
        write_split(dataclasses.replace(job, given=sides, given_by="split.lists"))


def test_validation_sets_are_held_out() -> None:
    images = ["a/1_left", "validation.a/1_left", "b/x/y", "validationa/2"]
    sides = held_out_sides(images, ["validation.a"])
    assert [sides[image] for image in images] == ["train", "validation", "train", "train"]
