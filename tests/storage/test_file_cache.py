"""Cache of files: complete or absent, also with several processes, a full disk and damage."""

import os
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

import pytest

from retinaflow.storage import file_cache
from retinaflow.storage.file_cache import FileCache, link


@pytest.fixture
def files(tmp_path):
    made = {name: tmp_path / f"made-{name}" for name in ("model", "record")}
    for name, path in made.items():
        path.write_text(f"content of {name}")
    return made


@pytest.fixture
def cache(tmp_path):
    return FileCache(tmp_path / "cache")


def test_kept_files_are_found(cache, files):
    assert cache.find("key") is None
    cache.keep("key", files, about=[{"epoch": 1}])
    found = cache.find("key")
    assert {name: path.read_text() for name, path in found.files.items()} == {
        "model": "content of model",
        "record": "content of record",
    }
    assert found.about == [{"epoch": 1}]
    assert found.files["model"].samefile(files["model"])
    assert [path.name for path in cache.folder.iterdir()] == ["key"]


def test_files_are_copied_on_a_disk_without_links(cache, files, monkeypatch):
    def refuse(*_):
        raise OSError(1, "no links")

    monkeypatch.setattr(os, "link", refuse)
    cache.keep("key", files)
    found = cache.find("key").files["model"]
    assert found.read_text() == "content of model"
    assert not found.samefile(files["model"])


def test_link_never_writes_into_an_existing_file(tmp_path, files):
    other = tmp_path / "other"
    other.write_text("of another process")
    with pytest.raises(FileExistsError):
        link(files["model"], other)
    assert other.read_text() == "of another process"


def test_first_of_several_counts(cache, files, tmp_path):
    cache.keep("key", files)
    other = tmp_path / "other"
    other.write_text("other")
    cache.keep("key", {"model": other})
    assert cache.find("key").files["model"].read_text() == "content of model"


def keep_many(folder, path):
    for number in range(30):
        FileCache(Path(folder)).keep(str(number), {"model": Path(path)})


def test_several_processes_keep_the_same_keys(cache, tmp_path):
    contents = {}
    for name in "abc":
        path = tmp_path / name
        path.write_text(name * 1000)
        contents[path] = name * 1000
    with ProcessPoolExecutor(3, mp_context=get_context("spawn")) as pool:
        list(pool.map(keep_many, [str(cache.folder)] * 3, map(str, contents)))
    assert {path.name for path in cache.folder.iterdir()} == {str(number) for number in range(30)}
    for number in range(30):
        assert cache.find(str(number)).files["model"].read_text() in contents.values()
    assert {path: path.read_text() for path in contents} == contents


@pytest.mark.parametrize("damage", ["changed", "gone", "no list", "list gone"])
def test_damaged_files_are_removed(cache, files, damage):
    cache.keep("key", files)
    place = cache.folder / "key"
    (place / "content.json" if "list" in damage else place / "model").unlink()
    if damage == "changed":
        (place / "model").write_text("content of mode1")
    if damage == "no list":
        (place / "content.json").write_text("[]")
    assert cache.find("key") is None
    assert not place.exists()
    cache.keep("key", files)
    assert cache.find("key")


def test_full_disk_changes_nothing_else(cache, files, monkeypatch, caplog):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(file_cache, "link", full)
    cache.keep("key", files)
    assert cache.find("key") is None
    assert not list(cache.folder.iterdir())
    assert "No space left on device; it is not cached" in caplog.text


def test_missing_file_is_not_kept(cache, files):
    cache.keep("key", {**files, "history": files["model"].with_name("gone")})
    assert cache.find("key") is None
