"""Loading the configuration: defaults, overrides, and one message for each mistake."""

import datetime

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from common import ROOT
from configurations import DATA, completed, configured, written
from retinaflow.config.loading import load
from retinaflow.config.lookups import screened_grade
from retinaflow.errors import RetinaflowError
from retinaflow.networks.backbones import BACKBONES
from retinaflow.settings.augment import AugmentSettings
from retinaflow.settings.root import ConfigurationFile


def message(wrong):
    with pytest.raises(RetinaflowError) as caught:
        load(wrong)
    return str(caught.value)


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        ({}, "data: this key is required and missing"),
        ({"data": {}}, "data.train: this key is required and missing"),
        ({"data": {"train": {"images": "x"}}}, "data.train.labels: this key is required and missing"),
        (written(sead=1), "sead: unknown key; did you mean 'seed'?"),
        (written(data__lables="x"), "data.lables: unknown key"),
        (written(data__train__label="x"), "data.train.label: unknown key; did you mean 'labels'?"),
        (written(seed="2015.5"), "seed: '2015.5' is not of type 'integer'"),
        (written(seed=-1), "seed: -1 is less than the minimum of 0"),
        (
            written(data__grade_names=["class0"]),
            "data.grade_names: ['class0'] is too short, expected at least 2 entries",
        ),
        (written(data__grade_names=["a", "a"]), "data.grade_names: ['a', 'a'] has 'a' twice; write it once"),
        (written(data__grade_names=["a", "../b"]), "data.grade_names[1]: '../b' does not match"),
        (
            written(data__patient_pattern="(?P<patient>"),
            "data.patient_pattern: '(?P<patient>' is no regular expression",
        ),
        (written(data__patient_pattern=".*"), "data.patient_pattern: '.*' has no group (?P<patient>...)"),
        (written(data__on_problem__unreadable="skip"), "data.on_problem.unreadable: 'skip' is not one of"),
        (written(data__exclude_limit=5), "data.exclude_limit: 5 is greater than the maximum of 1"),
        (written(data__train__images=[]), "data.train.images: [] should be non-empty"),
        (written(split__validation=1.0), "split.validation: 1.0 is not below 1"),
        (written(split__validation=0), "split.validation: 0 is not above 0"),
        (written(split__unit="eye"), "split.unit: 'eye' is not one of ['patient', 'image']"),
        (
            written(data__patient_pattern="(?P<patient>.*)", eyes__models=["average"]),
            "eyes.models: data.patient_pattern, '(?P<patient>.*)', has no group (?P<eye>...) for the eye",
        ),
        (written(eyes__models=["both"]), "eyes.models[0]: 'both' is not one of ['average', 'stacking']"),
        (
            written(eyes__fellow_eye_weight=50),
            "eyes.fellow_eye_weight: 50 is greater than the maximum of 1 (it is a share",
        ),
        (written(split__folds=1), "split.folds: 1 fold leaves nothing to train on"),
        (written(images=""), "images: '' "),
        (
            written(model="VGG61"),
            "model: 'VGG61' grades no new images; expected one of InceptionV3, ResNet50, VGG16, ensemble",
        ),
        (written(model="ensemble", models={"VGG16": {}}), "model: 'ensemble' grades no new images"),
        (written(organize__mode="move"), "organize.mode: 'move' is not one of"),
        (written(preprocess__crop="centre"), "preprocess.crop: 'centre' is not one of"),
        (written(preprocess__shard_size=0), "preprocess.shard_size: 0 is less than the minimum of 1"),
        (written(train__lr=0.1), "train.lr: unknown key"),
        (written(train__learning_rat=0.1), "train.learning_rat: unknown key; did you mean 'learning_rate'?"),
        (written(train__learning_rate=0), "train.learning_rate: 0 is not above 0"),
        (written(train__epochs=1.5), "train.epochs: 1.5 is not of type 'integer'"),
        (written(train__dense_units=[10]), "train.dense_units: [10] is too short"),
        (written(train__augment__zoom=[1.2, 0.8]), "augment.zoom: [1.2, 0.8] has its lower end above its upper end"),
        (written(train__augment__rotate=3), "train.augment.rotate: unknown key; did you mean 'rotation'?"),
        (written(train__augment__crop=0), "train.augment.crop: 0 is not above 0"),
        (
            written(train__augment__brightness=20),
            "train.augment.brightness: 20 is not below",
        ),
        (written(train__augment__hue=-5), "train.augment.hue: -5 is less than the minimum of 0"),
        (written(train__augment__mixup=-1), "train.augment.mixup: -1 is less than the minimum of 0"),
        (written(train__augment={"mixup": 0.2, "cutmix": 1}), "augment.cutmix: 1, and mixup 0.2, too; set one of them"),
        (
            written(train__augment__cutmix=1, train__batch_size=1),
            "batch_size: 1 leaves none that augment.cutmix could mix an image with",
        ),
        (written(score__tta_views=0), "score.tta_views: 0 is less than the minimum of 1"),
        (written(score__tta_views=33), "score.tta_views: 33 is greater than the maximum of 32"),
        (
            written(train__freeze_layers="some"),
            "train.freeze_layers: 'some' is not of type 'integer', and 'all' was expected",
        ),
        (written(train__freeze_layers=-1), "train.freeze_layers: -1 is less than the minimum of 0"),
        (
            written(train__class_weights=[1, 2]),
            "class_weights: 2 weights, expected 5, one for each of data.grade_names",
        ),
        (
            written(train__gpus=2, train__backend="torch"),
            "gpus: with torch, Keras trains a network on one GPU; set gpus to 1",
        ),
        (
            written(train__gpus=2, train__jit=True),
            "jit: True, which tensorflow cannot do on several GPUs; set jit to auto",
        ),
        (
            written(train__gpus=2, train__jit=False, train__backend="jax"),
            "jit: False, which jax cannot do on several GPUs; set jit to auto",
        ),
        (
            written(train__gpus=2, train__clip_norm=1),
            "clip_norm: on several GPUs, TensorFlow would clip the gradient of each GPU before the sum",
        ),
        (written(train__warmup_epochs=50), "warmup_epochs: 50 of 50 epochs, so that learning_rate is never reached"),
        (
            written(train__weights="random", train__batch_norm="train", train__head_epochs=3),
            "head_epochs: with random weights, the features of the backbone are of no use to the head; set it to 0",
        ),
        (
            written(train__batch_norm="train", train__head_epochs=3),
            "head_epochs: the head would learn from the stored statistics, which batch_norm: train replaces",
        ),
        (written(train__balanced_epochs=5), "balanced_epochs: nothing is balanced; set balanced_sampling, too"),
        (written(train__weight_decay=0.01), "weight_decay: 0.01, but optimizer is adam; set that to adamw"),
        (written(train__optimizer="adamw"), "optimizer: adamw without weight_decay is adam; set weight_decay"),
        (
            written(train__layer_decay=0.8, train__freeze_layers="all"),
            "layer_decay: 0.8, but freeze_layers: all leaves no layer to it",
        ),
        (written(train__layer_decay=1.1), "train.layer_decay: 1.1 is greater than the maximum of 1"),
        (written(train__ema=1), "train.ema: 1 is not below 1"),
        (written(train__schedule="linear"), "train.schedule: 'linear' is not one of ['plateau', 'cosine']"),
        (written(train__gpus=3), "batch_size: 32 images cannot be divided evenly among 3 GPUs"),
        (written(train__jit="yes"), "train.jit: 'yes' is not one of ['auto', True, False]"),
        (written(train__minimum_learning_rate=1), "minimum_learning_rate: 1 is above learning_rate 1e-05"),
        (written(models__VGG16={"weights": "random", "freeze_layers": "all"}), "would freeze random weights"),
        (written(train__weights="random"), "models.VGG16.batch_norm: random weights have no statistics"),
        (written(models={}), "models: {} should be non-empty"),
        (written(models__Resnet50={}), "models.Resnet50: unknown backbone; did you mean 'ResNet50'?"),
        (
            written(models__VGG16={"batchsize": 3}),
            "models.VGG16.batchsize: unknown key; did you mean 'batch_size'?",
        ),
        (written(models__VGG16={"batch_size": 0}), "models.VGG16.batch_size: 0 is less than the minimum of 1"),
        (
            written(models__InceptionV3={"image_size": 74}),
            "models.InceptionV3.image_size: 74 px; InceptionV3 needs at least 75",
        ),
        (written(train__image_size=64), "models.InceptionV3.image_size: 64 px; InceptionV3 needs at least 75"),
        (written(endpoints={"referable": [4, 5]}), "endpoints.referable: 5 is no grade of the 5 grades"),
        (written(endpoints={"referable": [0, 1, 2, 3, 4]}), "endpoints.referable: has all 5 grades"),
        (written(screening__endpoint="referabel"), "no endpoint 'referabel'; did you mean 'referable'?"),
        (written(endpoints={"referable": [2, 4]}), "screening.endpoint: 'referable' has the grades 2, 4; expected all"),
        (
            written(train__objective="ordinal", train__label_smoothing=0.1),
            "label_smoothing: 0.1 with objective ordinal",
        ),
        (written(train__regression_loss="smooth_l1"), "regression_loss: smooth_l1 with objective softmax"),
        (written(demo={"train_patients": 15, "test_patients": 15}), "data.test: the demo draws a test set"),
        (written(seed=2**32), "seed: 4294967296 is above 4294967295, the largest that NumPy takes"),
        (written(seed=True), "seed: True is not of type 'integer' (YAML reads yes, no, on and off as true and false"),
        (written(seed=None), "seed: None is not of type 'integer' (nothing stands there: give it a value or delete"),
        (written(results=None), "results: None is not of type 'string' (nothing stands there"),
        (written(results=""), "results: '' should be non-empty"),
        (written(results=datetime.date(2015, 2, 17)), "is not of type 'string' (put it in quotes)"),
        (written(data=None), "data: None is not of type 'section' (nothing stands there"),
        (written(train=None), "train: None is not of type 'section' (nothing stands there"),
        (written(split=["patient"]), "split: ['patient'] is not of type 'section' (a list; expected a section"),
        (
            written(models=["VGG16"]),
            "models: ['VGG16'] is not of type 'section' (a list; expected a section",
        ),
        (written(models="VGG16"), "models: 'VGG16' is not of type 'section'"),
        (written(models={"VGG16": {}, 16: {}}), "models.16: YAML reads this key as int, expected text"),
        ({**written(), True: 1}, "True: YAML reads this key as bool, expected text"),
        (
            written(models__VGG16=[]),
            "models.VGG16: [] is not of type 'section', 'null' (a list; expected a section",
        ),
        (written(data__train="images"), "data.train: 'images' is not of type 'section'"),
        (written(data__train__images=["a", "a"]), "data.train.images: ['a', 'a'] has 'a' twice; write it once"),
        (written(data__train__images=[2015]), "data.train.images[0]: 2015 is not of type 'string' (put it in quotes)"),
        (written(data__train__exclude="10_left"), "data.train.exclude: '10_left' is not of type 'list'"),
        (written(data__train__exclude=[17]), "data.train.exclude[0]: 17 is not of type 'string' (put it in quotes)"),
        (written(data__test={"images": "x"}), "data.test.labels: this key is required and missing"),
        (
            written(data__image_column=1),
            "data.image_column: 1 is not of type 'string', and 1 is not of type 'list' (put it in quotes)",
        ),
        (written(data__grade_column="image"), "data.grade_column: 'image' is data.image_column, too"),
        (written(data__grade_names=[0, 1]), "data.grade_names[0]: 0 is not of type 'string' (put it in quotes)"),
        (
            written(data__grade_names=[False, "yes"]),
            "data.grade_names[0]: False is not of type 'string' (YAML reads yes, no",
        ),
        (written(data__grade_names=["none", "None", "x"]), "data.grade_names: 'none' and 'None' differ in case only"),
        (written(data__grade_names=["a", "index.csv"]), "data.grade_names[1]: 'index.csv' does not match"),
        (written(data__grade_names=["a", ".."]), "data.grade_names[1]: '..' does not match"),
        (written(data__grade_names=["a", "b" * 300]), "data.grade_names: 'bbbbbbbbbbbbbbbbbbbb...' has 300 characters"),
        (
            written(data__patient_pattern="(?P<patient>a{9999999999})"),
            "data.patient_pattern: '(?P<patient>a{9999999999})' is no regular expression",
        ),
        (written(data__patient_pattern="(" * 5000), "is no regular expression"),
        (written(data__exclude_limit=5), "greater than the maximum of 1 (it is a share: 5 % is 0.05)"),
        (written(data__exclude_limit=float("nan")), "data.exclude_limit: nan is not of type 'number'"),
        (written(data__unpack_limit=0), "data.unpack_limit: 0 is less than the minimum of 1"),
        (written(data__unpack_limit="200 GiB"), "data.unpack_limit: '200 GiB' is not of type 'integer'"),
        (
            written(split__validation=20),
            "split.validation: 20 is not below 1 (it is a share",
        ),
        (written(split__folds=-1), "split.folds: -1 is less than the minimum of 0"),
        (written(split__folds=1000), "split.folds: 1000 is greater than the maximum of 100"),
        (
            written(preprocess__crop=False),
            "preprocess.crop: False is not one of ['none', 'trim', 'circle'] (YAML reads yes, no",
        ),
        (
            written(preprocess__enhance=None),
            "preprocess.enhance: None is not one of ['none', 'ben_graham', 'clahe'] (nothing",
        ),
        (written(preprocess__image_size=224), "preprocess.image_size: unknown key"),
        (written(train__learning_rate="fast"), "train.learning_rate: 'fast' is not of type 'number'"),
        (written(train__learning_rate=float("inf")), "train.learning_rate: inf is not of type 'number'"),
        (written(train__image_size=4096), "train.image_size: 4096 is greater than the maximum of 2048"),
        (written(train__image_size=224.0), "train.image_size: 224.0 is not of type 'integer'"),
        (written(train__image_size=[224, 224]), "train.image_size: [224, 224] is not of type 'integer'"),
        (
            written(train__dropout=50),
            "train.dropout: 50 is not below 1 (it is a share: 50 %",
        ),
        (written(train__class_weights=[0, 0, 0, 0, 0]), "class_weights: [0, 0, 0, 0, 0] are all 0"),
        (written(train__class_weights=[1, 1, 1, 1, -1]), "train.class_weights[4]: -1 is less than the minimum of 0"),
        (
            written(train__class_weights="balanced"),
            "train.class_weights: 'balanced' is not one of ['none', 'inverse', 'sqrt_inverse', 'effective_number']",
        ),
        (written(train__weights=None), "train.weights: None is not of type 'string' (nothing stands there"),
        (written(train__monitor="kappa"), "train.monitor: 'kappa' is not one of"),
        (written(train__augment__flip_vertical="yes"), "train.augment.flip_vertical: 'yes' is not of type 'boolean'"),
        (written(train__augment__rotation=360), "train.augment.rotation: 360 is greater than the maximum of 180"),
        (written(train__augment=True), "train.augment: True is not of type 'section'"),
        (written(endpoints={"referable": [-1]}), "endpoints.referable[0]: -1 is less than the minimum of 0"),
        (written(endpoints={"referable": [3, 3]}), "endpoints.referable: [3, 3] has 3 twice; write it once"),
        *(
            (written(screening__operating_point=point), f"screening.operating_point: {point!r} is no operating point")
            for point in ("sensitivity 90", "sensitivity 0", "0.9", "sensitivity 1.2", "specificity")
        ),
        (written(train__objective="coral"), "train.objective: 'coral' is not one of"),
        (written(evidence__operating_points=["recall 0.9"]), "'recall 0.9' is no operating point"),
        (written(evidence__recalibration={"messidor": 20}), "evidence.recalibration: there is no test set 'messidor'"),
        (written(evidence__also_positive={"oedema": ["dme"]}), "evidence.also_positive: there is no endpoint 'oedema'"),
        (written(evidence__bands={"age": [60, 40]}), "evidence.bands.age: [60.0, 40.0] do not ascend"),
    ],
)
def test_a_mistake_is_named(wrong, expected):
    assert expected in message(wrong)


def test_grades_from_the_third_on_are_referable():
    for count, grades in ((2, [1]), (3, [2]), (5, [2, 3, 4]), (6, [2, 3, 4, 5])):
        config = load(written(data__grade_names=[f"grade{number}" for number in range(count)]))
        assert config.endpoints == {"referable": grades}
        assert screened_grade(config) == grades[0]
    chosen = load(written(endpoints={"sight": [4, 3], "any": [1, 2, 3, 4]}, screening__endpoint="sight"))
    assert screened_grade(chosen) == 3


def test_a_long_value_does_not_bury_the_message():
    assert len(message(written(data__train__exclude="x" * 10**6))) < 1000


def test_all_mistakes_are_named_at_once():
    text = message({**written(seed=-1, split__unit="eye", train__lr=1), "data": {"train": {}}, "foo": 1, "bar": 2})
    for key in ("seed", "split.unit", "train.lr", "data.train.images", "data.train.labels", "foo", "bar"):
        assert text.count(f"- {key}:") == 1


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        (written(backbones={"VGG16": {}}), "backbones: this key is now `models`; rename it"),
        (written(system="VGG16"), "system: this key is now `model`"),
        (written(data__level_column="level"), "data.level_column: this key is now `data.grade_column`"),
        (written(data__classes=["a", "b"]), "data.classes: this key is now `data.grade_names`"),
        (written(data__patient="(.+)"), "data.patient: this key is now `data.patient_pattern`"),
        (written(data__on_problem__bad_level="exclude"), "bad_level: this key is now `data.on_problem.bad_grade`"),
        (written(eyes__systems=["blend"]), "eyes.systems: this key is now `eyes.models`"),
        (written(eyes__blend_weight=0.4), "eyes.blend_weight: this key is now `eyes.fellow_eye_weight`"),
        (written(score__referable_level=2), "score.referable_level: this key is now `endpoints: {"),
        (written(score__referable_grade=2), "score.referable_grade: this key is now `endpoints: {"),
        (written(score__referable_sensitivity=0.9), "this key is now `screening: {operating_point: sensitivity 0.90}`"),
        (written(score__views=2), "score.views: this key is now `score.tta_views`"),
        (written(score__bootstrap=10), "score.bootstrap: this key is now `score.bootstrap_samples`"),
        (written(demo={"photograph_size": 384}), "demo.photograph_size: this key is now `demo.image_size`"),
        (
            written(eyes__models=["blend"]),
            "eyes.models[0]: 'blend' is not one of ['average', 'stacking'] (blend is now",
        ),
        (written(model="average"), "or null for the best (average is now called ensemble)"),
    ],
)
def test_former_key_is_an_error_that_names_the_new_one(wrong, expected):
    assert expected in message(wrong)


@pytest.mark.parametrize(
    ("wrong", "expected"),
    [
        (
            written(models={"deep": {}}),
            "models.deep: unknown backbone; known: VGG16, ",
        ),
        (
            written(models={"deep": {"backbone": "VGG61"}}),
            "models.deep.backbone: 'VGG61' is an unknown backbone; did you mean 'VGG16'?",
        ),
        (written(models={"a/b": {"backbone": "VGG16"}}), "models.a/b: expected a name of at most 100 letters"),
        (written(models={"a+no_tta": {"backbone": "VGG16"}}), "models.a+no_tta: expected a name of"),
        (written(models={"ensemble": {"backbone": "VGG16"}}), "models.ensemble: this name is reserved"),
        (written(models={"a": {"backbone": "VGG16"}, "A": {"backbone": "VGG16"}}), "'A' and 'a' differ in case only"),
        (
            written(models={"small": {"backbone": "InceptionV3", "image_size": 64}}),
            "models.small.image_size: 64 px; InceptionV3 needs at least 75",
        ),
    ],
)
def test_a_model_needs_a_name_and_a_backbone(wrong, expected):
    assert expected in message(wrong)


@pytest.mark.parametrize("name", ["config.yaml", "demo.yaml", "eyepacs.yaml", "best.yaml"])
def test_our_own_configurations_are_right(name):
    load(yaml.safe_load((ROOT / "config" / name).read_text(encoding="utf-8")))


def test_recipe_for_few_images_takes_its_data_from_elsewhere():
    recipe = yaml.safe_load((ROOT / "config/few.yaml").read_text(encoding="utf-8"))
    assert "data" not in recipe
    found = load(written(**recipe))
    assert not found.models
    assert list(found.linear) == ["ridge"]
    assert found.split.folds == 5
    assert found.features.pooled()


def test_defaults_are_right_themselves():
    full = load(written())
    assert full.data.grade_names == ["no_dr", "mild", "moderate", "severe", "proliferative"]
    assert list(full.models) == ["InceptionV3", "ResNet50", "VGG16"]
    assert full.models["VGG16"].augment.rotation == 20
    dump = full.model_dump()
    assert load({**dump, "train": {}, "models": {"VGG16": {}}}).models["VGG16"] == full.models["VGG16"]


def test_a_complete_configuration_describes_itself():
    full = load(
        written(train__dropout=0.25, models={"VGG16": {"augment": {"shift": 0}}, "deep": {"backbone": "ResNet50"}})
    )
    assert load(full.model_dump()) == full


def test_complete_sweep_with_repeats_describes_itself():
    full = load(written(models={"VGG16": {"sweep": {"dropout": [0, 0.5]}}}, repeats=2))
    assert load(full.model_dump()) == full


def test_model_overrides_shared_settings_down_to_single_ranges():
    full = configured(
        train__epochs=7,
        train__augment={"rotation": 90, "shift": 0.3},
        models={"VGG16": {"augment": {"shift": 0}}, "ResNet50": None},
    )
    assert full.models["VGG16"].augment == AugmentSettings(rotation=90, shift=0)
    assert full.models["ResNet50"].augment.shift == 0.3
    assert full.models["ResNet50"].epochs == 7


def test_head_is_trained_first_for_a_backbone_with_trained_weights():
    full = configured(
        models={
            "VGG16": {},
            "ResNet50": {"batch_norm": "train"},
            "InceptionV3": {"batch_norm": "train", "weights": "random"},
            "MobileNetV3Small": {"head_epochs": 2},
        }
    )
    assert {name: settings.head_epochs for name, settings in full.models.items()} == {
        "VGG16": 30,
        "ResNet50": 0,
        "InceptionV3": 0,
        "MobileNetV3Small": 2,
    }
    assert {name: settings.learning_rate for name, settings in full.models.items()} == {
        "VGG16": 1e-5,
        "ResNet50": 1e-4,
        "InceptionV3": 1e-4,
        "MobileNetV3Small": 1e-5,
    }


def test_head_of_trained_weights_reads_the_best_probed_layers():
    models = {"VGG16": {}, "ResNet50": {"weights": "random"}, "InceptionV3": {"feature_layers": ["mixed1"]}}
    full = configured(models=models).models
    assert full["ResNet50"].feature_layers == []
    assert full["InceptionV3"].feature_layers == ["mixed1"]
    full = configured(models={"deep": {"backbone": "InceptionV3"}}, train__feature_layers="auto").models
    assert full["deep"].feature_layers == list(BACKBONES["InceptionV3"].feature_layers) != []


def test_the_order_of_keys_in_the_file_is_no_change():
    one = configured(train={"epochs": 1, "batch_size": 2}, seed=3, models={"VGG16": {}, "ResNet50": {}})
    other = completed(
        {"models": {"ResNet50": {}, "VGG16": {}}, "seed": 3, "train": {"batch_size": 2, "epochs": 1}, "data": DATA}
    )
    assert repr(one.model_dump()) == repr(other.model_dump())


def test_the_given_configuration_stays_as_it_is():
    values = written(models={"VGG16": {}})
    completed(values)
    assert values == written(models={"VGG16": {}})


def test_values_of_the_command_line_may_be_text():
    text = written(seed="7", train={"epochs": "2", "augment": {"flip_vertical": "false"}}, models={"VGG16": ""})
    full = load({**text, "split": {"folds": "3", "validation": "0.3"}, "images": "null"})
    assert (full.seed, full.split.folds, full.split.validation, full.images) == (7, 3, 0.3, None)
    assert full.models["VGG16"].epochs == 2
    assert full.models["VGG16"].augment.flip_vertical is False


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5) | st.dates(),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=5) | st.integers() | st.booleans(), inner, max_size=3)
    ),
    max_leaves=8,
)


@given(st.sampled_from(list(ConfigurationFile.model_fields)), anything)
def test_any_value_loads_or_raises_our_error(key, value):
    wrong = {**written(), key: value}
    try:
        load(wrong)
    except RetinaflowError:
        assert key in message(wrong)
