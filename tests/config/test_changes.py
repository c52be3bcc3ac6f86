"""Settings that differ from their defaults."""

from configurations import completed, written
from retinaflow.config.changes import changed


def test_changed_settings_have_their_defaults_beside_them():
    models = {"VGG16": {"batch_size": 2}, "ResNet50": {}}
    changes = written(seed=7, train={"epochs": 3, "dropout": 0.5}, models=models)
    assert changed(completed(changes)) == [
        ["data.train.images", ["images"], None],
        ["data.train.labels", "labels.csv", None],
        ["models.VGG16.batch_size", 2, 32],
        ["seed", 7, 2015],
        ["train.epochs", 3, 50],
    ]
