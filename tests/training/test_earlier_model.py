"""Training that starts from a model of an earlier run."""

import json
import logging

import keras
import numpy as np
import pytest

from retinaflow.errors import RetinaflowError
from retinaflow.networks.earlier_model import faults, has_same_head
from retinaflow.preprocessing.batches import Images
from retinaflow.scoring.features import fine_tuned, frozen_backbone
from retinaflow.storage.file_cache import FileCache
from retinaflow.training.job import train_job
from small import THREE, planted, small_job, typed

# Epochs that change no weight by more than rounding.
STILL_STANDING = {"epochs": 1, "learning_rate": 1e-12, "minimum_learning_rate": 0, "batch_norm": "inference"}


@pytest.fixture
def train(tmp_path, few_parts):
    """Train in a folder of its own, and return the job."""

    def run(name, parts=few_parts, fields=None, **changes):
        job = small_job(tmp_path / name, parts, typed(**{"batch_norm": "inference", **changes}), **(fields or {}))
        train_job(job)
        return job

    return run


@pytest.fixture
def other_parts(make_part):
    """Images of other patients."""
    return (
        make_part("train_b", *planted(12, seed=2), classes=THREE),
        make_part("validation_b", *planted(6, seed=3), classes=THREE),
    )


def start_from(job, **fields):
    return {"weights": job.outputs.model, **fields}


def network(job):
    return keras.saving.load_model(job.outputs.model)


def outputs(job, parts):
    images = Images(*parts, THREE)
    return network(job).predict(np.stack([images[n] for n in range(len(images))]), verbose=0)


def test_backbone_and_head_go_on(train, few_parts, other_parts):
    first = train("first", epochs=2)
    second = train("second", other_parts, start_from(first), **STILL_STANDING)
    np.testing.assert_allclose(outputs(second, few_parts[0]), outputs(first, few_parts[0]), atol=1e-5)


def test_head_of_standardised_features_goes_on_without_head_epochs(train, few_parts, other_parts):
    first = train("first", epochs=1, head_epochs=3)
    second = train("second", other_parts, start_from(first), **STILL_STANDING)
    assert not [layer for layer in network(second).layers if layer.name == "standardise"]
    np.testing.assert_allclose(outputs(second, few_parts[0]), outputs(first, few_parts[0]), atol=1e-4)


def test_only_the_backbone_goes_on_with_another_head(train, few_parts, other_parts):
    first = train("first", epochs=1)
    second = train("second", other_parts, start_from(first), **STILL_STANDING, objective="ordinal")
    images = Images(*few_parts[0], THREE)
    pixels = np.stack([images[n] for n in range(len(images))])
    features = [fine_tuned(network(job)).predict(pixels, verbose=0) for job in (first, second)]
    np.testing.assert_allclose(*features, atol=1e-5)
    kernels = [network(job).get_layer("dense_1").get_weights()[0] for job in (first, second)]
    assert not np.allclose(*kernels, atol=1e-3)


@pytest.mark.parametrize(
    ("before", "now", "names", "same"),
    [
        ({}, {}, THREE, True),
        ({}, {"objective": "ordinal"}, THREE, False),
        ({}, {"dense_units": [8, 8]}, THREE, False),
        ({}, {}, ["a", "b", "c"], False),
        ({"head_epochs": 3}, {}, THREE, True),
        ({"head_epochs": 3}, {"head_epochs": 3}, THREE, True),
        ({}, {"head_epochs": 3}, THREE, False),
    ],
)
def test_head_goes_on_where_it_fits(before, now, names, same):
    record = {"grade_names": THREE, "settings": typed(**before).model_dump()}
    assert has_same_head(record, typed(**now), names) is same


def test_unusable_model_is_one_error(train, few_parts):
    first = train("first", epochs=1)
    model = first.outputs.model
    assert not list(faults(model, typed()))
    changes = {"feature_layers": ["first"], "normalisation": "per_image"}
    (layers, normalisation) = faults(model, typed(**changes))
    assert "was trained with feature_layers [], and this model has ['first']; set feature_layers to []" in layers
    assert "was trained with normalisation imagenet, and this model has per_image; set" in normalisation
    assert [fault for fault in faults(model, typed(backbone="Small")) if "trained with backbone Tiny" in fault]
    with pytest.raises(RetinaflowError, match=r"trained with feature_layers.*trained with normalisation"):
        train("second", few_parts, start_from(first), **STILL_STANDING, **changes)
    content = model.read_bytes()
    model.write_bytes(content[:200] + bytes(300) + content[500:])
    with pytest.raises(RetinaflowError, match="Keras cannot load this model safely"):
        train("second", few_parts, start_from(first), **STILL_STANDING)
    model.write_bytes(content[: len(content) // 2])
    assert ["is no Keras file" in fault for fault in faults(model, typed())] == [True]
    first.outputs.trained_on.unlink()
    (found,) = faults(model, typed())
    assert "trained_on.json', which belongs to model.keras; Copy the whole folder" in found


def test_folds_are_named(tmp_path):
    (tmp_path / "InceptionV3/fold-1").mkdir(parents=True)
    (tmp_path / "InceptionV3/fold-1/model.keras").touch()
    (found,) = faults(tmp_path / "InceptionV3/model.keras", typed())
    assert found.endswith(f"name one of {tmp_path / 'InceptionV3/fold-1'}")


def test_record_has_the_images_of_both_models(train, few_parts, other_parts, caplog):
    caplog.set_level(logging.WARNING)
    first = train("first", epochs=1)
    second = train("second", (other_parts[0], few_parts[1]), start_from(first), **STILL_STANDING)
    own, before = json.loads(second.outputs.trained_on.read_text())["records"]
    assert [before] == json.loads(first.outputs.trained_on.read_text())["records"]
    assert (len(own["images"]), len(before["images"])) == (18, 18)
    assert "was trained on 6 images ('validation0_left'" in caplog.text


def test_copy_of_a_trained_network_has_its_record(tmp_path, train):
    cache = {"trained": FileCache(tmp_path / "cache")}
    first = train("first", fields=cache, epochs=1)
    second = train("second", fields={**cache, "training_run": "other"}, epochs=1)
    assert second.outputs.trained_on.read_bytes() == first.outputs.trained_on.read_bytes()


def test_probe_has_the_features_of_the_earlier_model(train, few_parts):
    first = train("first", epochs=1, normalisation="dataset")
    own_input = {"normalisation": "imagenet", "pooling": "mean"}
    probed = frozen_backbone("Tiny", 32, layers=[], weights=first.outputs.model, seed=0, threads=1, **own_input)
    images = Images(*few_parts[0], THREE)
    pixels = np.stack([images[n] for n in range(len(images))])
    expected = fine_tuned(network(first)).predict(pixels, verbose=0)
    np.testing.assert_allclose(probed.predict(pixels, verbose=0), expected, atol=1e-5)
