"""Cache of trained networks by the digest of everything that decides them.

A model that was renamed, or that became one of a sweep, has the same digest. Its files are copied instead of training
it again.
"""

import json
import logging
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from retinaflow.storage.files import digest_files, whole_file, write_json

log = logging.getLogger(__name__)

CONTENT = "files.json"


class TrainedNetworks:
    """Trained networks below one folder, each in a folder named by its key."""

    def __init__(self, folder: Path) -> None:
        """``folder`` need not exist."""
        self.folder = folder

    def keep(self, key: str, files: Mapping[str, Path]) -> None:
        """Keep hard links to ``files``, by name, as the network of ``key``; or copies, if the disk has no links."""
        place = self.folder / key
        for name, path in files.items():
            with whole_file(place / name) as part:
                try:
                    os.link(path, part)
                except OSError:
                    shutil.copyfile(path, part)
        # Last, so that a network without it is incomplete.
        write_json(place / CONTENT, {name: digest_files([path]) for name, path in files.items()})

    def find(self, key: str) -> dict[str, Path] | None:
        """Return the files of the network of ``key`` by name; None if there is none, or one of its files is damaged.

        A damaged network is removed.
        """
        place = self.folder / key
        if not (place / CONTENT).exists():
            return None
        try:
            content: dict[str, Any] = json.loads((place / CONTENT).read_text(encoding="utf-8"))
            damaged = [name for name, digest in content.items() if digest_files([place / name]) != digest]
        except (OSError, ValueError, AttributeError, TypeError) as error:
            damaged = [f"{CONTENT} ({error})"]
        if damaged:
            log.warning("%s: %s is damaged; the network is trained again", place, ", ".join(damaged))
            shutil.rmtree(place)
            return None
        return {name: place / name for name in content}
