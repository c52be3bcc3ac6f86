"""Disks that fail: at a byte of a file, and at each step of Python code that writes."""

import errno
import os
import random
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from retinaflow.errors import RetinaflowError
from retinaflow.storage.disk_errors import disk_refusal

NUMBERS = (errno.ENOSPC, errno.EIO, errno.EROFS)
# Events of Python (docs.python.org/3/library/audit_events.html), and the place of the written path in their arguments.
WRITTEN = {"os.rename": 1, "os.mkdir": 0, "os.link": 1, "os.symlink": 1}
REMOVED = {"os.remove": 0, "os.rmdir": 0}


class _Disk:
    """The disk of the folder ``root``. Steps after the first ``steps`` fail by ``number``."""

    def __init__(self) -> None:
        self.root, self.steps, self.number, self.count = "", 0, 0, 0

    def step(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.root:
            return
        # Nothing can be removed from a disk that is read-only.
        places = WRITTEN | REMOVED if self.number == errno.EROFS else WRITTEN
        path = arguments[places[event]] if event in places else _opened(arguments) if event == "open" else None
        if isinstance(path, str | os.PathLike) and os.fspath(path).startswith(self.root):
            self.count += event not in REMOVED
            if self.count > self.steps:
                raise OSError(self.number, os.strerror(self.number), os.fspath(path))


def _opened(arguments: tuple[Any, ...]) -> Any:
    path, mode, flags = arguments
    return path if set(mode or "") & set("wax+") or flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) else None


_disk = _Disk()
_hooked: list[bool] = []


@contextmanager
def failing(root: Path, steps: int, number: int) -> Iterator[_Disk]:
    """Fail each step below ``root`` after the first ``steps``: opened files, moves and new folders."""
    if not _hooked:  # A hook cannot be removed.
        sys.addaudithook(_disk.step)
        _hooked.append(True)
    _disk.root, _disk.steps, _disk.number, _disk.count = str(root), steps, number, 0
    try:
        yield _disk
    finally:
        _disk.root = ""


@contextmanager
def full_at(size: int) -> Iterator[None]:
    """Fail each write beyond ``size`` bytes of a file, also within libraries."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def partial(folder: Path) -> list[str]:
    """Files and folders that are not complete."""
    return [path.name for path in folder.rglob(".part-*")]


def contents(folder: Path) -> dict[str, bytes]:
    """Content of each file below a folder."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def check_faults(write: Callable[[Path], object], folder: Path, most: int = 5) -> int:
    """Check a writer on disks that fail: a message with the reason, no partial file, the same files afterwards.

    Args:
        write: Writes files below the folder that it gets.
        folder: Empty folder.
        most: Number of steps and of sizes to fail at, drawn with a fixed seed.

    Returns:
        The number of faults.
    """
    rng = random.Random(1)  # noqa: S311
    with failing(folder / "expected", sys.maxsize, errno.ENOSPC) as disk:
        write(folder / "expected")
    steps = sorted(rng.sample(range(disk.count), min(most, disk.count)))
    expected = contents(folder / "expected")
    largest = max(map(len, expected.values()))
    faults = [(number, step) for number in NUMBERS for step in steps]
    faults += [(errno.EFBIG, size) for size in sorted({0, *(rng.randrange(largest) for _ in range(most - 1))})]
    for number, place in faults:
        made = folder / f"{number}-{place}"
        disk_fails = full_at(place) if number == errno.EFBIG else failing(made, place, number)
        with disk_fails, pytest.raises((OSError, RetinaflowError)) as caught:
            write(made)
        text = disk_refusal(caught.value) or str(caught.value)
        assert os.strerror(number) in text, (number, place)
        assert number == errno.EROFS or partial(made) == [], (number, place)
        write(made)
        assert contents(made) == expected, (number, place)
    return len(faults)
