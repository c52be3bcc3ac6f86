"""Folder tree of a split: links to the images or copies, in one folder for each grade, and an index beside them."""

import os
import shutil
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import pandas as pd

from retinaflow.data.frames import write_frame
from retinaflow.data.inventory import read_usable, subgroup_columns
from retinaflow.errors import RetinaflowError
from retinaflow.storage.files import whole_file

INDEX_COLUMNS = ("image", "filename", "grade_name", "grade", "patient", "eye", "width", "height", "bytes", "digest")
TABLE_COLUMNS = ("path", *(name for name in INDEX_COLUMNS if name not in ("filename", "grade_name")))


def organize(table: Path, grade_names: Sequence[str], *, mode: str, tree: Path, index: Path) -> None:
    """Place the usable images of a table in the folders ``tree``/grade name.

    The folders are emptied first. Each grade has a folder, even if it stays empty. The images themselves never change.

    Args:
        table: Inventory, or one side of a split.
        grade_names: Names of the grades, in their order.
        mode: ``symlink`` (relative links), ``hardlink`` or ``copy``.
        tree: Folder of the grade folders.
        index: Output table (``INDEX_COLUMNS`` and subgroups), a row for each image in the order of ``table``. It is
            written last.

    Raises:
        RetinaflowError: An image is gone, lies inside ``tree`` or cannot be hard-linked. A grade name cannot be the
            name of a folder, or ``tree`` has a folder of another name.
    """
    images = read_usable(table, TABLE_COLUMNS)
    # Resolved, because `..` in a relative link leads elsewhere if the path to the link goes through another link.
    tree = tree.resolve()
    folders = _grade_folders(tree, grade_names)
    sources = _sources(table, images["path"], tree)
    for folder in folders:
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
    filenames = [_filename(image, source) for image, source in zip(images["image"], sources, strict=True)]
    for source, filename, grade in zip(sources, filenames, images["grade"], strict=True):
        PLACE[mode](source, folders[grade] / filename)
    for column, values in (
        ("filename", filenames),
        ("grade_name", [grade_names[grade] for grade in images["grade"]]),
    ):
        images[column] = pd.Series(values, images.index, dtype=object)
    write_frame(index, images[[*INDEX_COLUMNS, *subgroup_columns(images)]])


# Snakemake leaves this file in each folder that a job made, such as the folder of a grade that has since been renamed.
MADE_BY_WORKFLOW = ".snakemake_timestamp"


def _grade_folders(tree: Path, grade_names: Sequence[str]) -> list[Path]:
    for name in grade_names:
        if name in ("", ".", "..") or "/" in name or "\0" in name:
            raise RetinaflowError(
                f"data.grade_names: {name!r} cannot be the name of a folder. Give the grade another name."
            )
    tree.mkdir(parents=True, exist_ok=True)
    for entry in sorted(tree.iterdir()):
        if not entry.is_dir() or entry.name in grade_names or entry.name.startswith("."):
            continue
        if (entry / MADE_BY_WORKFLOW).exists():
            shutil.rmtree(entry)
        else:
            raise RetinaflowError(
                f"{tree}: holds the folder {entry.name!r}, which is none of the grades "
                f"{', '.join(map(repr, grade_names))}. Programs that read the tree would use it as one. Delete or move "
                "it, and run again."
            )
    return [tree / name for name in grade_names]


def _filename(image: str, source: Path) -> str:
    """File name of an image in its folder. Of joined data sets, that of the data set comes first: ``eyepacs@a.png``."""
    data_set = image.rpartition("/")[0].replace("/", "@")
    return f"{data_set}@{source.name}" if data_set else source.name


def _sources(table: Path, paths: Iterable[str], tree: Path) -> list[Path]:
    """Return the path of each image, with its folder resolved and its own name."""
    real: dict[Path, Path] = {}
    sources = []
    for path in map(Path, paths):
        if not path.is_file():
            raise RetinaflowError(
                f"{table}: image {str(path)!r} is missing. Restore it, or delete the inventory and run again."
            )
        if path.parent not in real:
            real[path.parent] = path.parent.resolve()
        if real[path.parent].is_relative_to(tree):
            raise RetinaflowError(
                f"{table}: image {str(path)!r} lies inside {tree}, whose folders are emptied. Move the images, or set "
                "`results` to another folder."
            )
        sources.append(real[path.parent] / path.name)
    return sources


def _symlink(source: Path, target: Path) -> None:
    target.symlink_to(os.path.relpath(source, target.parent))


def _hardlink(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source.resolve())
    except OSError as error:
        raise RetinaflowError(
            f"{target}: cannot be a hard link to {str(source)!r} ({error.strerror}). Both must be on one file system "
            "that supports hard links. Set organize.mode to symlink or copy."
        ) from error


def _copy(source: Path, target: Path) -> None:
    with whole_file(target) as part:
        shutil.copy2(source, part)


PLACE: dict[str, Callable[[Path, Path], None]] = {"symlink": _symlink, "hardlink": _hardlink, "copy": _copy}
