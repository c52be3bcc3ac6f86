"""Linear models in the configuration: their networks and eyes, mistakes, and what else knows of them."""

import pytest

from configurations import configured, labelled, written
from extractors import write_extractor
from retinaflow.config.changes import changed
from retinaflow.config.loading import load
from retinaflow.config.lookups import linear_models, linear_networks, variant
from retinaflow.errors import RetinaflowError
from retinaflow.settings.features import BackboneFeatureSettings

RIDGE = {"kind": "linear", "features": ["VGG16", "ResNet50"]}


def test_features_are_of_networks_and_of_frozen_backbones():
    config = configured(models={"VGG16": {"image_size": 64}, "ridge": RIDGE}, train={"weights": "w.h5"})
    assert list(config.models) == ["VGG16"]
    assert list(config.frozen) == ["ResNet50"]
    assert config.frozen["ResNet50"].weights == "w.h5"
    assert config.frozen["ResNet50"].feature_layers == ["conv3_block4_out", "conv4_block2_out"]
    assert list(linear_networks(config)) == ["VGG16", "ResNet50"]
    assert [variant(config, name).size for name in linear_networks(config)] == [64, 224]


def test_means_alone_leave_parameters_as_they_were():
    plain = configured(models={"ridge": RIDGE})
    settings = BackboneFeatureSettings.of(plain.frozen["VGG16"], plain.features)
    assert not {"poolings", "root"} & set(settings.parameters())
    assert plain.features.pooled() == {}
    more = configured(models={"ridge": RIDGE}, features={"poolings": ["mean", "std"], "root": True})
    own = {"poolings": ["mean", "std"], "root": True}
    settings = BackboneFeatureSettings.of(more.frozen["VGG16"], more.features)
    assert {name: settings.parameters()[name] for name in own} == more.features.pooled() == own
    assert BackboneFeatureSettings.model_validate(settings.parameters()) == settings


def test_backbone_by_path_has_no_other_poolings(tmp_path):
    write_extractor(tmp_path / "encoder.onnx", size=32)
    encoder = {"backbone": str(tmp_path / "encoder.onnx"), "image_size": 32}
    models = {"encoder": encoder, "ridge": {**RIDGE, "features": ["encoder"]}}
    assert configured(models=models).linear
    with pytest.raises(RetinaflowError, match=r"features\.root: encoder is a backbone by path, with features of means"):
        load(written(models=models, features={"root": True}))


def test_default_configuration_has_a_linear_model():
    config = configured()
    assert config.linear["ridge"].features == ["InceptionV3"]
    assert not config.frozen


def test_complete_configuration_with_linear_models_reads_back():
    config = configured(models={"ridge": RIDGE})
    assert load(config.model_dump()) == config
    # Jobs read it without its frozen backbones.
    assert type(config).model_validate(config.model_dump()).linear == config.linear


@pytest.mark.parametrize(("eyes", "names"), [("one", ["ridge"]), ("both", ["ridge", "ridge+one_eye"])])
def test_model_of_both_eyes_has_one_of_one_eye(eyes, names):
    found = linear_models(configured(models={"ridge": {**RIDGE, "eyes": eyes}}))
    assert list(found) == names
    assert [found[name].eyes for name in names] == [eyes, "one"][: len(names)]


def test_eyes_follow_the_label_table(tmp_path):
    config = labelled(tmp_path, models={"ridge": RIDGE})
    assert list(linear_models(config)) == ["ridge"]
    (tmp_path / "labels.csv").write_text("image,level\n1_left,0\n1_right,0\n")
    assert list(linear_models(config)) == ["ridge", "ridge+one_eye"]


@pytest.mark.parametrize(
    ("models", "message"),
    [
        ({"ridge": {**RIDGE, "features": []}}, "models.ridge.features: [] should be non-empty"),
        ({"ridge": {**RIDGE, "features": ["VGG61"]}}, "no network or backbone 'VGG61'; did you mean 'VGG19'?"),
        ({"ridge": {**RIDGE, "eyes": "left"}}, "models.ridge.eyes: 'left' is not one of ['auto', 'one', 'both']"),
        ({"ridge": {**RIDGE, "epochs": 3}}, "models.ridge.epochs: unknown key"),
        ({"ridge": {"kind": "tree"}}, "models.ridge.kind: 'linear' was expected"),
        ({"ridge": {"kind": "linear"}}, "models.ridge.features: this key is required and missing"),
        ({"VGG16": RIDGE}, "models.VGG16: a network has this name; give the linear model another"),
        ({"a": RIDGE, "b": {**RIDGE, "features": ["a"]}}, "'a' is a linear model, which has no features"),
        ({"ensemble": RIDGE}, "models.ensemble: this name is reserved"),
        ({"Ridge": RIDGE, "ridge": RIDGE}, "'Ridge' and 'ridge' differ in case only"),
    ],
)
def test_mistakes_are_named(models, message):
    with pytest.raises(RetinaflowError) as error:
        load(written(models=models))
    assert message in str(error.value)


def test_small_images_and_eyes_without_names_are_mistakes():
    models = {"ridge": {"kind": "linear", "features": ["InceptionV3"], "eyes": "both"}}
    values = written(models=models, train__image_size=32, data__patient_pattern="(?P<patient>.+)")
    with pytest.raises(RetinaflowError) as error:
        load(values)
    assert "models.ridge.features: InceptionV3 needs at least 75 px, found train.image_size 32" in str(error.value)
    assert "models.ridge.eyes: data.patient_pattern" in str(error.value)
    assert "set models.ridge.eyes to one" in str(error.value)


def test_report_lists_the_features():
    assert ["models.ridge.features", RIDGE["features"], None] in changed(configured(models={"ridge": RIDGE}))
