"""Cache of files by a digest of everything that decides their content."""

import contextlib
import errno
import json
import logging
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from retinaflow.storage.files import digest_files, write_json

log = logging.getLogger(__name__)

CONTENT = "content.json"


class CachedFiles(NamedTuple):
    """Files of one key by name, their digests (``files.digest_files``), and what was kept with them."""

    files: dict[str, Path]
    digests: dict[str, str]
    about: Any


class FileCache:
    """Files below one folder, those of a key in a folder named after it."""

    def __init__(self, folder: Path) -> None:
        """``folder`` need not exist."""
        self.folder = folder

    def keep(self, key: str, files: Mapping[str, Path], about: Any = None) -> None:
        """Keep hard links to ``files``, by name, and ``about``, which JSON can hold. Copies on a disk without links.

        Several processes may keep files of one key at once: the first one counts. A full disk, or one that cannot be
        written to, is logged and changes nothing else.
        """
        place = self.folder / key
        if place.exists():
            return
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            # The folder gets its name once it is complete.
            with tempfile.TemporaryDirectory(dir=self.folder, prefix=".part-", ignore_cleanup_errors=True) as part:
                for name, path in files.items():
                    link(path, Path(part, name))
                digests = {name: digest_files([path]) for name, path in files.items()}
                write_json(Path(part, CONTENT), {"files": digests, "about": about})
                with contextlib.suppress(FileExistsError):
                    Path(part).rename(place)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                log.warning("%s: %s; it is not cached", place, error.strerror)

    def find(self, key: str) -> CachedFiles | None:
        """Return the files of ``key``; None if there are none, or one is damaged. Damaged ones are removed."""
        place = self.folder / key
        if not place.exists():
            return None
        try:
            content = json.loads((place / CONTENT).read_text(encoding="utf-8"))
            about, digests = content["about"], content["files"]
            damaged = [name for name, digest in digests.items() if digest_files([place / name]) != digest]
        except (OSError, ValueError, AttributeError, KeyError, TypeError) as error:
            damaged = [f"{CONTENT} ({error})"]
        if damaged:
            log.warning("%s: %s is damaged; this is computed again", place, ", ".join(damaged))
            shutil.rmtree(place)
            return None
        return CachedFiles({name: place / name for name in digests}, digests, about)


def link(source: Path, target: Path) -> None:
    """Make ``target`` a hard link to ``source``, or a copy if the disk has no links."""
    try:
        os.link(source, target)
    except OSError:
        with open(source, "rb") as file, open(target, "xb") as copy:
            shutil.copyfileobj(file, copy)
