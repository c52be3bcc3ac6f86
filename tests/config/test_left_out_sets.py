"""Leave one data set out: names of models and splits, numbers of images, and one message for each mistake."""

from pathlib import Path

import pytest

from configurations import completed, written
from retinaflow.config.loading import load
from retinaflow.config.lookups import (
    common_name,
    has_both_eyes,
    held_out_splits,
    image_counts,
    left_out_of,
    left_out_sets,
    shard_counts,
    training_runs,
    without,
)
from retinaflow.config.models import Models, network_of
from retinaflow.config.places import check_pairs
from retinaflow.errors import RetinaflowError
from retinaflow.jobs.clean import find_unused
from retinaflow.jobs.plan import network_work, plan

ONE = {"images": "a", "labels": "a.csv"}
SETS = {"a": ONE, "b-2": {"images": "b", "labels": "b.csv"}, "c.d": {"images": "c", "labels": "c.csv"}}
RIDGE = {"kind": "linear", "features": ["VGG16"], "eyes": "both"}


def configuration(train=None, models=None, **changes):
    values = {"split__leave_out": "data_set", "eyes__models": [], "models": models or {"VGG16": {}}, **changes}
    return written(data__train=SETS if train is None else train, **values)


def labelled_sets(tmp_path, names=("a", "b"), counts=(100, 50), **changes):
    """A configuration of data sets with label tables, in which the images of ``a`` have fellow eyes."""
    sets = {}
    for name, count in zip(names, counts, strict=True):
        labels = tmp_path / f"{name}.csv"
        images = [f"{n // 2}_{('left', 'right')[n % 2]}" if name == "a" else f"{n}_left" for n in range(count)]
        labels.write_text("image,level\n" + "".join(f"{image},0\n" for image in images))
        sets[name] = {"images": str(tmp_path), "labels": str(labels)}
    return completed(configuration(sets, results=str(tmp_path / "results"), **changes))


def message(**changes):
    with pytest.raises(RetinaflowError) as caught:
        load(configuration(**changes))
    return str(caught.value)


@pytest.mark.parametrize("model", ["A", "A+no_tta", "A+ensemble", "ensemble", "ridge+one_eye"])
@pytest.mark.parametrize("data_set", ["a", "b-2", "without-x", "fold-1"])
def test_name_of_a_model_that_a_data_set_is_left_out_of(model, data_set):
    named = without(model, data_set)
    assert named.startswith(f"{model.split('+')[0]}/without-{data_set}")
    assert (common_name(named), left_out_of(named)) == (model, data_set)
    assert network_of(named) == network_of(model)
    assert (common_name(model), left_out_of(model)) == (model, "")
    assert left_out_of("A/fold-1") == ""


def test_each_model_has_a_version_for_each_set():
    full = load(configuration(models={"VGG16": {}, "ResNet50": {}}, repeats=2))
    made = Models.of(full)
    assert left_out_sets(full) == made.left_out == ["a", "b-2", "c.d"]
    assert training_runs(full, "VGG16") == ["VGG16/without-a", "VGG16/without-b-2", "VGG16/without-c.d"]
    assert len(made.training_runs) == 2 * 2 * 3
    assert made.ensembles["VGG16/without-a+ensemble"] == ["VGG16/without-a", "VGG16-repeat-2/without-a"]
    assert len(made.ensembles["ensemble/without-c.d"]) == 4
    assert made.names == made.ranked
    for name in made.names:
        assert made.splits_of(name) == ["validation", "left-out"]
        assert made.unbundled(name).startswith("with split.leave_out")
    assert made.objective("VGG16/without-a+eye_average") == "softmax"
    assert made.records_of("VGG16/without-a+no_tta") == ["VGG16/without-a"]


def test_no_image_of_the_left_out_set_is_trained_or_validated_on():
    full = load(configuration())
    made = Models.of(full)
    stored = {use: made.stored_splits("VGG16/without-b-2", use) for use in ("train", "validation", "left-out")}
    assert stored == {
        "train": ["a-train", "c.d-train"],
        "validation": ["a-validation", "c.d-validation"],
        "left-out": ["b-2-train", "b-2-validation"],
    }
    assert held_out_splits(full) == [f"{name}-{side}" for name in SETS for side in ("train", "validation")]


def test_linear_model_has_a_version_of_one_eye_for_each_set():
    made = Models.of(load(configuration(models={"ridge": RIDGE})))
    assert made.one_eye("ridge/without-a") == "ridge/without-a+one_eye"
    assert "ridge/without-a+one_eye" in made.linear
    assert made.feature_networks_of("ridge/without-a") == ["VGG16"]


def test_numbers_of_images_and_shards_of_each_set(tmp_path):
    full = labelled_sets(tmp_path, preprocess__shard_size=40)
    assert image_counts(full) == {"a-train": 80, "a-validation": 20, "b-train": 40, "b-validation": 10}
    assert shard_counts(full) == {"a-train": 2, "a-validation": 1, "b-train": 1, "b-validation": 1}


def test_work_of_trainings_without_each_set(tmp_path):
    full = labelled_sets(tmp_path, train__epochs=10, train__head_epochs=0, score__tta_views=1)
    work = network_work(full, image_counts(full), "VGG16")
    assert work.training_runs == 2
    assert work.trained == 10 * (40 + 80)
    assert work.passed == 10 * (10 + 20)
    assert work.scored == (10 + 100) + (20 + 50)
    assert "models of VGG16" in plan(full, image_counts(full))


def test_files_of_a_set_that_left_the_configuration_are_unused(tmp_path):
    full = labelled_sets(tmp_path)
    kept = ["shards/224-trim-keep-none/a-train/0.npy", "checkpoints/VGG16/without-a/state.json"]
    gone = ["shards/224-trim-keep-none/c-train/0.npy", "checkpoints/VGG16/without-c/state.json"]
    for name in [*kept, *gone, "checkpoints/VGG16/state.json"]:
        (tmp_path / "results" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "results" / name).touch()
    found = [one.path.relative_to(tmp_path / "results").as_posix() for one in find_unused(full)]
    assert found == [
        "checkpoints/VGG16/state.json",
        str(Path(gone[1]).parent),
        str(Path(gone[0]).parent),
    ]
    one_split = full.model_copy(update={"split": full.split.model_copy(update={"leave_out": None})})
    found = [one.path.relative_to(tmp_path / "results").as_posix() for one in find_unused(one_split)]
    assert "checkpoints/VGG16/without-a" in found
    assert "checkpoints/VGG16/state.json" not in found


def test_models_of_both_eyes_need_fellow_eyes_in_each_set(tmp_path):
    assert not has_both_eyes(labelled_sets(tmp_path))
    assert has_both_eyes(labelled_sets(tmp_path, split__leave_out=None))
    check_pairs(labelled_sets(tmp_path, eyes__models="auto"))
    with pytest.raises(RetinaflowError, match=r"eyes.models: with split.leave_out, each training set needs patients"):
        check_pairs(labelled_sets(tmp_path, eyes__models=["average"]))
    with pytest.raises(RetinaflowError, match=r"models.ridge.eyes: with split.leave_out"):
        check_pairs(labelled_sets(tmp_path, models={"ridge": RIDGE}))


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"train": ONE}, "split.leave_out: each of several training sets is left out once, and data.train has one"),
        ({"train": {"a": ONE}}, "expected at least two, by name"),
        ({"split__folds": 3}, "split.leave_out: split.folds is 3, and one of the two decides the trainings"),
        ({"split__column": "s"}, "split.leave_out: a column or lists prescribe one split"),
        ({"split__lists": {"validation": "v.txt"}}, "split.leave_out: a column or lists prescribe one split"),
        ({"data__validation": {"v": ONE}}, "split.leave_out: each training validates on a part of its own"),
        ({"data__test": ONE}, "split.leave_out: each training set is the test set of one training; remove data.test"),
        ({"model": "VGG16"}, "model: with split.leave_out, no model grades new images"),
        (
            {"data__shared_patients": [["a", "b-2"]]},
            "data.shared_patients: a and b-2 are training sets, and",
        ),
        ({"split__leave_out": "site"}, "split.leave_out: 'data_set' was expected"),
    ],
)
def test_setting_that_cannot_go_with_it_is_named(changes, expected):
    assert expected in message(**changes)


def test_demo_is_one_training_set():
    demo = {"images": "results/a", "labels": "results/a.csv"}
    other = {"images": "results/b", "labels": "results/b.csv"}
    found = message(train=demo, data__test=other, demo={"train_patients": 50, "test_patients": 20})
    assert "split.leave_out: the demo draws one training set; remove it" in found
