"""Sections of the configuration: strict values, text from the command line, and dumps."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from retinaflow.settings.data import DataSetSettings
from retinaflow.settings.score import ScoreSettings
from retinaflow.settings.section import Section
from retinaflow.settings.tracking import TrackingSettings
from retinaflow.settings.train import ModelSection, TrainingSettings, TrainSection

RESOLVED = {"backbone": "VGG16", "feature_layers": [], "head_epochs": 0, "learning_rate": 1e-4}


@pytest.mark.parametrize(
    ("given", "key", "expected"),
    [
        ({"epochs": "2"}, "epochs", 2),
        ({"dropout": "0.25"}, "dropout", 0.25),
        ({"dropout": "0"}, "dropout", 0),
        ({"learning_rate": "1e-4"}, "learning_rate", 0.0001),
        ({"head_epochs": "auto"}, "head_epochs", "auto"),
        ({"head_epochs": "3"}, "head_epochs", 3),
        ({"freeze_layers": "all"}, "freeze_layers", "all"),
        ({"dense_units": ["8", "4"]}, "dense_units", [8, 4]),
        ({"class_weights": ["1", "2.5"]}, "class_weights", [1, 2.5]),
        ({"feature_layers": ["1", "2"]}, "feature_layers", ["1", "2"]),
        ({"jit": "true"}, "jit", True),
        ({"weights": "2015"}, "weights", "2015"),
    ],
)
def test_text_becomes_a_number_if_the_field_expects_one(given, key, expected):
    value = getattr(TrainSection.model_validate(given), key)
    assert value == expected
    assert type(value) is type(expected)


def test_null_as_text_is_none_if_allowed():
    assert TrackingSettings.model_validate({"mlflow": "null", "tensorboard": "true"}).mlflow is None
    assert TrackingSettings.model_validate({"experiment": "null"}).experiment == "null"


@pytest.mark.parametrize(
    "given",
    [
        {"epochs": True},
        {"epochs": 2.0},
        {"epochs": "2.0"},
        {"epochs": "two"},
        {"epochs": "9" * 10_000},
        {"dropout": True},
        {"learning_rate": float("inf")},
        {"learning_rate": "inf"},
        {"learning_rate": "nan"},
        {"learning_rate": "1e999"},
        {"augment": {"flip_vertical": "yes"}},
        {"augment": {"flip_vertical": 1}},
        {"unknown": 1},
    ],
)
def test_values_are_strict(given):
    with pytest.raises(ValidationError):
        TrainSection.model_validate(given)


@pytest.mark.parametrize("start", ["~", "$HOME", "${HOME}"])
def test_home_is_expanded(start):
    home = str(Path.home())
    assert DataSetSettings.model_validate({"images": start, "labels": f"{start}/l.csv"}).images == [home]
    assert TrainSection.model_validate({"weights": f"{start}/w.h5"}).weights == f"{home}/w.h5"


@pytest.mark.parametrize("path", ["a/~", "a/$HOME", "$HOMES/a", "s3://b/$HOME", "imagenet"])
def test_other_paths_stay_as_they_are(path):
    assert TrainSection.model_validate({"weights": path}).weights == path


def test_a_dump_is_ordered_and_makes_the_same_settings():
    settings = TrainingSettings.model_validate({**RESOLVED, "dropout": 1e-1, "augment": {"rotation": 90.0}})
    dump = settings.model_dump()
    assert list(dump) == sorted(dump)
    assert list(dump["augment"]) == sorted(dump["augment"])
    assert repr(dump["augment"]["rotation"]) == "90"
    assert TrainingSettings.model_validate(dump) == settings


def test_only_given_keys_are_dumped_if_asked():
    given = {"augment": {"shift": 0}, "backbone": "VGG16", "epochs": 3}
    assert ModelSection.model_validate(given).model_dump(exclude_unset=True) == given


def test_settings_are_frozen():
    with pytest.raises(ValidationError):
        ScoreSettings().tta_views = 2


def test_every_field_is_described():
    def sections(section):
        yield section
        for inner in section.__subclasses__():
            yield from sections(inner)

    for section in sections(Section):
        for name, field in section.model_fields.items():
            assert field.description or section is TrainingSettings, f"{section.__name__}.{name}"
