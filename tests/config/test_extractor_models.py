"""Models with a backbone by path: which are trained, and settings that do not go with a file."""

import pytest

from configurations import configured, labelled
from retinaflow.config.checks import combination_problems
from retinaflow.config.loading import load
from retinaflow.config.lookups import feature_networks
from retinaflow.config.models import Models
from retinaflow.config.places import check_files
from retinaflow.errors import RetinaflowError
from retinaflow.settings.features import BackboneFeatureSettings, FeatureSettings
from retinaflow.settings.train import NormalisationSettings

HALF = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
FLAIR = {"backbone": "some folder/flair.onnx", "image_size": 512, "normalisation": HALF}
RIDGE = {"kind": "linear", "features": ["flair"], "eyes": "one"}


def test_onnx_has_features_and_is_not_trained():
    config = configured(models={"VGG16": {}, "flair": FLAIR, "ridge": RIDGE}, repeats=2, eyes={"models": []})
    assert list(config.models) == ["VGG16", "VGG16-repeat-2"]
    assert list(config.frozen) == ["flair"]
    assert not list(combination_problems(config))
    settings = feature_networks(config)["flair"]
    assert settings.feature_layers == []
    assert settings.normalisation == NormalisationSettings(**HALF)
    assert load(config.model_dump()) == config
    models = Models.of(config)
    assert not models.unbundled("VGG16")
    assert models.unbundled("ridge").startswith("flair is an ONNX file, which may have operations or weights beside")
    assert "ridge" not in models.bundled
    of_features = BackboneFeatureSettings.of(settings, FeatureSettings())
    assert BackboneFeatureSettings.model_validate(of_features.model_dump()) == of_features


def test_keras_file_is_a_frozen_network_with_a_trained_head():
    model = {"backbone": "a.keras", "freeze_layers": "all", "epochs": 1}
    config = configured(models={"own": model})
    assert list(config.models) == ["own"]
    assert config.models["own"].head_epochs == 30
    assert not list(combination_problems(config))


@pytest.mark.parametrize(
    ("models", "found"),
    [
        ({"flair": FLAIR}, "no model uses its features; add one, such as `ridge: {kind: linear, features: [flair]}`"),
        ({"a/b.onnx": {}, "ridge": {**RIDGE, "features": ["a/b.onnx"]}}, "give the model a name"),
        ({"flair": {**FLAIR, "normalisation": "dataset"}, "ridge": RIDGE}, "normalisation: dataset, but a backbone by"),
        ({"flair": {**FLAIR, "weights": "w.h5"}, "ridge": RIDGE}, "weights: w.h5, but a backbone by path has"),
        ({"own": {"backbone": "a.keras"}}, "freeze_layers: 0, but a backbone by path stays frozen; set it to all"),
        ({"VGG16": {"normalisation": HALF}}, "normalisation: only a backbone by path has this one"),
        ({"VGG16": {"normalisation": "none"}}, "normalisation: only a backbone by path has this one"),
        ({"VGG16": {"pooling": "first"}}, "pooling: first, but VGG16 has no tokens; set it to mean"),
        ({"own": {"backbone": "weights/a.pt"}}, "is an unknown backbone; a path ends with .onnx or .keras"),
    ],
)
def test_wrong_settings_are_named(models, found):
    (problem,) = combination_problems(configured(models=models))
    assert found in problem


@pytest.mark.parametrize(
    ("normalisation", "found"),
    [
        ({"mean": [0.5]}, "normalisation.mean: [0.5] is too short"),
        ({**HALF, "std": [0, 1, 1]}, "normalisation.std[0]: 0 is not above 0"),
        ({"means": [0, 0, 0]}, "normalisation.means: unknown key; did you mean 'mean'?"),
        ("imagnet", "normalisation: 'imagnet' is not one of ['imagenet', 'dataset', 'per_image', 'none']"),
    ],
)
def test_wrong_normalisation_is_named(normalisation, found):
    with pytest.raises(RetinaflowError) as caught:
        load({"data": {"train": {"images": "i", "labels": "l"}}, "models": {"a": {"normalisation": normalisation}}})
    assert found in str(caught.value)


def test_missing_or_wrong_file_is_named_before_any_job(tmp_path):
    (tmp_path / "b.onnx").write_bytes(b"no network")
    models = {
        "one": {"backbone": str(tmp_path / "a.onnx")},
        "two": {"backbone": str(tmp_path / "b.onnx")},
        "three": {"backbone": "{c}.keras", "freeze_layers": "all"},
    }
    with pytest.raises(RetinaflowError, match=r"backbone of three: .* has a brace"):
        check_files(labelled(tmp_path, models=models))
    del models["three"]
    with pytest.raises(RetinaflowError) as caught:
        check_files(labelled(tmp_path, models=models))
    assert f"backbone of one: there is no file '{tmp_path / 'a.onnx'}'" in str(caught.value)
    assert f"backbone of two: {tmp_path / 'b.onnx'}: this is no ONNX file" in str(caught.value)
