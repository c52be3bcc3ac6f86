"""Several data sets by name: which there are, and one message for each mistake."""

import pytest

from configurations import completed, written
from retinaflow.config.loading import load
from retinaflow.config.lookups import data_key, data_sets, patient_group, scored_sets, training_sets
from retinaflow.config.models import Models
from retinaflow.errors import RetinaflowError

ONE = {"images": "a", "labels": "a.csv"}
OTHER = {"images": "b", "labels": "b.csv", "image_column": "id_code", "grade_column": "diagnosis"}


def configuration(train, test=None, **data):
    return written(data={"train": train, "test": test, **data}, models={"VGG16": {}}, eyes={"models": []})


def message(*sets, **data):
    with pytest.raises(RetinaflowError) as caught:
        load(configuration(*sets, **data))
    return str(caught.value)


def test_one_data_set_of_each_use():
    full = load(configuration(ONE, OTHER))
    assert list(data_sets(full)) == ["train", "test"]
    assert {patient_group(full, name) for name in data_sets(full)} == {""}
    assert Models.of(full).scored == ["validation", "test"]


def test_several_data_sets_have_names():
    full = load(configuration({"a": ONE, "b": OTHER}, {"b": OTHER, "c-d": ONE}))
    assert training_sets(full) == ["train-a", "train-b"]
    assert scored_sets(full) == ["test-b", "test-c-d"]
    assert [data_key(name) for name in scored_sets(full)] == ["data.test.b", "data.test.c-d"]
    assert Models.of(full).scored == ["validation", "test-b", "test-c-d"]


def test_data_set_has_columns_of_its_own_or_those_of_all():
    full = load(configuration({"a": ONE, "b": OTHER}, grade_column="grade"))
    columns = {name: (source.image_column, source.grade_column) for name, source in data_sets(full).items()}
    assert columns == {"train-a": ("image", "grade"), "train-b": ("id_code", "diagnosis")}


def test_patients_are_shared_by_name_or_where_configured():
    sets = ({"a": ONE, "b": OTHER}, {"b": OTHER, "c": ONE, "d": ONE})
    full = load(configuration(*sets, shared_patients=[["a", "d"]]))
    assert {name: patient_group(full, name) for name in data_sets(full)} == {
        "train-a": "a",
        "train-b": "b",
        "test-b": "b",
        "test-c": "c",
        "test-d": "a",
    }


def test_complete_configuration_of_several_sets_describes_itself():
    full = load(configuration({"a": ONE, "b": OTHER}, {"c": ONE}))
    assert load(full.model_dump()) == full


@pytest.mark.parametrize(
    ("sets", "data", "expected"),
    [
        (({"a/b": ONE},), {}, "data.train.a/b.[key]: 'a/b' does not match"),
        (({"a": ONE, "b": {"labels": "x"}},), {}, "data.train.b.images: this key is required and missing"),
        (({"a": ONE, "b": {**ONE, "image": 1}},), {}, "data.train.b.image: unknown key; did you mean 'images'?"),
        (({"a": {**ONE, "patient_pattern": "x"}},), {}, "data.train.a.patient_pattern: 'x' has no group (?P<patient>"),
        (
            ({"a": {**ONE, "grade_column": "image"}},),
            {},
            "data.train.a.grade_column: 'image' is data.train.a.image",
        ),
        ((ONE,), {"grade_column": "image"}, "data.grade_column: 'image' is data.image_column, too"),
        (({"a": ONE},), {"shared_patients": [["a", "b"]]}, "data.shared_patients: there is no data set 'b'"),
        (
            ({"a": ONE, "b": ONE, "c": ONE},),
            {"shared_patients": [["a", "b"], ["b", "c"]]},
            "data.shared_patients: 'b' is in several groups; join them",
        ),
    ],
)
def test_mistake_in_a_data_set_is_named(sets, data, expected):
    assert expected in message(*sets, **data)


def test_demo_draws_one_set_of_each_use():
    place = {"images": "results/a", "labels": "results/a.csv"}
    demo = {"train_patients": 50, "test_patients": 20}
    with pytest.raises(RetinaflowError, match="the demo draws one training set and one test set"):
        load(written(demo=demo, data={"train": {"a": place}, "test": {"b": place}}))


def test_both_eyes_of_any_training_set_count(tmp_path):
    for name, images in (("a", ["1", "2"]), ("b", ["1_left", "1_right"])):
        (tmp_path / f"{name}.csv").write_text("image,level\n" + "".join(f"{image},0\n" for image in images))
    sets = {name: {"images": "x", "labels": str(tmp_path / f"{name}.csv")} for name in "ab"}
    assert Models.of(completed(written(data={"train": sets}))).eye_kinds == ("eye_average", "eye_stacking")
    assert Models.of(completed(written(data={"train": {"a": sets["a"]}}))).eye_kinds == ()
