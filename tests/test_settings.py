"""The configuration: defaults, overrides, and one message for each mistake."""

import copy
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from retinaflow.errors import RetinaflowError
from retinaflow.settings import check, check_files, held_out_parts, recipe, shard_counts, with_defaults

ROOT = Path(__file__).resolve().parents[1]
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
        (config(data__train__images=[]), "data.train.images"),
        (config(split__validation=1.0), "split.validation: 1.0 is greater than or equal to the maximum of 1"),
        (config(split__validation=0), "split.validation: 0 is less than or equal to the minimum of 0"),
        (config(split__unit="eye"), "split.unit: 'eye' is not one of ['patient', 'image']"),
        (config(split__folds=1), "split.folds: 1 fold leaves nothing to train on"),
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
        (config(train__freeze_layers="some"), "train.freeze_layers"),
        (config(train__class_weights=[1, 2]), "class_weights: 2 weights for the 5 classes"),
        (config(train__minimum_learning_rate=1), "minimum_learning_rate: 1 is above learning_rate 0.0001"),
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
        (config(demo={"train_patients": 15, "test_patients": 15}), "data.test: the demo draws a test set"),
    ],
)
def test_a_mistake_is_named(wrong, expected):
    assert expected in message(wrong)


def test_all_mistakes_are_named_at_once():
    text = message({**config(seed=-1, split__unit="eye", train__lr=1), "data": {"train": {}}, "foo": 1, "bar": 2})
    for key in ("seed", "split.unit", "train.lr", "data.train.images", "data.train.labels", "foo", "bar"):
        assert text.count(f"- {key}:") == 1


@pytest.mark.parametrize("name", ["config.yaml", "demo.yaml", "eyepacs.yaml"])
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
    assert full["backbones"]["VGG16"]["augment"] | {"zoom": 0} == {
        "rotation": 90,
        "shift": 0,
        "zoom": 0,
        "flip_horizontal": True,
        "flip_vertical": True,
    }
    assert full["backbones"]["ResNet50"]["augment"]["shift"] == 0.3
    assert full["backbones"]["ResNet50"]["epochs"] == 7


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
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
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
