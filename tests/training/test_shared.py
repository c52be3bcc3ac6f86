"""Steps that several models share: features of the frozen backbone and epochs of the head."""

import json

import keras
import numpy as np
import pytest

from retinaflow.storage.file_cache import FileCache
from retinaflow.storage.tables import read_table
from retinaflow.training import head as head_module
from retinaflow.training.job import train_job
from small import small_job, typed

WITH_HEAD = {"head_epochs": 3, "epochs": 2, "batch_norm": "inference", "augment": {"flip_horizontal": True}}


@pytest.fixture
def run(tmp_path, few_parts):
    """Train with some settings, in a folder of its own, and return weights, history without times, and record."""

    def train(name, shared=None, **changes):
        job = small_job(tmp_path / name, few_parts, typed(**{**WITH_HEAD, **changes}), shared=shared)
        train_job(job)
        weights = [np.array(weight) for weight in keras.saving.load_model(job.outputs.model).get_weights()]
        rows = [{**row, "seconds": ""} for row in read_table(job.outputs.history)]
        return weights, rows, json.loads(job.outputs.record.read_text())

    return train


@pytest.fixture
def passes(monkeypatch):
    """Names of the views whose features were computed."""
    seen = []
    compute = head_module._features
    monkeypatch.setattr(head_module, "_features", lambda *given: (seen.append(given[2]), compute(*given))[1])
    return seen


def assert_equal(one, other):
    assert one[1] == other[1]
    assert all(np.array_equal(a, b) for a, b in zip(one[0], other[0], strict=True))
    assert {**one[2], "seconds": 0} == {**other[2], "seconds": 0}


@pytest.mark.parametrize(
    "later", [{"freeze_layers": 1}, {"epochs": 3, "learning_rate": 0.02, "warmup_epochs": 1, "schedule": "cosine"}]
)
def test_setting_that_acts_after_the_head_shares_it(tmp_path, run, passes, later):
    cache = FileCache(tmp_path / "shared")
    run("first", cache)
    computed = len(passes)
    shared = run("second", cache, **later)
    assert len(passes) == computed > 0
    assert_equal(shared, run("alone", **later))


@pytest.mark.parametrize("change", [{"objective": "ordinal"}, {"head_learning_rate": 0.02, "dropout": 0.25}])
def test_setting_of_the_head_shares_features(tmp_path, run, passes, change):
    cache = FileCache(tmp_path / "shared")
    run("first", cache)
    computed = len(passes)
    shared = run("second", cache, **change)
    assert len(passes) == computed
    assert_equal(shared, run("alone", **change))


@pytest.mark.parametrize("change", [{"augment": {"flip_horizontal": False}}, {"normalisation": "per_image"}])
def test_setting_of_the_features_shares_nothing(tmp_path, run, passes, change):
    cache = FileCache(tmp_path / "shared")
    run("first", cache)
    computed = len(passes)
    run("second", cache, **change)
    assert len(passes) == 2 * computed


def test_more_head_epochs_share_the_views(tmp_path, run, passes):
    cache = FileCache(tmp_path / "shared")
    run("first", cache)
    computed = len(passes)
    shared = run("second", cache, head_epochs=4)
    assert len(passes) == computed + 1
    assert_equal(shared, run("alone", head_epochs=4))


def test_damaged_step_is_computed_again(tmp_path, run, passes):
    cache = FileCache(tmp_path / "shared")
    run("first", cache)
    computed = len(passes)
    for path in cache.folder.glob("*/*.*"):
        if path.suffix != ".json":
            content = path.read_bytes()
            path.unlink()
            path.write_bytes(content[:-1])
    shared = run("second", cache, epochs=1)
    assert len(passes) == 2 * computed
    assert_equal(shared, run("alone", epochs=1))
