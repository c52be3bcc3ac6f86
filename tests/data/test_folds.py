"""Folds: whole patients, even shares of each grade, and few moves when patients are added or removed."""

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from examples import Grades, patients
from retinaflow.data.folds import assign_folds


def folds_of(grades: Grades, folds: int, seed: int) -> dict[str, set[int]]:
    """Folds of each patient."""
    images = [(patient, grade) for patient, of_patient in grades.items() for grade in of_patient]
    patients, image_grades = zip(*images, strict=True) if images else ((), ())
    found: dict[str, set[int]] = {patient: set() for patient in grades}
    for patient, fold in zip(patients, assign_folds(patients, image_grades, folds=folds, seed=seed), strict=True):
        found[patient].add(int(fold))
    return found


@given(grades=patients, folds=st.integers(2, 6), seed=st.integers())
def test_folds_keep_patients_whole_and_divide_each_grade_evenly(grades: Grades, folds: int, seed: int) -> None:
    fold_of = folds_of(grades, folds, seed)
    assert all(len(found) == 1 for found in fold_of.values())
    assert set().union(*fold_of.values()) <= set(range(1, folds + 1))
    for worst in range(3):
        counts = Counter(min(fold_of[patient]) for patient in grades if max(grades[patient]) == worst)
        sizes = [counts[fold] for fold in range(1, folds + 1)]
        assert max(sizes) - min(sizes) <= 1


@given(grades=patients, folds=st.integers(2, 6), seed=st.integers(), data=st.data())
def test_removed_patient_moves_at_most_one_other_at_each_cut(
    grades: Grades, folds: int, seed: int, data: st.DataObject
) -> None:
    gone = data.draw(st.sampled_from(sorted(grades)))
    fewer = {patient: of_patient for patient, of_patient in grades.items() if patient != gone}
    before, after = folds_of(grades, folds, seed), folds_of(fewer, folds, seed)
    assert sum(before[patient] != after[patient] for patient in fewer) <= folds - 1


def test_rare_grades_are_in_different_folds() -> None:
    assert len(set().union(*folds_of({"a": [0], "b": [1], "c": [2]}, 3, 0).values())) == 3


@given(grades=patients, seed=st.integers(), data=st.data())
def test_order_of_images_is_irrelevant(grades: Grades, seed: int, data: st.DataObject) -> None:
    mixed = dict(data.draw(st.permutations(list(grades.items()))))
    assert folds_of(mixed, 3, seed) == folds_of(grades, 3, seed)


def test_seed_decides_about_the_folds() -> None:
    grades = {str(patient): [patient % 3, 0] for patient in range(60)}
    assert folds_of(grades, 5, 1) == folds_of(grades, 5, 1) != folds_of(grades, 5, 2)


def test_each_data_set_is_divided_evenly() -> None:
    """Although one of them is much larger."""
    grades = {f"{name}/{patient}": [patient % 2] for name, count in (("a", 100), ("b", 10)) for patient in range(count)}
    fold_of = folds_of(grades, 5, 0)
    for name, each in (("a", 10), ("b", 1)):
        for grade in (0, 1):
            counts = Counter(
                min(fold_of[patient]) for patient in grades if patient[0] == name and grades[patient] == [grade]
            )
            assert counts == dict.fromkeys(range(1, 6), each)
