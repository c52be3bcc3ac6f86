"""Addresses in object storage become paths."""

from configurations import configured
from retinaflow.config.remote import Remote, fetched


def test_addresses_become_paths():
    full = configured(
        data__train={"images": ["images", "s3://b/a folder/"], "labels": "s3://b/t.zip/l.csv"},
        data__test={"images": "s3://b/test.ZIP/in/side", "labels": "labels.csv"},
        models={"VGG16": {"weights": "s3://b/w.weights.h5"}, "ResNet50": {"weights": "s3://b/w.h5"}},
    )
    local, remote = fetched(full)
    assert local.data.train.images == ["images", "results/downloaded/train-1"]
    assert local.data.train.labels == ".snakemake/labels/b/t.zip/l.csv"
    assert local.data.test.images == ["results/downloaded/test-0.zip/in/side"]
    # Keras tells its formats apart by the name.
    assert local.models["VGG16"].weights == "results/downloaded/VGG16.weights.h5"
    assert sorted(remote, key=lambda one: one.key) == [
        Remote("data.test.images", "s3://b/test.ZIP", "results/downloaded/test-0.zip", "archive"),
        Remote("data.train.images[1]", "s3://b/a folder/", "results/downloaded/train-1", "folder"),
        Remote("data.train.labels", "s3://b/t.zip", ".snakemake/labels/b/t.zip", "table"),
        Remote("weights of ResNet50", "s3://b/w.h5", "results/downloaded/ResNet50.h5", "weights"),
        Remote("weights of VGG16", "s3://b/w.weights.h5", "results/downloaded/VGG16.weights.h5", "weights"),
    ]


def test_paths_stay_as_they_are():
    full = configured(data__train={"images": "images", "labels": "labels.csv"})
    local, remote = fetched(full)
    assert not remote
    assert local.data.train.images == ["images"]


def test_addresses_in_a_list_of_tables_become_paths():
    full = configured(data__train={"images": "images", "labels": ["labels.csv", "s3://b/t.xlsx"]})
    local, remote = fetched(full)
    assert local.data.train.labels == ["labels.csv", ".snakemake/labels/b/t.xlsx"]
    assert remote == [Remote("data.train.labels[1]", "s3://b/t.xlsx", ".snakemake/labels/b/t.xlsx", "table")]


def test_folders_of_grades_are_no_table():
    full = configured(data__train={"images": "images", "labels": "class_folders"})
    local, remote = fetched(full)
    assert (local.data.train.labels, remote) == ("class_folders", [])
