"""Families of repeats, and names as people read them."""

import pytest

from retinaflow.scoring.families import families, title


def test_repeats_are_one_family():
    models = ["A", "A-repeat-2", "A+eye_average", "A-repeat-2+eye_average", "A+ensemble", "B", "ensemble"]
    assert families(models, {"A": ["A", "A-repeat-2"]}) == {
        "A": ["A", "A-repeat-2"],
        "A+eye_average": ["A+eye_average", "A-repeat-2+eye_average"],
        "A+ensemble": ["A+ensemble"],
        "B": ["B"],
        "ensemble": ["ensemble"],
    }
    assert families(["A", "B"], {}) == {"A": ["A"], "B": ["B"]}


@pytest.mark.parametrize(
    ("model", "shown"),
    [
        ("InceptionV3", "InceptionV3"),
        ("my-model+eye_average", "my-model+eye_average"),
        ("net-freeze_layers-10-objective-ordinal", "net, freeze_layers 10, objective ordinal"),
        ("net-augment.rotation-180+no_tta", "net, augment.rotation 180 +no_tta"),
        ("net-freeze_layers-all-repeat-2", "net, freeze_layers all, repeat 2"),
        ("net-learning_rate-0.001/fold-2", "net, learning_rate 0.001 /fold-2"),
    ],
)
def test_names_of_sweeps_are_read(model, shown):
    assert title(model) == shown
