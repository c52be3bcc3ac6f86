"""Lay photographs out in one folder a class, as links or copies, with an index beside them."""

import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from retinaflow.data.inventory import usable
from retinaflow.errors import RetinaflowError
from retinaflow.storage.files import whole_file
from retinaflow.storage.tables import Row, read_table, write_table

INDEX_COLUMNS = ("image", "filename", "grade_name", "grade", "patient", "eye", "width", "height", "bytes", "digest")


def organize(table: Path, classes: Sequence[str], mode: str, tree: Path, index: Path) -> None:
    """Put the usable photographs of ``table`` (an inventory or part of a split) under ``tree``/class/.

    ``mode`` is ``symlink`` (relative links), ``hardlink`` or ``copy``. Class folders are emptied first, and made even
    if they stay empty; the photographs themselves are never changed. The table ``index`` (``INDEX_COLUMNS``, one row a
    photograph, in the order of ``table``) is written last.

    Raises ``RetinaflowError`` if a photograph is gone, lies inside ``tree`` or cannot be hard-linked, a class cannot be
    the name of a folder, or ``tree`` holds a folder that is none of the classes.
    """
    rows = usable(
        read_table(table, ("path", *(name for name in INDEX_COLUMNS if name not in ("filename", "grade_name"))))
    )
    # Real paths throughout: `..` in a relative link leads elsewhere where the way to the link went through another one.
    tree = tree.resolve()
    folders = _class_folders(tree, classes)
    sources = _sources(table, rows, tree)
    for folder in folders:
        if folder.exists():
            shutil.rmtree(folder)
        folder.mkdir(parents=True)
    entries = []
    for row, source in zip(rows, sources, strict=True):
        level = int(row["grade"])
        PLACE[mode](source, folders[level] / source.name)
        entries.append({**row, "filename": source.name, "grade_name": classes[level]})
    write_table(index, INDEX_COLUMNS, ({column: entry[column] for column in INDEX_COLUMNS} for entry in entries))


# Snakemake leaves it in each folder that a job of this workflow made: one of a class that has since been renamed.
MADE_BY_US = ".snakemake_timestamp"


def _class_folders(tree: Path, classes: Sequence[str]) -> list[Path]:
    for name in classes:
        if name in ("", ".", "..") or "/" in name or "\0" in name:
            raise RetinaflowError(f"classes: {name!r} cannot be the name of a folder. Give the class another name.")
    tree.mkdir(parents=True, exist_ok=True)
    for entry in sorted(tree.iterdir()):
        if not entry.is_dir() or entry.name in classes or entry.name.startswith("."):
            continue
        if (entry / MADE_BY_US).exists():
            shutil.rmtree(entry)
        else:
            raise RetinaflowError(
                f"{tree}: holds the folder {entry.name!r}, which is none of the classes "
                f"{', '.join(map(repr, classes))} and would be taken for one by whatever reads the tree. "
                "Delete or move it, and run again."
            )
    return [tree / name for name in classes]


def _sources(table: Path, rows: Sequence[Row], tree: Path) -> list[Path]:
    """Photographs of ``rows``, in their real folders but under the names they have."""
    real: dict[Path, Path] = {}
    sources = []
    for path in (Path(row["path"]) for row in rows):
        if not path.is_file():
            raise RetinaflowError(
                f"{table}: photograph {str(path)!r} is not there any more. Put it back, or take the inventory again."
            )
        if path.parent not in real:
            real[path.parent] = path.parent.resolve()
        if real[path.parent].is_relative_to(tree):
            raise RetinaflowError(
                f"{table}: photograph {str(path)!r} lies inside {tree}, whose folders are emptied. Expected "
                "photographs elsewhere: move them, or have the results written to another folder."
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
            f"{target}: cannot be a hard link to {str(source)!r} ({error.strerror}); both have to be on one file "
            "system that knows hard links. Choose symlink or copy instead."
        ) from error


def _copy(source: Path, target: Path) -> None:
    with whole_file(target) as part:
        shutil.copy2(source, part)


PLACE: dict[str, Callable[[Path, Path], None]] = {"symlink": _symlink, "hardlink": _hardlink, "copy": _copy}
