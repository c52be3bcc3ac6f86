"""The configuration: defaults, overrides, and one message for each mistake."""

import copy
import datetime
import os
import zipfile
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from common import AUGMENT
from retinaflow.config.settings import (
    Remote,
    changed,
    check,
    check_files,
    check_text,
    eye_systems,
    fetched,
    held_out_parts,
    recipe,
    shard_counts,
    with_defaults,
)
from retinaflow.errors import RetinaflowError
from retinaflow.networks.backbones import BACKBONES

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = yaml.safe_load((ROOT / "workflow/schemas/config.schema.yaml").read_text(encoding="utf-8"))
DEMO = {"train_patients": 15, "test_patients": 15}
DATA = {"train": {"images": "photographs", "labels": "labels.csv"}}


def config(**changes):
    """A right configuration with some keys set; `a__b` is the key b of section a."""
    result = {"data": copy.deepcopy(DATA)}
    for key, value in changes.items():
        *sections, last = key.split("__")
        part = result
        for section in sections:
            part = part.setdefault(section, {})
        part[last] = value
    return result


def message(wrong):
    with pytest.raises(RetinaflowError) as caught:
        check(wrong, SCHEMA)
    return str(caught.value)


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ({}, "data: this key is required and missing"),
        ({"data": {}}, "data.train: this key is required and missing"),
        ({"data": {"train": {"images": "x"}}}, "data.train.labels: this key is required and missing"),
        (config(sead=1), "sead: unknown key; did you mean 'seed'?"),
        (config(data__lables="x"), "data.lables: unknown key"),
        (config(data__train__label="x"), "data.train.label: unknown key; did you mean 'labels'?"),
        (config(seed="2015"), "seed: '2015' is not of type 'integer'"),
        (config(seed=-1), "seed: -1 is less than the minimum of 0"),
        (config(data__classes=["class0"]), "data.classes: ['class0'] is too short"),
        (config(data__classes=["a", "a"]), "data.classes: ['a', 'a'] has non-unique elements"),
        (config(data__classes=["a", "../b"]), "data.classes[1]: '../b' does not match"),
        (config(data__patient="(?P<patient>"), "data.patient: '(?P<patient>' is not a 'regex'"),
        (config(data__patient=".*"), "data.patient: '.*' has no group (?P<patient>...)"),
        (config(data__on_problem__unreadable="skip"), "data.on_problem.unreadable: 'skip' is not one of"),
        (config(data__exclude_limit=5), "data.exclude_limit: 5 is greater than the maximum of 1"),
        (config(data__train__images=[]), "data.train.images: [] should be non-empty"),
        (config(split__validation=1.0), "split.validation: 1.0 is greater than or equal to the maximum of 1"),
        (config(split__validation=0), "split.validation: 0 is less than or equal to the minimum of 0"),
        (config(split__unit="eye"), "split.unit: 'eye' is not one of ['patient', 'image']"),
        (
            config(data__patient="(?P<patient>.*)", eyes__systems=["blend"]),
            "eyes.systems: data.patient, '(?P<patient>.*)', has no group (?P<eye>...) that tells both eyes apart",
        ),
        (config(eyes__systems=["both"]), "eyes.systems[0]: 'both' is not one of ['blend', 'fusion']"),
        (config(eyes__blend_weight=50), "eyes.blend_weight: 50 is greater than the maximum of 1 (it is a share"),
        (config(split__folds=1), "split.folds: 1 fold leaves nothing to train on"),
        (config(images=""), "images: '' "),
        (
            config(system="VGG61"),
            "system: 'VGG61' grades no new photographs; expected one of InceptionV3, ResNet50, VGG16, average",
        ),
        (config(system="average", backbones={"VGG16": {}}), "system: 'average' grades no new photographs"),
        (config(organize__mode="move"), "organize.mode: 'move' is not one of"),
        (config(preprocess__crop="centre"), "preprocess.crop: 'centre' is not one of"),
        (config(preprocess__shard_size=0), "preprocess.shard_size: 0 is less than the minimum of 1"),
        (config(train__lr=0.1), "train.lr: unknown key"),
        (config(train__learning_rat=0.1), "train.learning_rat: unknown key; did you mean 'learning_rate'?"),
        (config(train__learning_rate=0), "train.learning_rate: 0 is less than or equal to the minimum of 0"),
        (config(train__epochs=1.5), "train.epochs: 1.5 is not of type 'integer'"),
        (config(train__dense_units=[10]), "train.dense_units: [10] is too short"),
        (config(train__augment__zoom=[1.2, 0.8]), "augment.zoom: [1.2, 0.8] has its lower end above its upper end"),
        (config(train__augment__rotate=3), "train.augment.rotate: unknown key; did you mean 'rotation'?"),
        (config(train__augment__crop=0), "train.augment.crop: 0 is less than or equal to the minimum of 0"),
        (config(train__augment__brightness=20), "train.augment.brightness: 20 is greater than or equal to the maximum"),
        (config(train__augment__hue=-5), "train.augment.hue: -5 is less than the minimum of 0"),
        (config(train__augment__mixup=-1), "train.augment.mixup: -1 is less than the minimum of 0"),
        (config(train__augment={"mixup": 0.2, "cutmix": 1}), "augment.cutmix: 1, and mixup 0.2, too; set one of them"),
        (
            config(train__augment__cutmix=1, train__batch_size=1),
            "batch_size: 1 leaves none that augment.cutmix could mix a photograph with",
        ),
        (config(score__views=0), "score.views: 0 is less than the minimum of 1"),
        (config(score__views=33), "score.views: 33 is greater than the maximum of 32"),
        (
            config(train__freeze_layers="some"),
            "train.freeze_layers: 'some' is not of type 'integer', and 'all' was expected",
        ),
        (config(train__freeze_layers=-1), "train.freeze_layers: -1 is less than the minimum of 0"),
        (config(train__class_weights=[1, 2]), "class_weights: 2 weights for the 5 classes"),
        (
            config(train__gpus=2, train__backend="torch"),
            "gpus: with torch, Keras trains a network on one GPU; set gpus to 1",
        ),
        (
            config(train__gpus=2, train__jit=True),
            "jit: True, which tensorflow cannot do on several GPUs; set jit to auto",
        ),
        (
            config(train__gpus=2, train__jit=False, train__backend="jax"),
            "jit: False, which jax cannot do on several GPUs; set jit to auto",
        ),
        (
            config(train__gpus=2, train__clip_norm=1),
            "clip_norm: on several GPUs, TensorFlow would clip what each has found before the sum",
        ),
        (config(train__warmup_epochs=50), "warmup_epochs: 50 of 50 epochs, so that learning_rate is never reached"),
        (
            config(train__weights="random", train__batch_norm="train", train__head_epochs=3),
            "head_epochs: with random weights, the backbone has nothing to tell the head; set it to 0",
        ),
        (
            config(train__batch_norm="train", train__head_epochs=3),
            "head_epochs: the head would learn from the stored statistics, which batch_norm: train replaces",
        ),
        (config(train__balanced_epochs=5), "balanced_epochs: nothing is balanced; set balanced_sampling, too"),
        (config(train__weight_decay=0.01), "weight_decay: 0.01, but optimizer is adam; set that to adamw"),
        (config(train__optimizer="adamw"), "optimizer: adamw without weight_decay is adam; set weight_decay"),
        (
            config(train__layer_decay=0.8, train__freeze_layers="all"),
            "layer_decay: 0.8, but freeze_layers: all leaves no layer to it",
        ),
        (config(train__layer_decay=1.1), "train.layer_decay: 1.1 is greater than the maximum of 1"),
        (config(train__ema=1), "train.ema: 1 is greater than or equal to the maximum of 1"),
        (config(train__schedule="linear"), "train.schedule: 'linear' is not one of ['plateau', 'cosine']"),
        (config(train__gpus=3), "batch_size: 32 photographs cannot be divided evenly among 3 GPUs"),
        (config(train__jit="yes"), "train.jit: 'yes' is not one of ['auto', True, False]"),
        (config(train__minimum_learning_rate=1), "minimum_learning_rate: 1 is above learning_rate 1e-05"),
        (config(backbones__VGG16={"weights": "random", "freeze_layers": "all"}), "would freeze random weights"),
        (config(train__weights="random"), "backbones.VGG16.batch_norm: random weights have no statistics"),
        (config(backbones={}), "backbones: {} should be non-empty"),
        (config(backbones__Resnet50={}), "backbones.Resnet50: unknown backbone; did you mean 'ResNet50'?"),
        (
            config(backbones__VGG16={"batchsize": 3}),
            "backbones.VGG16.batchsize: unknown key; did you mean 'batch_size'?",
        ),
        (config(backbones__VGG16={"batch_size": 0}), "backbones.VGG16.batch_size: 0 is less than the minimum of 1"),
        (
            config(backbones__InceptionV3={"image_size": 74}),
            "backbones.InceptionV3.image_size: 74 px; InceptionV3 needs at least 75",
        ),
        (config(train__image_size=64), "backbones.InceptionV3.image_size: 64 px; InceptionV3 needs at least 75"),
        (config(score__referable_level=5), "score.referable_level: 5 is no level of the 5 classes"),
        (config(train__objective="ordinal", train__label_smoothing=0.1), "label_smoothing: 0.1 with objective ordinal"),
        (config(train__regression_loss="smooth_l1"), "regression_loss: smooth_l1 with objective softmax"),
        (config(demo={"train_patients": 15, "test_patients": 15}), "data.test: the demo draws a test set"),
        (config(seed=2**32), "seed: 4294967296 is above 4294967295, the largest that NumPy takes"),
        (config(seed=True), "seed: True is not of type 'integer' (YAML reads yes, no, on and off as true and false"),
        (config(seed=None), "seed: None is not of type 'integer' (nothing stands there: give it a value or delete"),
        (config(results=None), "results: None is not of type 'string' (nothing stands there"),
        (config(results=""), "results: '' should be non-empty"),
        (config(results=datetime.date(2015, 2, 17)), "is not of type 'string' (put it in quotes)"),
        (config(data=None), "data: None is not of type 'object' (nothing stands there"),
        (config(train=None), "train: None is not of type 'object' (nothing stands there"),
        (config(split=["patient"]), "split: ['patient'] is not of type 'object' (a list; expected a section"),
        (
            config(backbones=["VGG16"]),
            "backbones: ['VGG16'] is not of type 'object' (a list; expected a section",
        ),
        (config(backbones="VGG16"), "backbones: 'VGG16' is not of type 'object'"),
        (config(backbones={"VGG16": {}, 16: {}}), "backbones.16: YAML reads this key as int, expected text"),
        ({**config(), True: 1}, "True: YAML reads this key as bool, expected text"),
        (
            config(backbones__VGG16=[]),
            "backbones.VGG16: [] is not of type 'object', 'null' (a list; expected a section",
        ),
        (config(data__train="photographs"), "data.train: 'photographs' is not of type 'object'"),
        (config(data__train__images=["a", "a"]), "data.train.images: ['a', 'a'] has non-unique elements"),
        (config(data__train__images=[2015]), "data.train.images[0]: 2015 is not of type 'string' (put it in quotes)"),
        (config(data__train__exclude="10_left"), "data.train.exclude: '10_left' is not of type 'array'"),
        (config(data__train__exclude=[17]), "data.train.exclude[0]: 17 is not of type 'string' (put it in quotes)"),
        (config(data__test={"images": "x"}), "data.test.labels: this key is required and missing"),
        (config(data__image_column=1), "data.image_column: 1 is not of type 'string' (put it in quotes)"),
        (config(data__level_column="image"), "data.level_column: 'image' is data.image_column, too"),
        (config(data__classes=[0, 1]), "data.classes[0]: 0 is not of type 'string' (put it in quotes)"),
        (config(data__classes=[False, "yes"]), "data.classes[0]: False is not of type 'string' (YAML reads yes, no"),
        (config(data__classes=["none", "None", "x"]), "data.classes: 'none' and 'None' differ in case only"),
        (config(data__classes=["a", "index.csv"]), "data.classes[1]: 'index.csv' does not match"),
        (config(data__classes=["a", ".."]), "data.classes[1]: '..' does not match"),
        (config(data__classes=["a", "b" * 300]), "data.classes: 'bbbbbbbbbbbbbbbbbbbb...' has 300 characters"),
        (
            config(data__patient="(?P<patient>a{9999999999})"),
            "data.patient: '(?P<patient>a{9999999999})' is not a 'regex'",
        ),
        (config(data__patient="(" * 5000), "is not a 'regex'"),
        (config(data__exclude_limit=5), "greater than the maximum of 1 (it is a share: 5 % is 0.05)"),
        (config(data__exclude_limit=float("nan")), "data.exclude_limit: nan is not of type 'number'"),
        (config(data__unpack_limit=0), "data.unpack_limit: 0 is less than the minimum of 1"),
        (config(data__unpack_limit="200 GiB"), "data.unpack_limit: '200 GiB' is not of type 'integer'"),
        (
            config(split__validation=20),
            "split.validation: 20 is greater than or equal to the maximum of 1 (it is a share",
        ),
        (config(split__validation="0.2"), "split.validation: '0.2' is not of type 'number' (this is text: take off"),
        (config(split__folds=-1), "split.folds: -1 is less than the minimum of 0"),
        (config(split__folds=1000), "split.folds: 1000 is greater than the maximum of 100"),
        (
            config(preprocess__crop=False),
            "preprocess.crop: False is not one of ['none', 'trim', 'circle'] (YAML reads yes, no",
        ),
        (
            config(preprocess__enhance=None),
            "preprocess.enhance: None is not one of ['none', 'ben_graham', 'clahe'] (nothing",
        ),
        (config(preprocess__image_size=224), "preprocess.image_size: unknown key"),
        (
            config(train__learning_rate="1e-4"),
            "train.learning_rate: '1e-4' is not of type 'number', and 'auto' was expected (this is text",
        ),
        (config(train__learning_rate="fast"), "train.learning_rate: 'fast' is not of type 'number'"),
        (config(train__learning_rate=float("inf")), "train.learning_rate: inf is not of type 'number'"),
        (config(train__image_size=4096), "train.image_size: 4096 is greater than the maximum of 2048"),
        (config(train__image_size=224.0), "train.image_size: 224.0 is not of type 'integer'"),
        (config(train__image_size=[224, 224]), "train.image_size: [224, 224] is not of type 'integer'"),
        (
            config(train__dropout=50),
            "train.dropout: 50 is greater than or equal to the maximum of 1 (it is a share: 50 %",
        ),
        (config(train__class_weights=[0, 0, 0, 0, 0]), "class_weights: [0, 0, 0, 0, 0] are all 0"),
        (config(train__class_weights=[1, 1, 1, 1, -1]), "train.class_weights[4]: -1 is less than the minimum of 0"),
        (
            config(train__class_weights="balanced"),
            "train.class_weights: 'balanced' is not one of ['none', 'inverse', 'sqrt_inverse', 'effective_number']",
        ),
        (config(train__weights=None), "train.weights: None is not of type 'string' (nothing stands there"),
        (config(train__monitor="kappa"), "train.monitor: 'kappa' is not one of"),
        (config(train__augment__flip_vertical="yes"), "train.augment.flip_vertical: 'yes' is not of type 'boolean'"),
        (config(train__augment__rotation=360), "train.augment.rotation: 360 is greater than the maximum of 180"),
        (config(train__augment=True), "train.augment: True is not of type 'object'"),
        (config(score__referable_level=0), "score.referable_level: 0 is less than the minimum of 1"),
        (config(score__referable_sensitivity=90), "score.referable_sensitivity: 90 is greater than the maximum of 1"),
        (config(train__objective="coral"), "train.objective: 'coral' is not one of"),
    ],
)
def test_a_mistake_is_named(wrong, expected):
    assert expected in message(wrong)


def test_a_long_value_does_not_bury_the_message():
    assert len(message(config(data__train__exclude="x" * 10**6))) < 1000


def test_all_mistakes_are_named_at_once():
    text = message({**config(seed=-1, split__unit="eye", train__lr=1), "data": {"train": {}}, "foo": 1, "bar": 2})
    for key in ("seed", "split.unit", "train.lr", "data.train.images", "data.train.labels", "foo", "bar"):
        assert text.count(f"- {key}:") == 1


@pytest.mark.parametrize("name", ["config.yaml", "demo.yaml", "eyepacs.yaml", "best.yaml"])
def test_our_own_configurations_are_right(name):
    check(yaml.safe_load((ROOT / "config" / name).read_text(encoding="utf-8")), SCHEMA)


def test_defaults_are_right_themselves():
    full = with_defaults(config(), SCHEMA)
    assert full["data"]["classes"] == ["class0", "class1", "class2", "class3", "class4"]
    assert list(full["backbones"]) == ["InceptionV3", "ResNet50", "VGG16"]
    assert full["backbones"]["VGG16"]["augment"]["rotation"] == 20
    full["backbones"] = {}
    check({**full, "train": {}, "backbones": {"VGG16": {}}}, SCHEMA)


def test_a_backbone_overrides_what_all_share_down_to_single_ranges():
    full = with_defaults(
        config(
            train__epochs=7,
            train__augment={"rotation": 90, "shift": 0.3},
            backbones={"VGG16": {"augment": {"shift": 0}}, "ResNet50": None},
        ),
        SCHEMA,
    )
    assert full["backbones"]["VGG16"]["augment"] == {**AUGMENT, "rotation": 90, "shift": 0}
    assert full["backbones"]["ResNet50"]["augment"]["shift"] == 0.3
    assert full["backbones"]["ResNet50"]["epochs"] == 7


def test_the_head_is_trained_first_where_the_backbone_can_tell_it_something():
    full = with_defaults(
        config(
            backbones={
                "VGG16": {},
                "ResNet50": {"batch_norm": "train"},
                "InceptionV3": {"batch_norm": "train", "weights": "random"},
                "MobileNetV3Small": {"head_epochs": 2},
            }
        ),
        SCHEMA,
    )
    assert {name: settings["head_epochs"] for name, settings in full["backbones"].items()} == {
        "VGG16": 30,
        "ResNet50": 0,
        "InceptionV3": 0,
        "MobileNetV3Small": 2,
    }
    assert {name: settings["learning_rate"] for name, settings in full["backbones"].items()} == {
        "VGG16": 1e-5,
        "ResNet50": 1e-4,
        "InceptionV3": 1e-4,
        "MobileNetV3Small": 1e-5,
    }


def test_a_head_grades_by_the_layers_that_a_probe_graded_best_by_where_weights_tell_something():
    backbones = {"VGG16": {}, "ResNet50": {"weights": "random"}, "InceptionV3": {"feature_layers": ["mixed1"]}}
    full = with_defaults(config(backbones=backbones), SCHEMA)["backbones"]
    assert full["ResNet50"]["feature_layers"] == []
    assert full["InceptionV3"]["feature_layers"] == ["mixed1"]
    full = with_defaults(config(backbones={"InceptionV3": {}}, train__feature_layers="auto"), SCHEMA)["backbones"]
    assert full["InceptionV3"]["feature_layers"] == list(BACKBONES["InceptionV3"].feature_layers) != []


def test_the_order_of_keys_in_the_file_is_no_change():
    one = with_defaults(config(train={"epochs": 1, "batch_size": 2}, seed=3), SCHEMA)
    other = with_defaults({"seed": 3, "train": {"batch_size": 2, "epochs": 1}, "data": DATA}, SCHEMA)
    assert repr(one) == repr(other)


def test_the_given_configuration_stays_as_it_is():
    given_ = config(backbones={"VGG16": {}})
    with_defaults(given_, SCHEMA)
    assert given_ == config(backbones={"VGG16": {}})


def files(tmp_path, **changes):
    (tmp_path / "photographs").mkdir(exist_ok=True)
    (tmp_path / "labels.csv").write_text("image,level\n" + "".join(f"{n}_left,0\n" for n in range(100)))
    return with_defaults(
        config(
            data__train={"images": str(tmp_path / "photographs"), "labels": str(tmp_path / "labels.csv")}, **changes
        ),
        SCHEMA,
    )


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"data__test": {"images": "nowhere", "labels": "none.csv"}}, "data.test.images: 'nowhere' is not a folder"),
        ({"data__test": {"images": "nowhere", "labels": "none.csv"}}, "data.test.labels: there is no file 'none.csv'"),
        ({"data__test": {"images": ["nowhere", "no"], "labels": "x"}}, "data.test.images[1]: 'no' is not a folder"),
        ({"data__test": {"images": "no.zip/inner", "labels": "x"}}, "data.test.images: there is no archive 'no.zip'"),
        (
            {"train__weights": "Imagenet"},
            "weights of VGG16: there is no file 'Imagenet'; expected 'imagenet', 'random'",
        ),
    ],
)
def test_a_missing_file_is_named(tmp_path, changes, expected):
    with pytest.raises(RetinaflowError) as caught:
        check_files(files(tmp_path, **changes))
    assert expected in str(caught.value)


HTML = b"<!DOCTYPE html><html><body>Not found</body></html>"


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (b"", "found an empty file"),
        (HTML, "found an HTML page"),
        (b"PK\x03\x04 a model", "found a zip archive, such as a .keras model"),
        (b"\x80\x04\x95\x0b", r"found the bytes b'\\x80\\x04\\x95\\x0b'"),
        (b"\x89HDF\r\n\x1a\n", "is cut off after 8 of"),
        (b"\x89HDF\r\n\x1a\n\0" + bytes(31) + (10**6).to_bytes(8, "little"), "is cut off after 48 of 1000000 bytes"),
        (b"\x89HDF\r\n\x1a\n\2" + bytes(19) + (10**6).to_bytes(8, "little"), "is cut off after 36 of 1000000 bytes"),
    ],
)
def test_a_file_that_holds_no_weights_is_refused_before_anything_runs(tmp_path, content, found):
    path = tmp_path / "w.h5"
    path.write_bytes(content)
    message = rf"weights of VGG16: '{path}': {found}.*; expected a \.h5 .*'imagenet' or 'random'"
    with pytest.raises(RetinaflowError, match=message):
        check_files(files(tmp_path, backbones={"VGG16": {"weights": str(path)}}))


def test_weights_of_another_format_are_refused(tmp_path):
    (tmp_path / "w.pt").write_bytes(b"\x89HDF\r\n\x1a\n")
    with pytest.raises(RetinaflowError, match=r"w\.pt': has another extension than \.h5"):
        check_files(files(tmp_path, backbones={"VGG16": {"weights": str(tmp_path / "w.pt")}}))


@pytest.mark.parametrize("name", ["nowhere", "x" * 5000, "/".join("x" * 500), "nowhere.zip", "y" * 300 + ".zip"])
def test_paths_that_no_disk_takes_are_not_there(tmp_path, name):
    with pytest.raises(
        RetinaflowError, match=r"(?s)data.test.images: .*data.test.labels: there is no file.*weights of VGG16"
    ):
        check_files(
            files(tmp_path, data__test={"images": name, "labels": name}, backbones={"VGG16": {"weights": name}})
        )


@pytest.mark.parametrize("key", ["results", "data__train__labels", "train__weights"])
@pytest.mark.parametrize(("name", "found"), [("a\0b", "NUL"), ("{part}", "brace")])
def test_names_that_mean_something_else_are_refused(tmp_path, key, name, found):
    full = files(tmp_path)
    if key == "results":
        full["results"] = name
    elif key == "train__weights":
        full["backbones"]["VGG16"]["weights"] = name
    else:
        full["data"]["train"]["labels"] = name
    with pytest.raises(RetinaflowError, match=found):
        check_files(full)


@pytest.mark.parametrize("name", ["file", "file/below", "loop"])
def test_results_that_cannot_be_a_folder_are_refused(tmp_path, name):
    (tmp_path / "file").touch()
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(RetinaflowError, match=rf"results: '{tmp_path}/\w+' is not a folder"):
        check_files(files(tmp_path, results=str(tmp_path / name)))


def test_results_that_may_not_be_written_are_refused(tmp_path):
    full = files(tmp_path, results=str(tmp_path / "closed" / "results"))
    (tmp_path / "closed").mkdir(mode=0o500)
    if os.access(tmp_path / "closed", os.W_OK):
        pytest.skip("this user may write anywhere")
    with pytest.raises(RetinaflowError, match="closed' may not be written to"):
        check_files(full)


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("a", "a"),
        ("a", "a/b"),
        ("a/b", "a"),
        ("a", "link"),
        ("link", "a/../a/b"),
        (["c", "a"], ["a/b"]),
        (["a", "a/b"], "c"),
        ("x.zip", "x.zip"),
        ("x.zip/t", "x.zip"),
        ("x.zip/t", "x.zip/t/u"),
    ],
)
def test_photographs_that_would_count_twice_are_refused(tmp_path, train, test):
    full = files(tmp_path)
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "c").mkdir()
    (tmp_path / "link").symlink_to("a")
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        archive.writestr("t/u/1.jpeg", b"x")

    def source(names):
        names = [str(tmp_path / name) for name in ([names] if isinstance(names, str) else names)]
        return {**full["data"]["train"], "images": names}

    full["data"].update(train=source(train), test=source(test))
    with pytest.raises(RetinaflowError, match="are one folder, or one lies inside the other"):
        check_files(full)


def test_photographs_that_are_apart_are_accepted(tmp_path):
    full = files(tmp_path)
    for name in ("a", "ab"):
        (tmp_path / name).mkdir()
    for name in ("a/x.zip", "y.zip"):
        with zipfile.ZipFile(tmp_path / name, "w") as archive:
            archive.writestr("t/1.jpeg", b"x")
    train = [str(tmp_path / name) for name in ("a", "a/x.zip/t")]
    test = [str(tmp_path / name) for name in ("ab", "a/x.zip/tt", "y.zip/t")]
    labels = full["data"]["train"]["labels"]
    full["data"].update(train={"images": train, "labels": labels}, test={"images": test, "labels": labels})
    check_files(full)


def test_an_archive_that_is_none_is_named(tmp_path):
    (tmp_path / "x.zip").write_bytes(HTML)
    with pytest.raises(RetinaflowError, match=r"x\.zip' is no \.zip archive, or not all of one"):
        check_files(
            files(tmp_path, data__test={"images": str(tmp_path / "x.zip"), "labels": str(tmp_path / "labels.csv")})
        )


def test_labels_that_cannot_be_used_are_named_before_anything_runs(tmp_path):
    full = files(tmp_path)
    (tmp_path / "labels.csv").write_text("image,level\n/x,1\n")
    with pytest.raises(RetinaflowError, match="row 2 names the image '/x'"):
        shard_counts(full)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("seed: 1\ndata: {}\nseed: 2\n", "seed stands in line 1 and again in line 3"),
        ("train:\n  epochs: 1\n  lr: 2\n  epochs: 3\n", "train.epochs stands in line 2 and again in line 4"),
        ("a:\n- {b: 1, b: 2}\n", "a.b stands in line 2 and again in line 2"),
        ('{"seed": 1,\n"seed": 2}', "seed stands in line 1 and again in line 2"),
    ],
)
def test_a_key_that_stands_twice_is_named(tmp_path, text, expected):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(RetinaflowError, match=rf"config\.yaml: {expected}"):
        check_text([ROOT / "config/config.yaml", tmp_path / "config.yaml"])


def test_keys_that_stand_once_are_accepted(tmp_path):
    (tmp_path / "config.yaml").write_text("a: &a\n  b: 1\n  c: *a\nd:\n  b: 1\n  <<: *a\ne: *a\n")
    (tmp_path / "config.json").write_text('{\n\t"a": {\n\t\t"b": 1}}')
    (tmp_path / "empty.yaml").touch()
    check_text([*(ROOT / "config").glob("*.yaml"), *tmp_path.iterdir()])


def test_results_inside_the_photographs_are_refused(tmp_path):
    with pytest.raises(RetinaflowError, match="holds the results folder"):
        check_files(files(tmp_path, results=str(tmp_path / "photographs" / "results")))


def test_files_that_are_there_are_accepted(tmp_path):
    check_files(files(tmp_path))


def test_parts(tmp_path):
    assert held_out_parts(files(tmp_path)) == ["train", "validation"]
    assert held_out_parts(files(tmp_path, split__folds=3)) == ["fold-1", "fold-2", "fold-3"]


def test_number_of_shards_follows_from_the_labels(tmp_path):
    def counts(**changes):
        return shard_counts(files(tmp_path, **changes))

    assert counts() == {"train": 1, "validation": 1}
    assert counts(preprocess__shard_size=20) == {"train": 4, "validation": 1}
    assert counts(preprocess__shard_size=19) == {"train": 5, "validation": 2}
    assert counts(preprocess__shard_size=20, split__folds=4) == {f"fold-{i}": 2 for i in range(1, 5)}


@pytest.mark.parametrize(
    ("names", "pattern", "expected"),
    [
        (["1_left.jpeg", "2_left", "1_right"], None, ["blend", "fusion"]),
        (["1_left", "2_right", "3_left"], None, []),
        (["a", "b"], None, []),
        (["1_left", "1_right"], "(?P<patient>.+)_(left|right)", []),
    ],
)
def test_both_eyes_are_graded_where_labels_have_both(tmp_path, names, pattern, expected):
    labels = tmp_path / "labels.csv"
    labels.write_text("image,level\n" + "".join(f"{name},0\n" for name in names))
    changes = {"data__patient": pattern} if pattern else {}
    given_ = config(data__train={"images": "photographs", "labels": str(labels)}, **changes)
    assert eye_systems(with_defaults(given_, SCHEMA)) == expected
    assert eye_systems(with_defaults({**given_, "eyes": {"systems": ["blend"]}}, SCHEMA)) == ["blend"]


def test_a_demo_needs_no_files():
    demo = config(
        demo={"train_patients": 50, "test_patients": 20},
        data__train={"images": "results/a", "labels": "results/a.csv"},
        data__test={"images": "results/b", "labels": "results/b.csv"},
        preprocess__shard_size=10,
    )
    check(demo, SCHEMA)
    full = with_defaults(demo, SCHEMA)
    check_files(full)
    assert shard_counts(full) == {"train": 8, "validation": 2, "test": 4}


def test_recipe_of_a_backbone():
    full = with_defaults(config(backbones={"VGG16": {"image_size": 512}}, preprocess__crop="circle"), SCHEMA)
    assert recipe(full, "VGG16").name == "512-circle-keep-none"


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.dates(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=5) | st.integers() | st.booleans(), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.sampled_from(list(SCHEMA["properties"])), anything)
def test_whatever_stands_there_only_our_error_comes_out(key, value):
    wrong = {**config(), key: value}
    try:
        check(wrong, SCHEMA)
    except RetinaflowError:
        assert key in message(wrong)
    else:
        with_defaults(wrong, SCHEMA)


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (
            {"data__train": {"images": "https://x.org/a", "labels": "x"}},
            "data.train.images: 'https://x.org/a': only s3://",
        ),
        (
            {"data__train": {"images": "s3://b/a/../b", "labels": "x"}},
            "data.train.images: 's3://b/a/../b': expected s3://",
        ),
        ({"data__train": {"images": "s3://b//a", "labels": "x"}}, "without empty steps"),
        ({"data__train": {"images": "s3://b/a", "labels": "s3://"}}, "data.train.labels: 's3://': expected s3://"),
        ({"train__weights": "s3://b/w.pt"}, "weights of VGG16: 's3://b/w.pt': has another extension than .h5"),
        (
            {"data__train": {"images": ["s3://b/a", "s3://b/a/c"], "labels": "s3://b/l.csv"}},
            "data.train.images[1]: 's3://b/a/c' and 's3://b/a' of data.train.images[0] are one folder, or one",
        ),
    ],
)
def test_an_address_that_cannot_be_right_is_named_before_a_storage_is_asked(changes, expected):
    with pytest.raises(RetinaflowError) as caught:
        check_files(with_defaults({**config(), **config(**changes)}, SCHEMA))
    assert expected in str(caught.value)


def test_addresses_become_paths():
    full = with_defaults(
        config(
            data__train={"images": ["photographs", "s3://b/a folder/"], "labels": "s3://b/t.zip/l.csv"},
            data__test={"images": "s3://b/test.ZIP/in/side", "labels": "labels.csv"},
            backbones={"VGG16": {"weights": "s3://b/w.weights.h5"}, "ResNet50": {"weights": "s3://b/w.h5"}},
        ),
        SCHEMA,
    )
    local, remote = fetched(full)
    assert local["data"]["train"]["images"] == ["photographs", "results/downloaded/train-1"]
    assert local["data"]["train"]["labels"] == ".snakemake/labels/b/t.zip/l.csv"
    assert local["data"]["test"]["images"] == ["results/downloaded/test-0.zip/in/side"]
    # Keras tells its formats apart by the name.
    assert local["backbones"]["VGG16"]["weights"] == "results/downloaded/VGG16.weights.h5"
    assert sorted(remote, key=lambda one: one.key) == [
        Remote("data.test.images", "s3://b/test.ZIP", "results/downloaded/test-0.zip", "archive"),
        Remote("data.train.images[1]", "s3://b/a folder/", "results/downloaded/train-1", "folder"),
        Remote("data.train.labels", "s3://b/t.zip", ".snakemake/labels/b/t.zip", "table"),
        Remote("weights of ResNet50", "s3://b/w.h5", "results/downloaded/ResNet50.h5", "weights"),
        Remote("weights of VGG16", "s3://b/w.weights.h5", "results/downloaded/VGG16.weights.h5", "weights"),
    ]


def test_paths_stay_as_they_are():
    full = with_defaults(config(data__train={"images": "photographs", "labels": "labels.csv"}), SCHEMA)
    local, remote = fetched(full)
    assert not remote
    assert local["data"]["train"]["images"] == ["photographs"]


def test_changed_settings_are_told_with_their_defaults():
    backbones = {"VGG16": {"batch_size": 2}, "ResNet50": {}}
    changes = config(seed=7, train={"epochs": 3, "dropout": 0.5}, backbones=backbones)
    assert changed(with_defaults(changes, SCHEMA), SCHEMA) == [
        ["backbones.VGG16.batch_size", 2, 32],
        ["data.train.images", "photographs", None],
        ["data.train.labels", "labels.csv", None],
        ["seed", 7, 2015],
        ["train.epochs", 3, 50],
    ]
