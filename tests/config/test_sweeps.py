"""Sweeps: which models they make, and one message for each mistake."""

import pytest

from configurations import configured, written
from retinaflow.config.loading import load
from retinaflow.config.sweeps import value_name
from retinaflow.errors import RetinaflowError


def models_of(**models):
    return configured(models=models).models


def message(**models):
    with pytest.raises(RetinaflowError) as caught:
        load(written(models=models))
    return str(caught.value)


def test_each_combination_is_one_model():
    made = models_of(frozen={"backbone": "InceptionV3", "sweep": {"freeze_layers": [0, "all"], "dropout": [0.5, 0]}})
    assert {name: (each.backbone, each.freeze_layers, each.dropout) for name, each in made.items()} == {
        "frozen-freeze_layers-0-dropout-0.5": ("InceptionV3", 0, 0.5),
        "frozen-freeze_layers-0-dropout-0": ("InceptionV3", 0, 0),
        "frozen-freeze_layers-all-dropout-0.5": ("InceptionV3", "all", 0.5),
        "frozen-freeze_layers-all-dropout-0": ("InceptionV3", "all", 0),
    }


def test_sweep_keeps_the_other_settings_of_its_entry():
    made = models_of(VGG16={"epochs": 7, "sweep": {"objective": ["softmax", "ordinal"]}}, ResNet50={})
    assert list(made) == ["ResNet50", "VGG16-objective-ordinal", "VGG16-objective-softmax"]
    assert [each.epochs for each in made.values()] == [50, 7, 7]
    assert [each.backbone for each in made.values()] == ["ResNet50", "VGG16", "VGG16"]


def test_plain_list_is_one_value():
    made = models_of(VGG16={"feature_layers": ["block3_pool", "block4_pool"]})
    assert list(made) == ["VGG16"]
    made = models_of(VGG16={"sweep": {"feature_layers": [["block3_pool", "block4_pool"], []]}})
    assert {name: each.feature_layers for name, each in made.items()} == {
        "VGG16-feature_layers-block3_pool_block4_pool": ["block3_pool", "block4_pool"],
        "VGG16-feature_layers-none": [],
    }


def test_point_in_a_key_sweeps_a_nested_setting():
    made = models_of(VGG16={"augment": {"shift": 0}, "sweep": {"augment.rotation": [0, 180]}})
    assert {name: (each.augment.rotation, each.augment.shift) for name, each in made.items()} == {
        "VGG16-augment.rotation-0": (0, 0),
        "VGG16-augment.rotation-180": (180, 0),
    }


def test_backbones_can_be_swept():
    made = models_of(net={"sweep": {"backbone": ["VGG16", "ResNet50"]}})
    assert {name: each.backbone for name, each in made.items()} == {
        "net-backbone-VGG16": "VGG16",
        "net-backbone-ResNet50": "ResNet50",
    }


@pytest.mark.parametrize(
    ("section", "expected"),
    [
        ({"sweep": {"freeze_layers": [-1, 0]}}, "models.VGG16.sweep.freeze_layers: -1 is less than the minimum of 0"),
        ({"sweep": {"freeze_layer": [0]}}, "models.VGG16.sweep.freeze_layer: unknown key; did you mean 'freeze_layer"),
        ({"sweep": {"augment.rotate": [0]}}, "models.VGG16.sweep.augment.rotate: unknown key; did you mean 'rotation'"),
        ({"sweep": {"dropout": 0.5}}, "models.VGG16.sweep.dropout: 0.5 is not of type 'list'"),
        ({"sweep": {"dropout": []}}, "models.VGG16.sweep.dropout: [] should be non-empty"),
        ({"sweep": {"sweep": [{}]}}, "models.VGG16.sweep.sweep: a sweep cannot be swept"),
        ({"epochs": 2, "sweep": {"epochs": [1]}}, "models.VGG16.epochs: this key has several values below `sweep`"),
        ({"sweep": {"epochs": [1, "1"]}}, "models.VGG16.sweep: two combinations have the name 'VGG16-epochs-1'"),
        (
            {"sweep": {"epochs": list(range(1, 102)), "warmup_epochs": list(range(10))}},
            "models.VGG16.sweep: 1010 combinations, expected at most 1000",
        ),
        ({"sweep": {"image_size": [32, 224], "backbone": ["InceptionV3"]}}, "image_size: 32 px; InceptionV3 needs"),
    ],
)
def test_mistake_in_a_sweep_is_named(section, expected):
    assert expected in message(VGG16=section)


def test_name_of_another_model_is_an_error():
    section = {"sweep": {"epochs": [1]}}
    expected = "its model 'VGG16-epochs-1' has the name of another model"
    assert expected in message(**{"VGG16": section, "VGG16-epochs-1": {"backbone": "VGG16"}})


def test_name_of_a_repeat_is_an_error():
    with pytest.raises(RetinaflowError, match=r"models\.VGG16-repeat-2: this is the name of a repeat of VGG16"):
        load(written(models={"VGG16": {}, "VGG16-repeat-2": {"backbone": "VGG16", "epochs": 1}}, repeats=2))


def test_sweep_can_be_repeated():
    full = configured(models={"VGG16": {"sweep": {"epochs": [1, 2]}}}, repeats=2)
    assert {name: (each.epochs, each.repeat) for name, each in full.models.items()} == {
        "VGG16-epochs-1": (1, 1),
        "VGG16-epochs-1-repeat-2": (1, 2),
        "VGG16-epochs-2": (2, 1),
        "VGG16-epochs-2-repeat-2": (2, 2),
    }


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (True, "true"),
        (1e-05, "1e-05"),
        ([0.8, 1.2], "0.8_1.2"),
        ([], "none"),
        ("", "none"),
        ("weights/my file.h5", "weights_my_file.h5"),
        ("../../etc", ".._.._etc"),
    ],
)
def test_value_becomes_a_part_of_a_name(value, name):
    assert value_name(value) == name
