"""The cache of trained networks: what is copied from it, and what is trained."""

import json
import os
import zlib

import numpy as np
import pytest

from retinaflow.storage.file_cache import FileCache
from retinaflow.storage.tables import read_table, write_table
from retinaflow.training import job as job_module
from retinaflow.training.job import train_job
from small import THREE, planted, small_job, typed


@pytest.fixture
def cache(tmp_path):
    return FileCache(tmp_path / ".cache")


@pytest.fixture
def first(tmp_path, few_parts, cache):
    """A network that was trained, as job."""
    job = small_job(tmp_path / "first", few_parts, typed(epochs=1), trained=cache)
    train_job(job)
    return job


@pytest.fixture
def trainings(monkeypatch):
    """Names of the networks that were trained after the first."""
    seen = []
    train = job_module.train
    monkeypatch.setattr(job_module, "train", lambda *given, **named: (seen.append(1), train(*given, **named))[1])
    return seen


def record(job):
    return json.loads(job.outputs.record.read_text())


def test_renamed_model_is_copied(tmp_path, few_parts, cache, first, trainings):
    job = small_job(tmp_path / "b", few_parts, typed(epochs=1), trained=cache, training_run="Renamed")
    train_job(job)
    assert not trainings
    assert job.outputs.model.read_bytes() == first.outputs.model.read_bytes()
    assert job.outputs.history.read_bytes() == first.outputs.history.read_bytes()
    assert record(job) == {**record(first), "training_run": "Renamed"}
    assert json.loads(job.outputs.grade_names.read_text()) == {name: grade for grade, name in enumerate(THREE)}


def test_copy_is_newer_than_its_source(tmp_path, few_parts, cache, first):
    """Snakemake compares times of outputs and inputs."""
    os.utime(first.outputs.model, (1, 1))
    job = small_job(tmp_path / "b", few_parts, typed(epochs=1), trained=cache)
    train_job(job)
    assert job.outputs.model.stat().st_mtime > 1
    assert first.outputs.model.stat().st_mtime == 1


@pytest.mark.usefixtures("first")
@pytest.mark.parametrize("change", [{"epochs": 2}, {"dropout": 0.25}])
def test_other_setting_is_trained(tmp_path, few_parts, cache, trainings, change):
    train_job(small_job(tmp_path / "b", few_parts, typed(**{"epochs": 1, **change}), trained=cache))
    assert trainings


@pytest.mark.usefixtures("first")
@pytest.mark.parametrize("field", [{"seed": 2}, {"code": "other"}])
def test_other_seed_or_code_is_trained(tmp_path, few_parts, cache, trainings, field):
    train_job(small_job(tmp_path / "b", few_parts, typed(epochs=1), trained=cache, **field))
    assert trainings


@pytest.mark.usefixtures("first")
def test_other_image_is_trained(tmp_path, few_parts, make_part, cache, trainings):
    pixels, grades = planted(6, seed=1)
    other = make_part("other", pixels, [*grades[:-1], 2], classes=THREE)
    train_job(small_job(tmp_path / "b", (few_parts[0], other), typed(epochs=1), trained=cache))
    assert trainings


def with_checksums(parts):
    """Add the checksum of each image to the tables of the shards, as preprocessing writes it."""
    for _, shards in parts:
        for pixels, rows in shards:
            table = [
                {**row, "checksum": f"{zlib.crc32(image.tobytes()):08x}"}
                for row, image in zip(read_table(rows), np.load(pixels), strict=True)
            ]
            write_table(rows, ("image", "digest", "checksum"), table)
    return parts


def test_renamed_grades_train_nothing(tmp_path, few_parts, cache, trainings):
    """New names of grades make the indices again, and then the shards from the same images."""
    train_job(small_job(tmp_path / "a", with_checksums(few_parts), typed(epochs=1), trained=cache))
    assert trainings == [1]
    names = ["none", "some", "much"]
    for indices, shards in few_parts:
        for index in indices:
            rows = [{**row, "grade_name": names[int(row["grade"])]} for row in read_table(index)]
            write_table(index, list(rows[0]), rows)
        for pixels, _ in shards:
            os.utime(pixels, (2, 2))
    job = small_job(tmp_path / "b", few_parts, typed(epochs=1), trained=cache, grade_names=names)
    train_job(job)
    assert trainings == [1]
    assert list(json.loads(job.outputs.grade_names.read_text())) == names
    assert record(job)["grade_names"] == names


def test_other_pixels_of_the_same_images_are_trained(tmp_path, few_parts, cache, trainings):
    train_job(small_job(tmp_path / "a", with_checksums(few_parts), typed(epochs=1), trained=cache))
    pixels, _ = few_parts[0][1][0]
    np.save(pixels, np.load(pixels) // 2)
    train_job(small_job(tmp_path / "b", with_checksums(few_parts), typed(epochs=1), trained=cache))
    assert len(trainings) == 2


@pytest.mark.parametrize("name", ["model.keras", "history.csv", "training_run.json", "content.json"])
def test_damaged_network_is_trained_again(tmp_path, few_parts, cache, first, trainings, name):
    (path,) = cache.folder.glob(f"*/{name}")
    content = path.read_bytes()
    path.unlink()  # the output of the first job is the same file
    path.write_bytes(content[:-9] + b"?" + content[-8:] if name != "content.json" else b"[")
    train_job(small_job(tmp_path / "b", few_parts, typed(epochs=1), trained=cache))
    assert trainings
    assert cache.find(record(first)["key"])


def test_incomplete_network_is_not_used(cache, first):
    (path,) = cache.folder.glob("*/content.json")
    path.unlink()
    assert cache.find(record(first)["key"]) is None


def test_cache_costs_no_space(cache, first):
    (path,) = cache.folder.glob("*/model.keras")
    assert path.samefile(first.outputs.model)
    assert len(read_table(path.parent / "history.csv")) == 1
