"""The cache of raw outputs and features: copied for the same network, images and settings, else computed."""

import os

import numpy as np
import pytest

from retinaflow.jobs.score_cache import (
    FEATURE_ROWS,
    FEATURE_VALUES,
    RAW_OUTPUTS,
    ScoreCache,
    ScoredFiles,
    network_of_entry,
)
from retinaflow.storage.file_cache import FileCache
from retinaflow.storage.integrity import damage, record_of
from retinaflow.storage.tables import read_table, write_table

PARAMETERS = {"code": {"scoring": "1"}, "tta_views": 1, "seed": 1, "backend": "tensorflow", "augment": None}
ROWS = [{"image": "1_left", "digest": "a", "checksum": "0000000a"}]


@pytest.fixture
def made(tmp_path):
    """A network, the files of two images, and their results."""
    write_table(tmp_path / "index.csv", ("image", "grade"), [{"image": "1_left", "grade": 1}])
    write_table(tmp_path / "0.csv", ("image", "digest", "checksum"), ROWS)
    (tmp_path / "0.npy").touch()
    (tmp_path / "model.keras").write_text("weights")
    write_table(tmp_path / RAW_OUTPUTS, ("image", "output_0"), [{"image": "1_left", "output_0": 0.5}])
    np.save(tmp_path / FEATURE_VALUES, np.zeros((1, 2), np.float16))
    write_table(tmp_path / FEATURE_ROWS, ("image", "digest"), [{"image": "1_left", "digest": "a"}])
    return tmp_path


@pytest.fixture
def files(made):
    return ScoredFiles([made / "index.csv"], [made / "0.npy"], [made / "0.csv"])


def cache_in(made, **changes):
    return ScoreCache(made / ".cache", made / "model.keras", {**PARAMETERS, **changes})


def keep(made, files, *names):
    cache = cache_in(made)
    cache.keep(cache.key(files), files, results={name: made / name for name in names}, rows=1)


def test_kept_table_is_copied_with_its_record(made, files):
    keep(made, files, RAW_OUTPUTS)
    target = made / "scores/validation/raw_outputs.csv"
    for _ in range(2):
        assert cache_in(made).take(files, {RAW_OUTPUTS: target})
        assert target.read_bytes() == (made / RAW_OUTPUTS).read_bytes()
        assert not target.samefile(made / RAW_OUTPUTS)
        assert record_of(target).read_bytes() == record_of(made / RAW_OUTPUTS).read_bytes()


@pytest.mark.parametrize(
    "change", [{"tta_views": 2}, {"seed": 2}, {"code": {"scoring": "2"}}, {"backend": "jax"}, {"augment": {"zoom": 1}}]
)
def test_other_settings_are_computed(made, files, change, monkeypatch):
    monkeypatch.setattr("importlib.metadata.version", lambda _: "1")
    keep(made, files, RAW_OUTPUTS)
    assert cache_in(made).has(files)
    assert not cache_in(made, **change).take(files, {RAW_OUTPUTS: made / "new.csv"})
    assert not (made / "new.csv").exists()


def change_weights(made):
    (made / "model.keras").write_text("other weights")


def change_label(made):
    write_table(made / "index.csv", ("image", "grade"), [{"image": "1_left", "grade": 2}])


def change_pixels(made):
    write_table(made / "0.csv", ("image", "digest", "checksum"), [{**ROWS[0], "checksum": "0000000b"}])


def drop_checksums(made):
    write_table(made / "0.csv", ("image", "digest"), [{"image": "1_left", "digest": "a"}])


@pytest.mark.parametrize("change", [change_weights, change_label, change_pixels, drop_checksums])
def test_other_network_or_images_are_computed(made, files, change):
    keep(made, files, RAW_OUTPUTS)
    change(made)
    assert not cache_in(made).take(files, {RAW_OUTPUTS: made / "new.csv"})


@pytest.mark.parametrize("change", [change_label, change_pixels])
def test_results_of_replaced_images_are_not_kept(made, files, change):
    cache = cache_in(made)
    key = cache.key(files)
    change(made)
    cache.keep(key, files, results={RAW_OUTPUTS: made / RAW_OUTPUTS}, rows=1)
    assert not cache.has(files)
    assert not cache.files.find(key)


def test_damaged_table_is_computed(made, files):
    cache = cache_in(made)
    keep(made, files, RAW_OUTPUTS)
    (made / ".cache" / cache.key(files) / RAW_OUTPUTS).write_text("image")
    assert not cache.take(files, {RAW_OUTPUTS: made / "new.csv"})
    assert not cache.has(files)


def test_features_are_moved_and_dated_now(made, files):
    content = (made / FEATURE_VALUES).read_bytes()
    os.utime(made / FEATURE_VALUES, (1, 1))
    keep(made, files, FEATURE_VALUES, FEATURE_ROWS)
    targets = {name: made / "scores" / name for name in (FEATURE_VALUES, FEATURE_ROWS)}
    assert cache_in(made).take(files, targets, move=True)
    assert targets[FEATURE_VALUES].read_bytes() == content
    assert targets[FEATURE_VALUES].stat().st_mtime > 1
    assert read_table(targets[FEATURE_ROWS])[0]["image"] == "1_left"
    assert not any(map(damage, targets.values()))
    assert not cache_in(made).has(files)


def test_features_that_another_job_has_moved_are_computed(made, files, monkeypatch):
    keep(made, files, FEATURE_VALUES, FEATURE_ROWS)
    found = FileCache.find

    def find(cache, key):
        entry = found(cache, key)
        entry.files[FEATURE_ROWS].unlink()
        return entry

    monkeypatch.setattr(FileCache, "find", find)
    targets = {name: made / "scores" / name for name in (FEATURE_VALUES, FEATURE_ROWS)}
    assert not cache_in(made).take(files, targets, move=True)
    assert not targets[FEATURE_ROWS].exists()


def test_entry_names_its_network(made, files):
    cache = cache_in(made)
    keep(made, files, RAW_OUTPUTS)
    assert network_of_entry(made / ".cache" / cache.key(files)) == cache.weights
    assert network_of_entry(made) is None
