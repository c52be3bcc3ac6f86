"""Several data sets by name: which there are, and one message for each mistake."""

import pytest

from configurations import completed, configured, written
from retinaflow.config.loading import load
from retinaflow.config.lookups import (
    data_sets,
    eye_models,
    grade_names,
    grade_scale,
    image_counts,
    patient_group,
    scored_sets,
    split_columns,
    training_sets,
    validation_sets,
)
from retinaflow.config.models import Models
from retinaflow.config.places import check_files
from retinaflow.errors import RetinaflowError
from retinaflow.evaluation.grades import GradeScale
from retinaflow.settings.data import set_key

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
    assert [set_key(name) for name in scored_sets(full)] == ["data.test.b", "data.test.c-d"]
    assert Models.of(full).scored == ["validation", "test-b", "test-c-d"]


def test_data_set_has_columns_of_its_own_or_those_of_all():
    full = load(configuration({"a": ONE, "b": OTHER}, grade_column="grade"))
    columns = {name: (source.image_column, source.grade_column) for name, source in data_sets(full).items()}
    assert columns == {"train-a": ("image", "grade"), "train-b": ("id_code", "diagnosis")}


def test_data_set_may_have_no_subgroups():
    full = load(configuration({"a": ONE, "b": {**OTHER, "subgroups": []}}, subgroups=["camera"]))
    assert [source.subgroups for source in data_sets(full).values()] == [["camera"], []]


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
        (({"a/b": ONE},), {}, "data.train.a/b.[key]: 'a/b' does not match the form of a name: "),
        (
            ({"a": ONE},),
            {"validation": ONE},
            "data.validation.images: 'a' is not of type 'section' (name each data set",
        ),
        (({"a": ONE, "b": {"labels": "x"}},), {}, "data.train.b.images: this key is required and missing"),
        (({"a": ONE, "b": {**ONE, "image": 1}},), {}, "data.train.b.image: unknown key; did you mean 'images'?"),
        (({"a": {**ONE, "patient_pattern": "x"}},), {}, "data.train.a.patient_pattern: 'x' has no group (?P<patient>"),
        (
            ({"a": {**ONE, "grade_column": "image"}},),
            {},
            "data.train.a.grade_column: 'image' is data.train.a.image",
        ),
        (
            ({**ONE, "image_column": ["l", "r"], "grade_column": ["a", "b", "c"]},),
            {},
            "data.train.grade_column: 3 columns for the 2 of image_column; expected one for each image, or one for all",
        ),
        (
            ({**ONE, "image_column": ["l", "r"], "eye_column": "eye"},),
            {},
            "data.train.eye_column: a row has several images; set it to null",
        ),
        (({**ONE, "grade_separator": ","},), {}, "data.train.grade_separator: without grade_map, it has no effect"),
        (({**ONE, "image_column": []},), {}, "data.train.image_column"),
        ((ONE,), {"grade_column": "image"}, "data.grade_column: 'image' is data.image_column, too"),
        ((ONE,), {"patient_column": "Image "}, "data.patient_column: 'Image ' is the column of the images, too, so "),
        ((ONE,), {"patient_column": "level"}, "data.patient_column: 'level' is the column of the grades, too"),
        (
            ({"a": {**ONE, "patient_column": "side", "eye_column": "side"}},),
            {},
            "data.train.a.patient_column: 'side' is the column of the eyes, too; name another",
        ),
        (
            ({"a": {**ONE, "image_column": "id", "patient_column": "id"}},),
            {},
            "data.train.a.patient_column: 'id' is the column of the images, too",
        ),
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


def test_column_of_one_of_several_images_can_name_the_patient():
    source = {**ONE, "image_column": ["l", "r"], "grade_column": ["a", "b"], "patient_column": "l"}
    assert load(configuration(source)).data.train.patient_column == "l"


@pytest.mark.parametrize("grade", [2, 2.0, "2", "2.0"])
def test_grade_has_one_meaning_as_number_and_text(grade):
    of_map = configured(data__grade_map={"R2": grade, "R3": [grade]}, data__train={**ONE, "ungradable": [grade]})
    assert str(of_map.data.grade_map["R2"]).removesuffix(".0") == "2"
    assert configured(endpoints={"referable": [grade, 3, 4]}).endpoints == {"referable": [2, 3, 4]}


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


def test_both_eyes_of_the_columns_or_paths_count(tmp_path):
    (tmp_path / "columns.csv").write_text("image,level,patient,eye\na,0,1,OD\nb,0,1,OS\n")
    (tmp_path / "one.csv").write_text("image,level,patient,eye\na,0,1,OD\nb,0,2,OS\n")
    (tmp_path / "paths.csv").write_text("image,level\nP0/OD.jpg,0\nP0/OS.jpg,0\nP1/OD.jpg,0\nP1/OS.jpg,0\n")
    columns = {"patient_column": "patient", "eye_column": "eye"}
    pattern = {"patient_pattern": "(?P<patient>.+)/(?P<eye>OD|OS)"}
    for name, options, kinds in (
        ("columns", columns, ["average", "stacking"]),
        ("one", columns, []),
        ("paths", pattern, ["average", "stacking"]),
    ):
        one = {"images": "x", "labels": str(tmp_path / f"{name}.csv"), **options}
        assert eye_models(completed(written(data={"train": {"a": one}}))) == kinds


def test_test_sets_without_fellow_eyes_are_known(tmp_path):
    sets = {}
    for name, images in (("single", ["1", "2_left"]), ("paired", ["1_left", "1_right"])):
        table = tmp_path / f"{name}.csv"
        table.write_text("image,level\n" + "".join(f"{image},0\n" for image in images))
        sets[name] = {"images": "x", "labels": str(table)}
    made = Models.of(completed(written(data={"train": sets["paired"], "test": sets})))
    assert made.splits_of("VGG16+eye_average") == ["validation", "test-paired"]
    assert made.splits_of("VGG16") == ["validation", "test-single", "test-paired"]


def test_eye_column_allows_models_of_both_eyes():
    one = {**ONE, "patient_pattern": "(?P<patient>.+)", "patient_column": "p", "eye_column": "e"}
    values = written(data={"train": one}, models={"VGG16": {}}, eyes={"models": ["average"]})
    assert load(values).eyes.models == ["average"]


def test_grade_map_may_have_numbers():
    merged = {**ONE, "grade_map": {"referable": [2, 3, 4], "not_referable": [0, 1]}}
    renamed = {**OTHER, "grade_map": {0: 0, "R1": "referable"}}
    values = configuration({"a": merged, "b": renamed}, grade_names=["not_referable", "referable"])
    full = load(values)
    maps = {name: source.grade_map for name, source in data_sets(full).items()}
    assert maps == {
        "train-a": {"referable": ["2", "3", "4"], "not_referable": ["0", "1"]},
        "train-b": {"0": "0", "R1": "referable"},
    }
    assert load(full.model_dump()) == full


@pytest.mark.parametrize(
    ("grade_map", "expected"),
    [
        ({"R0": 5}, "data.train.a.grade_map: '5' is no grade; expected 0 to 4 or one of no_dr, mild"),
        ({"mild": [1, 2], "severe": [2]}, "data.train.a.grade_map: '2' has two grades"),
        ({"mild": []}, "data.train.a.grade_map.mild"),
        ({False: 0}, "data.train.a.grade_map.False: YAML reads this key as bool"),
        ({1.5: 0}, "data.train.a.grade_map.1.5: YAML reads this key as float"),
        ({"a": {"b": 1}}, "data.train.a.grade_map.a"),
        ([1, 2], "data.train.a.grade_map"),
        ({}, "data.train.a.grade_map"),
    ],
)
def test_mistake_in_a_grade_map_is_named(grade_map, expected):
    assert expected in message({"a": {**ONE, "grade_map": grade_map}})


def test_scale_of_a_test_set_joins_grades():
    """In any order and spelling. The grade map of all data sets is not for it."""
    scales = {
        "a": {"referable": [2, 3, "Proliferative DR"], "not_referable": [0, "mild"]},
        "b": {"R3": [3, 4], "R0": 0, "R1": 1, "R2": 2},
    }
    test = {name: {**ONE, "scale": scale} for name, scale in scales.items()}
    full = load(configuration(OTHER, {**test, "c": ONE}, grade_map={"X0": 0, "X1": 1}))
    assert grade_names(full, "test-a") == ["not_referable", "referable"]
    assert grade_scale(full, "test-a").of_grade == [0, 0, 1, 1, 1]
    assert grade_scale(full, "test-b") == GradeScale(["R0", "R1", "R2", "R3"], [0, 1, 2, 3, 3])
    assert grade_scale(full, "test-c") is None
    assert grade_names(full, "validation") == full.data.grade_names
    maps = {name: source.grade_map for name, source in data_sets(full).items()}
    assert (maps["test-a"], maps["test-c"]) == (None, {"X0": "0", "X1": "1"})
    assert load(full.model_dump()) == full


@pytest.mark.parametrize(
    ("scale", "expected"),
    [
        ({"a": [0, 1], "b": [2, 3]}, "grade 4 (proliferative) is in none of a, b; expected each grade of the training"),
        ({"a": [0, 1, 2], "b": [2, 3, 4]}, "grade 2 (moderate) is in a and b; expected it in one of them"),
        ({"a": [0, 2], "b": [1, 3, 4]}, "a joins [0, 2]; expected grades that follow each other"),
        ({"a": [0, 1], "b": [2, 3, 5]}, "b: '5' is no grade; expected 0 to 4 or one of no_dr, mild"),
        ({"a": [0, 1, 2, 3, 4]}, "data.test.x.scale"),
        ({"A": [0, 1], "a": [2, 3, 4]}, "'A' and 'a' differ in case only"),
        ({"a/b": [0, 1], "c": [2, 3, 4]}, "data.test.x.scale"),
    ],
)
def test_mistake_in_a_scale_is_named(scale, expected):
    found = message(OTHER, {"x": {**ONE, "scale": scale}})
    assert "data.test.x.scale" in found
    assert expected in found


def test_scale_of_a_training_set_is_a_mistake():
    scale = {"a": [0, 1], "b": [2, 3, 4]}
    assert "data.train.a.scale: training sets have the grades" in message({"a": {**ONE, "scale": scale}})
    found = message(OTHER, {"x": {**ONE, "scale": scale, "grade_map": {"0": 0, "1": 2}}})
    assert "data.test.x.grade_map: '2' is no grade; expected 0 to 1 or one of a, b" in found


@pytest.mark.parametrize(
    ("train", "split", "expected"),
    [
        ({"a": ONE}, {"column": "split", "folds": 3}, "split.column: 'split' prescribes one split"),
        (
            {"a": ONE, "b": {"images": "b", "labels": "class_folders"}},
            {"column": "split"},
            "split.column: data.train.b has no label table",
        ),
        (
            {"a": {**ONE, "split_column": "s"}, "b": OTHER},
            {},
            "data.train.b.split_column: expected a column, as other training sets have one",
        ),
        ({"a": ONE}, {"lists": {"validation": "v.txt"}, "folds": 2}, "split.lists: prescribes one split"),
        ({"a": ONE}, {"lists": {"validation": "v.txt"}, "column": "s"}, "a column prescribes the split, too"),
        ({"a": ONE}, {"lists": {"train": "v.txt"}}, "split.lists.validation: this key is required"),
    ],
)
def test_given_split_that_cannot_work_is_named(train, split, expected):
    with pytest.raises(RetinaflowError) as caught:
        load({**configuration(train), "split": split})
    assert expected in str(caught.value)


def test_training_set_may_have_its_own_column_of_the_split():
    sets = {"a": {**ONE, "split_column": "fold"}, "b": OTHER}
    full = load({**configuration(sets), "split": {"column": "split"}})
    assert split_columns(full) == {"train-a": "fold", "train-b": "split"}
    assert split_columns(load(configuration({"a": ONE}))) == {}
    assert "data.test.split_column: only training sets are split" in message(ONE, {**OTHER, "split_column": "s"})


def test_list_that_is_no_file_is_named(tmp_path):
    (tmp_path / "a.csv").write_text("image,level\n1,0\n")
    one = {"images": str(tmp_path), "labels": str(tmp_path / "a.csv")}
    config = load({**configuration(one), "split": {"lists": {"validation": ["v.txt"]}}})
    with pytest.raises(RetinaflowError, match=r"split.lists.validation: there is no file 'v.txt'"):
        check_files(config)


def test_validation_sets_are_training_sets_that_are_held_out():
    full = load(configuration({"a": ONE, "b": OTHER}, ONE, validation={"b": OTHER, "c": ONE}))
    assert training_sets(full) == ["train-a", "train-b", "train-validation.b", "train-validation.c"]
    assert validation_sets(full) == ["train-validation.b", "train-validation.c"]
    assert set_key("train-validation.b") == "data.validation.b"
    assert patient_group(full, "train-validation.b") == "b"
    assert full.data.validation["b"].image_column == "id_code"
    assert load(full.model_dump()) == full


def test_numbers_of_images_follow_from_validation_sets(tmp_path):
    sets = {}
    for name, count in (("a", 30), ("b", 10)):
        (tmp_path / f"{name}.csv").write_text("image,level\n" + "".join(f"{number},0\n" for number in range(count)))
        sets[name] = {"images": str(tmp_path), "labels": str(tmp_path / f"{name}.csv")}
    full = load(configuration({"a": sets["a"]}, validation={"b": sets["b"]}))
    assert image_counts(full) == {"train": 30, "validation": 10}


def test_preset_of_a_validation_set_has_its_part():
    source = {"preset": "ddr", "folder": "ddr"}
    sets = data_sets(load(configuration({"ddr": source}, {"ddr": source}, validation={"ddr": source})))
    assert [one.images for one in sets.values()] == [["ddr/train"], ["ddr/valid"], ["ddr/test"]]


@pytest.mark.parametrize(
    ("train", "changes", "expected"),
    [
        (ONE, {}, "data.train: with data.validation, training sets have names; write it as {NAME: {...}}"),
        ({"validation.x": ONE}, {}, "data.train.validation.x: the name starts as those of validation sets"),
        ({"a": ONE}, {"split": {"folds": 3}}, "data.validation: it prescribes one split; set split.folds to 0"),
        ({"a": ONE}, {"split": {"column": "s"}}, "data.validation: a column or lists prescribe the split, too"),
    ],
)
def test_validation_sets_that_cannot_work_are_named(train, changes, expected):
    with pytest.raises(RetinaflowError) as caught:
        load({**configuration(train, validation={"v": OTHER}), **changes})
    assert expected in str(caught.value)


def test_mistake_in_a_validation_set_is_named():
    assert "data.validation.v.grade_column: 'image' is data.validation.v.image_column" in message(
        {"a": ONE}, validation={"v": {**ONE, "grade_column": "image"}}
    )
