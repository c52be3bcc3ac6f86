"""Facts that follow from a configuration: splits, shards, models of both eyes, variants."""

import zipfile

import pytest

from configurations import completed, configured, labelled, written
from retinaflow.config.loading import load
from retinaflow.config.lookups import (
    ensembles,
    eye_models,
    grading_models,
    held_out_splits,
    image_counts,
    repeats,
    shard_counts,
    training_seed,
    variant,
)
from retinaflow.config.places import check_files
from retinaflow.errors import RetinaflowError


def test_labels_that_cannot_be_used_are_named_before_anything_runs(tmp_path):
    full = labelled(tmp_path)
    (tmp_path / "labels.csv").write_text("image,level\n/x,1\n")
    with pytest.raises(RetinaflowError, match="row 2 names the image '/x'"):
        shard_counts(full)


def test_splits(tmp_path):
    assert held_out_splits(labelled(tmp_path)) == ["train", "validation"]
    assert held_out_splits(labelled(tmp_path, split__folds=3)) == ["fold-1", "fold-2", "fold-3"]


def test_number_of_shards_follows_from_the_labels(tmp_path):
    def counts(**changes):
        return shard_counts(labelled(tmp_path, **changes))

    assert counts() == {"train": 1, "validation": 1}
    assert counts(preprocess__shard_size=20) == {"train": 4, "validation": 1}
    assert counts(preprocess__shard_size=19) == {"train": 5, "validation": 2}
    assert counts(preprocess__shard_size=20, split__folds=4) == {f"fold-{i}": 2 for i in range(1, 5)}


@pytest.mark.parametrize(
    ("names", "pattern", "expected"),
    [
        (["1_left.jpeg", "2_left", "1_right"], None, ["average", "stacking"]),
        (["1_left", "2_right", "3_left"], None, []),
        (["a", "b"], None, []),
        (["1_left", "1_right"], "(?P<patient>.+)_(left|right)", []),
    ],
)
def test_both_eyes_are_graded_if_labels_have_both(tmp_path, names, pattern, expected):
    labels = tmp_path / "labels.csv"
    labels.write_text("image,level\n" + "".join(f"{name},0\n" for name in names))
    changes = {"data__patient_pattern": pattern} if pattern else {}
    given = written(data__train={"images": "images", "labels": str(labels)}, **changes)
    assert eye_models(completed(given)) == expected
    assert eye_models(completed({**given, "eyes": {"models": ["average"]}})) == ["average"]


def test_a_demo_needs_no_files():
    demo = written(
        demo={"train_patients": 50, "test_patients": 20},
        data__train={"images": "results/a", "labels": "results/a.csv"},
        data__test={"images": "results/b", "labels": "results/b.csv"},
        preprocess__shard_size=10,
    )
    full = load(demo)
    check_files(full)
    assert shard_counts(full) == {"train": 8, "validation": 2, "test": 4}


def test_variant_of_a_model():
    full = configured(models={"VGG16": {"image_size": 512}}, preprocess__crop="circle")
    assert variant(full, "VGG16").name == "512-circle-keep-none"


def test_repeats_have_other_seeds_and_an_ensemble():
    full = configured(models={"VGG16": {}, "ResNet50": {}}, repeats=3, seed=7)
    assert list(full.models) == [
        *("ResNet50", "ResNet50-repeat-2", "ResNet50-repeat-3"),
        *("VGG16", "VGG16-repeat-2", "VGG16-repeat-3"),
    ]
    assert [training_seed(full, name) for name in full.models] == [7, 8, 9] * 2
    assert repeats(full)["VGG16"] == ["VGG16", "VGG16-repeat-2", "VGG16-repeat-3"]
    assert ensembles(full)["VGG16+ensemble"] == repeats(full)["VGG16"]
    assert ensembles(full)["ensemble"] == list(full.models)
    assert {"ResNet50+ensemble", "VGG16+ensemble", "ensemble", "VGG16+eye_average"} < set(grading_models(full))


@pytest.mark.parametrize(
    ("changes", "names"),
    [
        ({"models": {"VGG16": {}}}, []),
        ({"models": {"VGG16": {}}, "repeats": 2}, ["VGG16+ensemble"]),
        ({"models": {"VGG16": {}, "ResNet50": {}}}, ["ensemble"]),
    ],
)
def test_ensembles(changes, names):
    assert list(ensembles(configured(**changes))) == names


def test_more_repeats_keep_the_settings_of_the_first():
    one, three = (configured(models={"VGG16": {}}, repeats=number) for number in (1, 3))
    assert one.models["VGG16"] == three.models["VGG16"]


def test_images_in_folders_of_grades_are_counted(tmp_path):
    for name in ("0/1_left.jpg", "1/1_right.png", "1/notes.txt"):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / name).touch()
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.write(tmp_path / "images/0/1_left.jpg", "top/0/1_left.jpg")
        archive.write(tmp_path / "images/1/1_right.png", "top/1/1_right.png")
    for images in (tmp_path / "images", tmp_path / "x.zip", tmp_path / "x.zip/top"):
        full = completed(written(data__train={"images": str(images), "labels": "class_folders"}))
        check_files(full)
        assert sum(image_counts(full).values()) == pytest.approx(2)
        assert eye_models(full) == ["average", "stacking"]


def test_several_tables_are_counted_and_looked_for(tmp_path):
    (tmp_path / "images").mkdir()
    tables = [str(tmp_path / "a.csv"), str(tmp_path / "b.csv")]
    full = completed(written(data__train={"images": str(tmp_path / "images"), "labels": tables}))
    (tmp_path / "a.csv").write_text("image,level\na,0\n")
    with pytest.raises(RetinaflowError, match=r"data.train.labels\[1\]: there is no file"):
        check_files(full)
    (tmp_path / "b.csv").write_text("image,level\nb,0\nc,0\n")
    check_files(full)
    assert sum(image_counts(full).values()) == pytest.approx(3)
