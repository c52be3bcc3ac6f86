"""Sources of new images: a folder, an archive or a list of them. Imports nothing heavy."""

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from retinaflow.data.labels import read_paths
from retinaflow.errors import RetinaflowError
from retinaflow.storage import archives
from retinaflow.storage.files import digest

LISTS = (".txt", ".csv")
# New images in memory at a time.
PREDICTED = 256
EXPECTED_SOURCE = (
    "a folder of images, a .zip archive of one, or a list of them: a .txt file with one path a line, or a .csv "
    "table with the column 'image'"
)


def folder_name(source: str) -> str:
    """Return a name for the results of ``source``, with its last component and a digest of its absolute path."""
    path = Path(os.path.abspath(source))  # noqa: PTH100 - which does not follow links
    step = re.sub(r"[^A-Za-z0-9._-]+", "-", path.name).strip("-.")[:40]
    return f"{step or 'images'}-{digest(os.fsencode(path))[:8]}"


def source_states(source: str) -> list[str]:
    """Return a text for each file of ``source``, which differs after a change of the file, as ``archives.states``.

    Raises:
        RetinaflowError: ``source`` is no folder, archive or list, or cannot be read.
    """
    _check(source)
    if not _is_list(source):
        return archives.states(source)
    texts = []
    for name, path in _listed(source).items():
        try:
            status = Path(path).stat()
            texts.append(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\0")
        except OSError:
            texts.append(f"{name}\0")
    return texts


def is_source(path: str) -> bool:
    """Whether a path is a folder, an archive or a list of images."""
    return os.path.isdir(path) or archives.split_archive(path) is not None or _is_list(path)  # noqa: PTH112


@contextmanager
def files_of(source: str, scratch: Path, max_bytes: int) -> Iterator[dict[str, str]]:
    """Yield the path of each file of ``source`` by its name, which is relative to a folder, or as in a list.

    Args:
        source: Folder, archive or list.
        scratch: Folder to unpack an archive to. It is removed afterwards.
        max_bytes: Largest size of an unpacked archive.

    Raises:
        RetinaflowError: As ``source_states`` and ``archives.unpack``.
    """
    _check(source)
    if _is_list(source):
        yield _listed(source)
    elif archives.split_archive(source):
        try:
            archives.unpack(source, scratch, max_bytes)
            yield _below(scratch)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
    else:
        yield _below(Path(source))


def _check(source: str) -> None:
    # os.path reports a path that is too long or not permitted as missing. pathlib raises an exception.
    located = archives.split_archive(source)
    if not (os.path.isfile(located[0]) if located else _is_list(source) or os.path.isdir(source)):  # noqa: PTH112, PTH113
        raise RetinaflowError(f"images: there is no {source!r}; expected {EXPECTED_SOURCE}. Correct the path.")


def _is_list(source: str) -> bool:
    return source.lower().endswith(LISTS) and os.path.isfile(source)  # noqa: PTH113


def _listed(source: str) -> dict[str, str]:
    return {name: str(Path(source).parent / name) for name in read_paths(source)}


def _below(folder: Path) -> dict[str, str]:
    return {name: entry.path for name, entry in archives.files_below(str(folder))}
