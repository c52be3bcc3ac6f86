"""Grade folders: place of each image in all three modes, and errors."""

import os
import tempfile
from pathlib import Path

import pytest
from PIL import Image

from retinaflow.data.organize import INDEX_COLUMNS, organize
from retinaflow.data.split import SPLIT_COLUMNS
from retinaflow.errors import RetinaflowError
from retinaflow.storage.tables import read_table, write_table

GRADE_NAMES = ["class0", "class1", "class2", "class3", "class4"]
NAMES = ["1_left.jpeg", "a b.jpeg", "it's.jpeg", 'say "x".JPG', "ü眼.png", "-rf.jpeg", "two\nlines.jpeg", "a.v2.jpeg"]
MODES = ["symlink", "hardlink", "copy"]


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "resized train 15"
    folder.mkdir()
    for number, name in enumerate(NAMES):
        Image.new("RGB", (12, 10), (10 * number, 0, 0)).save(folder / name, "png")
        os.utime(folder / name, (1000, 1000))
    return folder


def table_of(images: Path, grades: list[int], problem: str | None = None) -> Path:
    """A table of images with these grades. With a ``problem`` of the last one, it is an inventory."""
    columns = SPLIT_COLUMNS if problem is None else (*SPLIT_COLUMNS, "problem")
    rows = []
    for name, grade in zip(NAMES, grades, strict=False):
        size = (images / name).stat().st_size
        values = (name.rpartition(".")[0], images / name, grade, name[0], "left", size, 12, 10, f"d{grade}", "")
        rows.append(dict(zip(columns, map(str, values), strict=False)))
    if problem is not None:
        rows[-1]["problem"] = problem
    write_table(images.parent / "table.csv", columns, rows)
    return images.parent / "table.csv"


def snapshot(folder: Path) -> dict[str, tuple[bytes, int, int]]:
    return {
        file.name: (file.read_bytes(), file.lstat().st_mtime_ns, file.lstat().st_mode)
        for file in sorted(folder.iterdir())
    }


@pytest.mark.parametrize("mode", MODES)
def test_each_image_is_in_the_folder_of_its_grade(tmp_path: Path, images: Path, mode: str) -> None:
    before = snapshot(images)
    grades = [0, 1, 2, 4, 4, 0, 1, 0]
    tree, index = tmp_path / "tree", tmp_path / "tree" / "index.csv"
    organize(table_of(images, grades), GRADE_NAMES, mode=mode, tree=tree, index=index)
    assert sorted(os.listdir(tree)) == [".index.csv.digest", *GRADE_NAMES, "index.csv"]
    assert os.listdir(tree / "class3") == []
    for name, grade in zip(NAMES, grades, strict=True):
        placed = tree / f"class{grade}" / name
        assert placed.read_bytes() == (images / name).read_bytes()
        assert placed.is_symlink() == (mode == "symlink")
        assert placed.samefile(images / name) == (mode != "copy")
        assert placed.stat().st_mtime == 1000
    assert sum(len(files) for _, _, files in os.walk(tree)) == len(NAMES) + 2
    assert snapshot(images) == before

    rows = read_table(index, INDEX_COLUMNS)
    assert [(row["filename"], row["grade_name"]) for row in rows] == [
        (name, f"class{grade}") for name, grade in zip(NAMES, grades, strict=True)
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
        "bytes": str((images / "a b.jpeg").stat().st_size),
        "digest": "d1",
    }


@pytest.mark.parametrize("mode", MODES)
def test_organizing_again_replaces_all_images(tmp_path: Path, images: Path, mode: str) -> None:
    before = snapshot(images)
    tree, index = tmp_path / "tree", tmp_path / "index.csv"
    organize(table_of(images, [0] * 8), GRADE_NAMES, mode=mode, tree=tree, index=index)
    organize(table_of(images, [1, 1]), GRADE_NAMES, mode=mode, tree=tree, index=index)
    assert os.listdir(tree / "class0") == []
    assert sorted(os.listdir(tree / "class1")) == sorted(NAMES[:2])
    assert snapshot(images) == before


def test_unusable_rows_of_an_inventory_are_ignored(tmp_path: Path, images: Path) -> None:
    organize(
        table_of(images, [0, 1, 2], "unreadable"),
        GRADE_NAMES,
        mode="symlink",
        tree=tmp_path / "tree",
        index=tmp_path / "index.csv",
    )
    assert [row["filename"] for row in read_table(tmp_path / "index.csv")] == NAMES[:2]
    assert os.listdir(tmp_path / "tree" / "class2") == []


def test_relative_links_are_right_below_linked_folders(
    tmp_path: Path, images: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "disk/deep/er").mkdir(parents=True)
    (tmp_path / "results").symlink_to("disk/deep/er")
    (tmp_path / "way").symlink_to(images)
    monkeypatch.chdir(tmp_path)
    table_of(Path("way"), [3])
    organize(
        Path("table.csv"), GRADE_NAMES, mode="symlink", tree=Path("results/tree"), index=Path("results/tree/index.csv")
    )
    link = tmp_path / "disk/deep/er/tree/class3" / NAMES[0]
    assert link.samefile(images / NAMES[0])
    assert not link.readlink().is_absolute()
    # Images and tree can move together.
    moved = tmp_path.with_name(f"{tmp_path.name}-moved")
    tmp_path.rename(moved)
    try:
        assert (moved / "disk/deep/er/tree/class3" / NAMES[0]).is_file()
    finally:
        moved.rename(tmp_path)


@pytest.mark.parametrize("mode", MODES)
def test_image_may_be_a_link(tmp_path: Path, images: Path, mode: str) -> None:
    original = tmp_path / "original.png"
    (images / NAMES[0]).rename(original)
    (images / NAMES[0]).symlink_to("../original.png")
    organize(table_of(images, [2]), GRADE_NAMES, mode=mode, tree=tmp_path / "tree", index=tmp_path / "index.csv")
    placed = tmp_path / "tree/class2" / NAMES[0]
    assert placed.read_bytes() == original.read_bytes()
    assert placed.is_symlink() == (mode == "symlink")


def test_hard_link_to_another_file_system_is_an_error(tmp_path: Path, images: Path) -> None:
    memory = Path("/dev/shm")  # noqa: S108 - another file system
    if not memory.is_dir() or memory.stat().st_dev == tmp_path.stat().st_dev:
        pytest.skip("no second file system at /dev/shm")
    with tempfile.TemporaryDirectory(dir=memory) as other:
        with pytest.raises(RetinaflowError, match=r"1_left\.jpeg.*cross-device.*symlink or copy"):
            organize(
                table_of(images, [0]),
                GRADE_NAMES,
                mode="hardlink",
                tree=Path(other) / "tree",
                index=Path(other) / "index.csv",
            )
        assert os.listdir(other) == ["tree"]


def test_missing_image_is_an_error_before_folders_are_emptied(tmp_path: Path, images: Path) -> None:
    tree, index = tmp_path / "tree", tmp_path / "index.csv"
    table = table_of(images, [0, 1])
    organize(table, GRADE_NAMES, mode="copy", tree=tree, index=index)
    (images / NAMES[1]).unlink()
    with pytest.raises(RetinaflowError, match=r"a b\.jpeg' is missing"):
        organize(table, GRADE_NAMES, mode="copy", tree=tree, index=index)
    assert (tree / "class0" / NAMES[0]).is_file()


def test_images_inside_the_tree_are_never_deleted(tmp_path: Path, images: Path) -> None:
    (tmp_path / "tree").mkdir()
    images.rename(tmp_path / "tree" / "class0")
    with pytest.raises(RetinaflowError, match=r"lies inside .*tree"):
        organize(
            table_of(tmp_path / "tree" / "class0", [0]),
            GRADE_NAMES,
            mode="symlink",
            tree=tmp_path / "tree",
            index=tmp_path / "index.csv",
        )
    assert sorted(os.listdir(tmp_path / "tree" / "class0")) == sorted(NAMES)


def test_unknown_folder_in_the_tree_is_an_error(tmp_path: Path, images: Path) -> None:
    (tmp_path / "tree" / "old").mkdir(parents=True)
    with pytest.raises(RetinaflowError, match="holds the folder 'old', which is none of the grades"):
        organize(
            table_of(images, [0]), GRADE_NAMES, mode="symlink", tree=tmp_path / "tree", index=tmp_path / "index.csv"
        )


@pytest.mark.parametrize("name", ["..", "a/b", ""])
def test_grade_name_that_cannot_be_a_folder_is_an_error(tmp_path: Path, images: Path, name: str) -> None:
    with pytest.raises(RetinaflowError, match="cannot be the name of a folder"):
        organize(
            table_of(images, [0]),
            [*GRADE_NAMES, name],
            mode="copy",
            tree=tmp_path / "tree",
            index=tmp_path / "index.csv",
        )


def test_keras_reads_the_tree(tmp_path: Path, images: Path) -> None:
    keras = pytest.importorskip("keras")
    tree = tmp_path / "tree"
    grades = [0, 1, 2, 4, 4, 0, 1, 0]
    organize(table_of(images, grades), GRADE_NAMES, mode="symlink", tree=tree, index=tree / "index.csv")
    data_set = keras.utils.image_dataset_from_directory(tree, image_size=(32, 32), shuffle=False, batch_size=None)
    assert data_set.class_names == GRADE_NAMES
    assert sorted(int(label) for _, label in data_set) == sorted(grades)
    assert {Path(path).name for path in data_set.file_paths} == set(NAMES)


def test_images_of_joined_sets_have_the_set_in_their_file_name(images: Path, tmp_path: Path) -> None:
    table = table_of(images, [0, 0])
    rows = [{**row, "image": f"set{number}/same"} for number, row in enumerate(read_table(table))]
    write_table(table, SPLIT_COLUMNS, rows)
    tree = tmp_path / "organized"
    organize(table, GRADE_NAMES, mode="copy", tree=tree, index=tree / "index.csv")
    index = read_table(tree / "index.csv")
    assert [row["image"] for row in index] == ["set0/same", "set1/same"]
    assert [row["filename"] for row in index] == ["set0@1_left.jpeg", "set1@a b.jpeg"]
    assert all((tree / "class0" / row["filename"]).is_file() for row in index)


def test_index_has_the_subgroups(images: Path, tmp_path: Path) -> None:
    table = table_of(images, [0, 1])
    rows = [{**row, "subgroup_site": site} for row, site in zip(read_table(table), ("north", ""), strict=True)]
    write_table(table, [*SPLIT_COLUMNS, "subgroup_site"], rows)
    organize(table, GRADE_NAMES, mode="symlink", tree=tmp_path / "tree", index=tmp_path / "index.csv")
    assert [row["subgroup_site"] for row in read_table(tmp_path / "index.csv")] == ["north", ""]
