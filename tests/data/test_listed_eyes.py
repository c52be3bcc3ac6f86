"""Patients and eyes that a list of new images names."""

import pytest

from retinaflow.data.listed_eyes import listed_eyes
from retinaflow.errors import RetinaflowError


def listed(folder, text, name="list.csv"):
    (folder / name).write_text(text)
    return listed_eyes(str(folder / name))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("image,patient,eye\na,7.0,OS\nb,P-7,\n,8,left\n", {"a": ("7", "left"), "b": ("P-7", "")}),
        ("eye,image\n1.0,a\n1,a\n", {"a": ("", "right")}),
        ("patient;image\n7;a\n", {"a": ("7", "")}),
        ("image\na\n", {}),
        ("Image, PATIENT ,other\na,7\n", {"a": ("7", "")}),
    ],
)
def test_list_names_patients_and_eyes(tmp_path, text, expected):
    assert listed(tmp_path, text) == expected
    assert listed(tmp_path, text, "list.txt") == {}


def test_two_rows_of_an_image_that_differ_are_an_error(tmp_path):
    with pytest.raises(RetinaflowError, match=r"row 3 names 'a' again, with \('7', 'right'\) as patient and eye"):
        listed(tmp_path, "image,patient,eye\na,7,left\na,7,right\n")


@pytest.mark.parametrize("column", ["patient", "eye"])
def test_column_that_occurs_twice_is_an_error(tmp_path, column):
    with pytest.raises(RetinaflowError, match=rf"list.csv: the first row has the column '{column}' 2 times, expected"):
        listed(tmp_path, f"image,{column},{column}\na,1,2\n")


def test_list_without_images_is_an_error(tmp_path):
    with pytest.raises(RetinaflowError, match=r"list.csv: expected the columns 'image', each once; found 'patient'"):
        listed(tmp_path, "patient\n7\n")
