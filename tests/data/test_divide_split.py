"""Both sides of a split, set by set."""

import pytest

from retinaflow.data.divide_split import divide_split
from retinaflow.data.inventory import INVENTORY_COLUMNS
from retinaflow.data.split import SplitJob, write_split
from retinaflow.errors import RetinaflowError
from retinaflow.storage.tables import read_table, write_table

GRADE_NAMES = ["none", "mild"]


def rows_of(data_set, patients):
    """Two images of each of some patients of a data set, all of one patient with one grade."""
    return [
        {"image": f"{data_set}/{n}_{eye}", "patient": f"{data_set}/{n}", "grade": n % 2, "path": f"{data_set}{n}{eye}"}
        for n in range(patients)
        for eye in "ab"
    ]


def divided(folder, sets, *, names=None, grade_names=GRADE_NAMES):
    """Split and divide the images of ``sets``. Return the names of images by set and side."""
    inventory = folder / "train.csv"
    write_table(inventory, INVENTORY_COLUMNS, [row for rows in sets.values() for row in rows])
    sides = {side: folder / f"{side}.csv" for side in ("train", "validation")}
    options = {"validation": 0.2, "folds": 0, "unit": "patient", "seed": 1}
    write_split(SplitJob(inventory, GRADE_NAMES, **options, outputs=[(sides["train"], sides["validation"])]))
    outputs = {name: {side: folder / f"{name}-{side}.csv" for side in sides} for name in names or sets}
    divide_split(sides, outputs, grade_names)
    return {
        (name, side): {row["image"] for row in read_table(path)}
        for name, of_set in outputs.items()
        for side, path in of_set.items()
    }


def test_each_image_is_on_one_side_of_its_set(tmp_path):
    sets = {"one": rows_of("one", 20), "two": rows_of("two", 10)}
    found = divided(tmp_path, sets)
    assert sum(map(len, found.values())) == 2 * 30
    for name, rows in sets.items():
        train, validation = found[name, "train"], found[name, "validation"]
        assert train | validation == {row["image"] for row in rows}
        assert not {image.split("_")[0] for image in train} & {image.split("_")[0] for image in validation}
    assert len(found["one", "validation"]) == 2 * 4


def test_another_set_moves_no_image_of_the_others(tmp_path):
    sets = {"one": rows_of("one", 20), "two": rows_of("two", 10)}
    before = divided(tmp_path, sets)
    after = divided(tmp_path, {"new": rows_of("new", 13), **sets})
    assert {key: after[key] for key in before} == before


def test_grade_of_a_single_set_is_an_error_for_the_training_without_it(tmp_path):
    mild_alone = [row for row in rows_of("one", 20) if row["grade"] == 1] + rows_of("one", 1)
    sets = {"one": mild_alone, "two": [row for row in rows_of("two", 20) if row["grade"] == 0]}
    with pytest.raises(RetinaflowError, match=r"without one, the train part has no image of grade 'mild'"):
        divided(tmp_path, sets)
    assert not list(tmp_path.glob("one-*.csv"))


def test_set_without_images_on_a_side_is_an_error(tmp_path):
    sets = {"one": rows_of("one", 20), "three": rows_of("three", 20), "two": rows_of("two", 1)}
    with pytest.raises(RetinaflowError, match="two has no image in the validation part"):
        divided(tmp_path, sets)


def test_image_of_an_unknown_set_is_an_error(tmp_path):
    sets = {"one": rows_of("one", 20), "two": rows_of("two", 10)}
    with pytest.raises(RetinaflowError, match="an image is of 'two', expected one of one, other"):
        divided(tmp_path, sets, names=["one", "other"])
