"""Cache of raw outputs and features of trained networks, under a digest of everything that decides them.

Training fills it while the backend is loaded. The later stages copy from it, and then import no backend. So this
module imports none.
"""

import json
import logging
import os
import platform
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

from retinaflow.preprocessing.checksums import has_checksums
from retinaflow.storage.file_cache import CONTENT, FileCache
from retinaflow.storage.files import digest_files, digest_json
from retinaflow.storage.integrity import recorded_file

log = logging.getLogger(__name__)

# Parameters of the rules `score` and `run_features` that decide their results.
OUTPUT_PARAMETERS = ("code", "grade_names", "objective", "tta_views", "seed", "backend", "cpu_threads")
FEATURE_PARAMETERS = ("code", "grade_names", "objective", "augment", "views", "seed", "backend", "cpu_threads")
RAW_OUTPUTS, FEATURE_VALUES, FEATURE_ROWS = "raw_outputs.csv", "features.npy", "features.csv"
CACHE = Path("scores", ".cache")  # below the results folder
DECISIVE_PACKAGES = ("keras", "numpy", "opencv-python-headless")


@dataclass(frozen=True)
class ScoredFiles:
    """Files of the images that a training run is scored on.

    Attributes:
        indices: Index tables.
        pixels: Pixels of the shards.
        rows: Tables of the shards.
    """

    indices: Sequence[Path]
    pixels: Sequence[Path]
    rows: Sequence[Path]

    @classmethod
    def of(cls, files: Mapping[str, Sequence[str]], split: str) -> "ScoredFiles":
        """Files of a split among the inputs of a job, as ``Images.of`` names them."""
        return cls(*(list(map(Path, files[f"{split}_{kind}"])) for kind in ("indices", "pixels", "rows")))

    @property
    def shards(self) -> list[tuple[Path, Path]]:
        """Pixels and table of each shard."""
        return list(zip(self.pixels, self.rows, strict=True))

    @property
    def present(self) -> bool:
        """Whether all files exist."""
        return all(path.exists() for path in (*self.indices, *self.pixels, *self.rows))

    def digest(self) -> str | None:
        """Return a digest of labels and pixels. None if the shards of an earlier version have no checksums."""
        if not all(map(has_checksums, self.rows)):
            return None
        return f"{digest_files(self.indices)} {digest_files(self.rows)}"


class ScoreCache:
    """Raw outputs and features of one trained network, by split.

    Attributes:
        files: All entries.
        weights: Digest of the file of the network.
    """

    def __init__(self, folder: Path, model: Path, parameters: Mapping[str, Any]) -> None:
        """Describe the cache; nothing is read but the network.

        Args:
            folder: Folder of all entries.
            model: Keras file of the network.
            parameters: ``OUTPUT_PARAMETERS`` or ``FEATURE_PARAMETERS`` with their values.
        """
        self.files = FileCache(folder)
        self.weights = digest_files([model])
        packages = (*DECISIVE_PACKAGES, str(parameters["backend"]))
        self._decisive = {
            "weights": self.weights,
            "parameters": dict(parameters),
            "machine": [platform.system(), platform.machine(), platform.python_version()],
            "packages": {package: metadata.version(package) for package in packages},
        }

    def key(self, images: ScoredFiles) -> str | None:
        """Return the key of the results for ``images``. None if they cannot be cached."""
        digest = images.digest()
        return digest and digest_json({**self._decisive, "images": digest})

    def has(self, images: ScoredFiles) -> bool:
        """Return whether there are results for ``images``."""
        key = self.key(images)
        return key is not None and (self.files.folder / key).exists()

    def keep(self, key: str | None, images: ScoredFiles, *, results: Mapping[str, Path], rows: int) -> None:
        """Keep hard links to ``results``, unless another job has replaced ``images`` since they were read.

        Args:
            key: Key of ``images`` before they were read.
            images: Files of the images.
            results: Files to keep by name.
            rows: Number of rows of the tables among them.
        """
        if key is not None and key == self.key(images):
            self.files.keep(key, results, {"weights": self.weights, "rows": rows})

    def take(self, images: ScoredFiles, targets: Mapping[str, Path], *, move: bool = False) -> bool:
        """Write the results for ``images`` to ``targets`` by name, in their order. Return whether they are cached.

        Args:
            images: Files of the images.
            targets: File to write for each name.
            move: Whether to remove them from the cache, because they are large.
        """
        key = self.key(images)
        found = None if key is None else self.files.find(key)
        if key is None or found is None or not targets.keys() <= found.files.keys():
            return False
        # Otherwise a kill between two files would leave a new one beside an old one.
        for target in targets.values():
            target.unlink(missing_ok=True)
        try:
            for name, target in targets.items():
                rows = found.about["rows"] if target.suffix == ".csv" else None
                with recorded_file(target, rows=rows) as part:
                    if move:
                        os.replace(found.files[name], part)
                        os.utime(part)  # Snakemake compares times of outputs and inputs.
                    else:
                        shutil.copyfile(found.files[name], part)
        except FileNotFoundError:  # The job of another training run with the same network has moved them.
            return False
        if move:
            shutil.rmtree(self.files.folder / key, ignore_errors=True)
        log.info("%s: computed before with this network and these settings", ", ".join(map(str, targets.values())))
        return True


def network_of_entry(entry: Path) -> str | None:
    """Return the digest of the network that an entry of the cache belongs to. None if the entry is incomplete."""
    try:
        weights: str = json.loads((entry / CONTENT).read_text(encoding="utf-8"))["about"]["weights"]
    except (OSError, ValueError, LookupError, TypeError):
        return None
    return weights


def parameters_of(parameters: Any, names: Sequence[str]) -> dict[str, Any]:
    """Return the values of some parameters of a job by name."""
    return {name: getattr(parameters, name) for name in names}
