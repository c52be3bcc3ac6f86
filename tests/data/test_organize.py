"""The organised tree: what lies where, in each of the three ways to put it there, and what is refused."""

import os
import tempfile
from pathlib import Path

import pytest
from PIL import Image

from retinaflow.data.organize import INDEX_COLUMNS, organize
from retinaflow.data.split import SPLIT_COLUMNS
from retinaflow.errors import RetinaflowError
from retinaflow.storage.tables import read_table, write_table

CLASSES = ["class0", "class1", "class2", "class3", "class4"]
NAMES = ["1_left.jpeg", "a b.jpeg", "it's.jpeg", 'say "x".JPG', "ü眼.png", "-rf.jpeg", "two\nlines.jpeg", "a.v2.jpeg"]
MODES = ["symlink", "hardlink", "copy"]


@pytest.fixture
def photographs(tmp_path: Path) -> Path:
    folder = tmp_path / "resized train 15"
    folder.mkdir()
    for number, name in enumerate(NAMES):
        Image.new("RGB", (12, 10), (10 * number, 0, 0)).save(folder / name, "png")
        os.utime(folder / name, (1000, 1000))
    return folder


def table_of(photographs: Path, levels: list[int], problem: str | None = None) -> Path:
    """A table of the photographs with these levels; with ``problem``, which the last one has, it is an inventory."""
    columns = SPLIT_COLUMNS if problem is None else (*SPLIT_COLUMNS, "problem")
    rows = []
    for name, level in zip(NAMES, levels, strict=False):
        size = (photographs / name).stat().st_size
        values = (name.rpartition(".")[0], photographs / name, level, name[0], "left", size, 12, 10, f"d{level}", "")
        rows.append(dict(zip(columns, map(str, values), strict=False)))
    if problem is not None:
        rows[-1]["problem"] = problem
    write_table(photographs.parent / "table.csv", columns, rows)
    return photographs.parent / "table.csv"


def snapshot(folder: Path) -> dict[str, tuple[bytes, int, int]]:
    return {
        file.name: (file.read_bytes(), file.lstat().st_mtime_ns, file.lstat().st_mode)
        for file in sorted(folder.iterdir())
    }


@pytest.mark.parametrize("mode", MODES)
def test_each_photograph_lies_in_the_folder_of_its_class(tmp_path: Path, photographs: Path, mode: str) -> None:
    before = snapshot(photographs)
    levels = [0, 1, 2, 4, 4, 0, 1, 0]
    tree, index = tmp_path / "tree", tmp_path / "tree" / "index.csv"
    organize(table_of(photographs, levels), CLASSES, mode, tree, index)
    assert sorted(os.listdir(tree)) == [*CLASSES, "index.csv"]
    assert os.listdir(tree / "class3") == []
    for name, level in zip(NAMES, levels, strict=True):
        placed = tree / f"class{level}" / name
        assert placed.read_bytes() == (photographs / name).read_bytes()
        assert placed.is_symlink() == (mode == "symlink")
        assert placed.samefile(photographs / name) == (mode != "copy")
        assert placed.stat().st_mtime == 1000
    assert sum(len(files) for _, _, files in os.walk(tree)) == len(NAMES) + 1
    assert snapshot(photographs) == before

    rows = read_table(index, INDEX_COLUMNS)
    assert [(row["filename"], row["grade_name"]) for row in rows] == [
        (name, f"class{level}") for name, level in zip(NAMES, levels, strict=True)
    ]
    assert rows[1] == {
        "image": "a b",
        "filename": "a b.jpeg",
        "grade_name": "class1",
        "grade": "1",
        "patient": "a",
        "eye": "left",
        "width": "12",
        "height": "10",
        "bytes": str((photographs / "a b.jpeg").stat().st_size),
        "digest": "d1",
    }


@pytest.mark.parametrize("mode", MODES)
def test_organising_again_leaves_no_trace_of_before(tmp_path: Path, photographs: Path, mode: str) -> None:
    before = snapshot(photographs)
    tree, index = tmp_path / "tree", tmp_path / "index.csv"
    organize(table_of(photographs, [0] * 8), CLASSES, mode, tree, index)
    organize(table_of(photographs, [1, 1]), CLASSES, mode, tree, index)
    assert os.listdir(tree / "class0") == []
    assert sorted(os.listdir(tree / "class1")) == sorted(NAMES[:2])
    assert snapshot(photographs) == before


def test_unusable_rows_of_an_inventory_are_passed_over(tmp_path: Path, photographs: Path) -> None:
    organize(
        table_of(photographs, [0, 1, 2], "unreadable"), CLASSES, "symlink", tmp_path / "tree", tmp_path / "index.csv"
    )
    assert [row["filename"] for row in read_table(tmp_path / "index.csv")] == NAMES[:2]
    assert os.listdir(tmp_path / "tree" / "class2") == []


def test_links_are_relative_and_right_where_tree_and_photographs_are_reached_through_links(
    tmp_path: Path, photographs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "disk/deep/er").mkdir(parents=True)
    (tmp_path / "results").symlink_to("disk/deep/er")
    (tmp_path / "way").symlink_to(photographs)
    monkeypatch.chdir(tmp_path)
    table_of(Path("way"), [3])
    organize(Path("table.csv"), CLASSES, "symlink", Path("results/tree"), Path("results/tree/index.csv"))
    link = tmp_path / "disk/deep/er/tree/class3" / NAMES[0]
    assert link.samefile(photographs / NAMES[0])
    assert not link.readlink().is_absolute()
    # What the links are relative for: all of it may move together.
    moved = tmp_path.with_name(f"{tmp_path.name}-moved")
    tmp_path.rename(moved)
    try:
        assert (moved / "disk/deep/er/tree/class3" / NAMES[0]).is_file()
    finally:
        moved.rename(tmp_path)


@pytest.mark.parametrize("mode", MODES)
def test_photograph_that_is_itself_a_link(tmp_path: Path, photographs: Path, mode: str) -> None:
    original = tmp_path / "original.png"
    (photographs / NAMES[0]).rename(original)
    (photographs / NAMES[0]).symlink_to("../original.png")
    organize(table_of(photographs, [2]), CLASSES, mode, tmp_path / "tree", tmp_path / "index.csv")
    placed = tmp_path / "tree/class2" / NAMES[0]
    assert placed.read_bytes() == original.read_bytes()
    assert placed.is_symlink() == (mode == "symlink")


def test_hard_link_across_file_systems_is_an_error_that_offers_the_others(tmp_path: Path, photographs: Path) -> None:
    memory = Path("/dev/shm")  # noqa: S108 - another file system is the point
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no second file system at /dev/shm")
    with tempfile.TemporaryDirectory(dir=memory) as other:
        with pytest.raises(RetinaflowError, match=r"1_left\.jpeg.*cross-device.*symlink or copy"):
            organize(table_of(photographs, [0]), CLASSES, "hardlink", Path(other) / "tree", Path(other) / "index.csv")
        assert os.listdir(other) == ["tree"]


def test_missing_photograph_is_an_error_before_anything_is_emptied(tmp_path: Path, photographs: Path) -> None:
    tree, index = tmp_path / "tree", tmp_path / "index.csv"
    table = table_of(photographs, [0, 1])
    organize(table, CLASSES, "copy", tree, index)
    (photographs / NAMES[1]).unlink()
    with pytest.raises(RetinaflowError, match=r"a b\.jpeg' is not there any more"):
        organize(table, CLASSES, "copy", tree, index)
    assert (tree / "class0" / NAMES[0]).is_file()


def test_photographs_inside_the_tree_are_never_emptied_away(tmp_path: Path, photographs: Path) -> None:
    (tmp_path / "tree").mkdir()
    photographs.rename(tmp_path / "tree" / "class0")
    with pytest.raises(RetinaflowError, match=r"lies inside .*tree"):
        organize(
            table_of(tmp_path / "tree" / "class0", [0]), CLASSES, "symlink", tmp_path / "tree", tmp_path / "index.csv"
        )
    assert sorted(os.listdir(tmp_path / "tree" / "class0")) == sorted(NAMES)


def test_folder_of_no_class_in_the_tree_is_an_error(tmp_path: Path, photographs: Path) -> None:
    (tmp_path / "tree" / "old").mkdir(parents=True)
    with pytest.raises(RetinaflowError, match="holds the folder 'old', which is none of the classes"):
        organize(table_of(photographs, [0]), CLASSES, "symlink", tmp_path / "tree", tmp_path / "index.csv")


@pytest.mark.parametrize("name", ["..", "a/b", ""])
def test_class_that_cannot_be_a_folder_is_an_error(tmp_path: Path, photographs: Path, name: str) -> None:
    with pytest.raises(RetinaflowError, match="cannot be the name of a folder"):
        organize(table_of(photographs, [0]), [*CLASSES, name], "copy", tmp_path / "tree", tmp_path / "index.csv")


def test_keras_reads_the_tree(tmp_path: Path, photographs: Path) -> None:
    keras = pytest.importorskip("keras")
    tree = tmp_path / "tree"
    levels = [0, 1, 2, 4, 4, 0, 1, 0]
    organize(table_of(photographs, levels), CLASSES, "symlink", tree, tree / "index.csv")
    dataset = keras.utils.image_dataset_from_directory(tree, image_size=(32, 32), shuffle=False, batch_size=None)
    assert dataset.class_names == CLASSES
    assert sorted(int(label) for _, label in dataset) == sorted(levels)
    assert {Path(path).name for path in dataset.file_paths} == set(NAMES)
