"""Sources of new images: folders, archives and lists, and their state."""

import os
import zipfile
from pathlib import Path

import pytest

from retinaflow.data.sources import files_of, folder_name, source_states
from retinaflow.errors import RetinaflowError

LIMIT = 2**20


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Three files, one of them in a subfolder, below a folder with a blank in its name."""
    made = tmp_path / "new photos"
    for name in ("1_left.jpeg", "1_right.jpeg", "more/2_left.png"):
        (made / name).parent.mkdir(parents=True, exist_ok=True)
        (made / name).write_bytes(name.encode())
    return made


def content_of(source: Path) -> dict[str, str]:
    with files_of(str(source), source.parent / "scratch", LIMIT) as files:
        return {name: Path(path).read_text(encoding="utf-8") for name, path in files.items()}


NAMES = ("1_left.jpeg", "1_right.jpeg", "more/2_left.png")


def test_folder_is_searched_with_its_subfolders(folder):
    assert content_of(folder) == {name: name for name in NAMES}


def test_unpacked_archive_is_removed_again(folder, tmp_path):
    with zipfile.ZipFile(tmp_path / "new.zip", "w") as archive:
        for name in NAMES:
            archive.write(folder / name, f"inside/{name}")
    assert content_of(tmp_path / "new.zip") == {f"inside/{name}": name for name in NAMES}
    with files_of(str(tmp_path / "new.zip/inside/more"), tmp_path / "scratch", LIMIT) as files:
        assert list(files) == ["2_left.png"]
    assert not (tmp_path / "scratch").exists()
    with pytest.raises(ZeroDivisionError), files_of(str(tmp_path / "new.zip"), tmp_path / "scratch", LIMIT):
        _ = 1 / 0
    assert not (tmp_path / "scratch").exists()


def test_unsafe_or_too_large_archive_is_an_error(tmp_path):
    with zipfile.ZipFile(tmp_path / "new.zip", "w") as archive:
        archive.writestr("../1_left.jpeg", b"x")
    with pytest.raises(RetinaflowError, match="leads out of the archive's folder"):
        content_of(tmp_path / "new.zip")
    with zipfile.ZipFile(tmp_path / "large.zip", "w") as archive:
        archive.writestr("1_left.jpeg", bytes(LIMIT + 1))
    with pytest.raises(RetinaflowError, match="unpacks to more than"):
        content_of(tmp_path / "large.zip")
    assert {path.name for path in tmp_path.iterdir()} == {"new.zip", "large.zip"}


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("list.txt", "new photos/1_left.jpeg\n\n  {absolute}  \n"),
        ("list.txt", "\ufeffnew photos/1_left.jpeg\r\n{absolute}"),
        ("list.csv", "image\nnew photos/1_left.jpeg\n{absolute}\n"),
        ("LIST.CSV", "age;image\n70;new photos/1_left.jpeg\n80;{absolute}\n;\n"),
    ],
)
def test_list_is_relative_to_its_folder(folder, tmp_path, name, text):
    absolute = folder / "more/2_left.png"
    (tmp_path / name).write_text(text.format(absolute=absolute), encoding="utf-8", newline="")
    assert content_of(tmp_path / name) == {
        "new photos/1_left.jpeg": "1_left.jpeg",
        str(absolute): "more/2_left.png",
    }


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("list.csv", "photo\n1\n", "expected the columns 'image', each once; found 'photo'"),
        ("list.txt", "", "is empty"),
        ("list.txt", "1_left\0.jpeg", "NUL bytes"),
    ],
)
def test_bad_list_is_an_error(tmp_path, name, text, message):
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(RetinaflowError, match=message):
        content_of(tmp_path / name)
    with pytest.raises(RetinaflowError, match=message):
        source_states(str(tmp_path / name))


@pytest.mark.parametrize("name", ["nowhere", "nowhere.zip", "list.txt", "file.jpeg"])
def test_bad_source_is_an_error_that_names_good_ones(tmp_path, name):
    (tmp_path / "file.jpeg").write_bytes(b"x")
    with pytest.raises(RetinaflowError, match=rf"{name}'; expected a folder of images, a \.zip archive"):
        source_states(str(tmp_path / name))


def test_state_changes_with_a_file_and_not_with_a_touch(folder, tmp_path):
    (tmp_path / "list.txt").write_text("new photos/1_left.jpeg\nnew photos/absent.jpeg\n")
    sources = (str(folder), str(tmp_path / "list.txt"))
    before = [sorted(source_states(source)) for source in sources]
    assert list(map(len, before)) == [3, 2]
    os.utime(folder)
    os.utime(tmp_path / "list.txt")
    assert [sorted(source_states(source)) for source in sources] == before
    (folder / "1_left.jpeg").write_bytes(b"other")
    changed = [sorted(source_states(source)) for source in sources]
    assert all(old != new for old, new in zip(before, changed, strict=True))
    (folder / "absent.jpeg").write_bytes(b"there")
    assert sorted(source_states(sources[1])) != changed[1]


def test_sources_have_different_folder_names(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = [folder_name(name) for name in ("new photos", "more/new photos", "new-photos", "/", "{x}", "é" * 300)]
    assert len(set(names)) == len(names)
    assert names[0].startswith("new-photos-")
    assert folder_name("./new photos/") == folder_name(str(tmp_path / "new photos")) == names[0]
    assert all(name.isascii() and len(name) < 60 and not set(name) & set("{}/ ") for name in names)
