"""Presets: each one reads a small download of its layout, and mistakes get one message."""

import re
from pathlib import Path

import pytest
import yaml

from configurations import written
from downloads import DOWNLOADS, make_download
from retinaflow.config.loading import load
from retinaflow.config.lookups import data_sets, eye_models, label_columns, patient_group, tables
from retinaflow.config.places import check_files
from retinaflow.config.presets import PRESETS, preset_names
from retinaflow.data.inventory import InventoryJob, take_inventory
from retinaflow.data.labels import read_labels
from retinaflow.data.policies import own_policies
from retinaflow.data.problem_policy import check_data_set
from retinaflow.errors import RetinaflowError
from retinaflow.storage.tables import read_table


def configuration(train, test=None, **data):
    return written(data={"train": train, "test": test, **data}, models={"VGG16": {}}, eyes={"models": []})


def message(train, **data):
    with pytest.raises(RetinaflowError) as caught:
        load(configuration(train, **data))
    return str(caught.value)


def inventory_of(config, name, folder):
    """Rows of the inventory of a data set, and the reasons of the policy against it."""
    source = data_sets(config)[name]
    outputs = folder / f"{name}.csv", folder / f"{name}-problems.csv"
    take_inventory(
        InventoryJob(
            data_set=name,
            folders=[Path(images) for images in source.images],
            labels=read_labels(source.labels, **label_columns(source)),
            grade_names=config.data.grade_names,
            patient_pattern=source.patient_pattern,
            exclude=source.exclude,
            megapixels=1,
            train=None,
            inventory=outputs[0],
            problems=outputs[1],
            cache=folder / "cache.json",
            code="1",
            patient_group=patient_group(config, name),
            grade_map=source.grade_map,
            subgroups=source.subgroups,
            grade_separator=source.grade_separator or "",
            ungradable=source.ungradable,
        )
    )
    check = check_data_set(
        *outputs,
        on_problem=config.data.on_problem,
        exclude_limit=config.data.exclude_limit,
        data_set=name,
        own=own_policies(config.data),
    )
    return read_table(outputs[0]), [reason.text for reason in check.reasons]


def test_every_preset_has_a_download():
    assert preset_names() == sorted(DOWNLOADS)
    assert len(preset_names()) == 8


@pytest.mark.parametrize(("preset", "use"), [(name, use) for name in DOWNLOADS for use in DOWNLOADS[name]])
def test_preset_reads_its_download(tmp_path, preset, use):
    """Every image that the download grades is usable, with the grade, patient and eye that it has there."""
    expected = make_download(preset, tmp_path / "download")[use]
    source = {"preset": preset, "folder": str(tmp_path / "download")}
    config = load(configuration({"a": source if use == "all" else {**source, "part": use}}))
    check_files(config)
    rows, reasons = inventory_of(config, "train-a", tmp_path)
    assert reasons == []
    found = {row["image"]: (row["grade"], row["patient"], row["eye"]) for row in rows if not row["problem"]}
    assert found == {
        image: (grade, f"a/{patient}", eye) for image, (grade, patient, eye, _) in expected.items() if grade
    }
    problems = {row["image"]: row["problem"] for row in rows if row["problem"]}
    assert problems == {image: label[3] for image, label in expected.items() if not label[0]}


def test_subgroups_of_a_preset_are_read(tmp_path):
    make_download("brset", tmp_path)
    config = load(configuration({"preset": "brset", "folder": str(tmp_path)}))
    rows, _ = inventory_of(config, "train", tmp_path)
    assert {row["subgroup_camera"] for row in rows} == {"Canon CR", "NIKON NF5050"}


def test_part_of_a_download_is_that_of_its_use():
    source = {"preset": "idrid", "folder": "idrid"}
    sets = data_sets(load(configuration({"x": source}, {"x": source, "y": {"preset": "brset", "folder": "b/"}})))
    assert sets["train-x"].images == ["idrid/1. Original Images/a. Training Set"]
    assert sets["test-x"].images == ["idrid/1. Original Images/b. Testing Set"]
    assert sets["test-y"].images == ["b/fundus_photos"]
    assert sets["test-y"].labels == "b/labels_brset.csv"


def test_parts_can_be_joined():
    source = {"preset": "ddr", "folder": "ddr.zip", "part": ["train", "validation"]}
    (one,) = data_sets(load(configuration(source))).values()
    assert one.images == ["ddr.zip/train", "ddr.zip/valid"]
    assert one.labels == ["ddr.zip/train.txt", "ddr.zip/valid.txt"]


def test_own_keys_replace_those_of_the_preset():
    source = {"preset": "messidor2", "folder": "m", "images": "elsewhere", "pairs": None, "subgroups": []}
    (one,) = data_sets(load(configuration(source, subgroups=["camera"]))).values()
    assert (one.images, one.labels, tables(one)) == (["elsewhere"], "m/messidor_data.csv", ["m/messidor_data.csv"])
    assert one.subgroups == []


def test_complete_configuration_of_a_preset_describes_itself():
    source = {"preset": "odir", "folder": "odir"}
    full = load(configuration({"a": source, "b": {"preset": "deepdrid", "folder": "d"}}))
    assert load(full.model_dump()) == full


def test_pairs_of_a_preset_give_both_eyes(tmp_path):
    make_download("messidor2", tmp_path)
    config = load({**configuration({"preset": "messidor2", "folder": str(tmp_path)}), "eyes": {"models": "auto"}})
    assert eye_models(config) == ["average", "stacking"]


def test_preset_may_be_a_file_of_the_user(tmp_path):
    file = tmp_path / "clinic.yaml"
    file.write_text("parts: {all: {images: ., labels: class_folders}}\npatient_pattern: '(?P<patient>.)'\n")
    (one,) = data_sets(load(configuration({"preset": str(file), "folder": "~/clinic"}))).values()
    assert one.images == [str(Path("~/clinic").expanduser())]
    assert one.labels == "class_folders"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ({"preset": "apots", "folder": "x"}, "data.train.preset: there is no preset 'apots'; did you mean 'aptos'?"),
        ({"preset": "x/y.yaml", "folder": "x"}, "data.train.preset: there is no file 'x/y.yaml'; correct the path"),
        ({"preset": "aptos"}, "data.train.folder: name the folder of the download"),
        ({"preset": "ddr", "folder": "x", "part": "trian"}, "data.train.part: ddr has no part 'trian'; did you mean"),
        (
            {"preset": "deepdrid", "folder": "x", "part": ["train", "test"]},
            "data.train.part: train and test have different values of grade_column; make a data set of each part",
        ),
        ({"a": {"preset": "aptos", "folder": 1}}, "data.train.a.folder: name the folder"),
        ({"preset": "aptos", "folder": "x", "image_colum": "y"}, "data.train.image_colum: unknown key"),
        ({"folder": "x", "images": "y", "labels": "z"}, "data.train.folder: without preset, it has no effect"),
    ],
)
def test_mistake_in_the_use_of_a_preset_is_named(source, expected):
    assert expected in message(source)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[1]", "expected the key 'parts'"),
        ("parts: {all: {images: x}}", "parts.all has no 'labels'; add it"),
        ("parts: {all: 1}", "parts.all is 1; expected a section"),
        ("parts: {all: {images: x, labels: y}}\nimage_colum: z", "'image_colum' is no key of a data set; did you mean"),
        ("parts: {a: {images: x, labels: y}, b: {images: x, labels: y}}", "has no part 'train'; name one of a, b"),
        ("{", "cannot be read as YAML"),
    ],
)
def test_mistake_in_a_file_of_a_preset_is_named(tmp_path, text, expected):
    file = tmp_path / "own.yaml"
    file.write_text(text)
    assert expected in message({"preset": str(file), "folder": "x"})


@pytest.mark.parametrize("name", sorted(file.name for file in PRESETS.glob("*.yaml")))
def test_preset_names_the_source_of_its_layout(name):
    text = (PRESETS / name).read_text(encoding="utf-8")
    assert re.search(r"^# .*https://", text, re.MULTILINE)
    assert yaml.safe_load(text)["parts"]
