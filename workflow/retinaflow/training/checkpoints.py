"""Training checkpoints."""

import io
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from retinaflow.storage.file_cache import CachedFiles, link
from retinaflow.storage.files import digest_files, whole_file, write_json
from retinaflow.storage.lock import LOCK

log = logging.getLogger(__name__)

STATE = "state.json"
WEIGHTS = "epoch-{}.weights.h5"
ARRAY = "{}.array.npy"


class _WeightsBuffer(io.BytesIO):
    """A file of weights in memory. On a full disk, HDF5 would end the process without a message."""

    def __str__(self) -> str:
        return WEIGHTS.format(0)  # Keras chooses the format by the name.


def write_array(path: Path, values: np.ndarray) -> None:
    """Write an array as ``numpy.save`` does. Errors of the disk have their number, which those of NumPy lack."""
    values = np.asarray(values, order="C")
    with open(path, "wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(values))
        file.write(values.data.cast("B") if values.size else b"")


class Checkpoint:
    """Checkpoint of one training run: its epochs so far, and the weights of the last and of the best epoch.

    It also holds arrays that are slow to compute, as long as training needs them.

    The state file names the files of the checkpoint with their digests. It is replaced after they are complete. A kill
    at any moment leaves the previous epoch or this one, never a mixture.

    Attributes:
        folder: Folder of the checkpoint.
        key: Digest of everything that decides the result. Files of another key are removed, and so are damaged ones.
        rows: Row of the history of each finished epoch.
        batch_size: Batch size of these epochs. 0 before training begins.
        finished: Whether training needs no further epoch.
        follow: Called with all rows after an epoch is saved, and with none when training begins or begins again.
    """

    def __init__(self, folder: Path, key: str) -> None:
        """Read the checkpoint in ``folder``, if there is one of this key."""
        self.folder = folder
        self.key = key
        self.rows: list[dict[str, Any]] = []
        self.batch_size = 0
        self.finished = False
        self.follow: Callable[[Sequence[Mapping[str, Any]]], None] | None = None
        self._files: dict[str, str] = {}
        path = folder / STATE
        try:
            if path.exists():
                self._read(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("%s: the checkpoint of an earlier run cannot be used (%s); training starts again", path, error)
        self._tidy()

    def _read(self, state: dict[str, Any]) -> None:
        if state["key"] != self.key:
            raise ValueError("it is of other data, settings or code")
        for name, digest in state["files"].items():
            if digest_files([self.folder / name]) != digest:
                raise ValueError(f"{name} is damaged")
        self.rows, self.finished = state["rows"], state["finished"]
        self.batch_size, self._files = state["batch_size"], state["files"]

    def save(self, model: keras.Model, rows: Sequence[Mapping[str, Any]], best: int, finished: bool) -> None:
        """Save ``model`` with its optimizer after the last epoch of ``rows``. ``best`` is the best epoch, from 1."""
        last = WEIGHTS.format(len(rows))
        buffer = _WeightsBuffer()
        model.save_weights(buffer)
        with whole_file(self.folder / last) as part:
            part.write_bytes(buffer.getbuffer())
        arrays = ARRAY.format("")
        needed = {name: of for name, of in self._files.items() if name == WEIGHTS.format(best) or name.endswith(arrays)}
        self._files = {**needed, last: digest_files([self.folder / last])}
        self.rows, self.finished = [dict(row) for row in rows], finished
        self._write()
        if self.follow:
            self.follow(self.rows)

    def weights_files(self) -> dict[str, Path]:
        """Return the weights files of the last and of the best epoch by name."""
        return {name: self.folder / name for name in self._files if not name.endswith(ARRAY.format(""))}

    def adopt(self, weights: CachedFiles, rows: Sequence[Mapping[str, Any]]) -> None:
        """Take over the epochs ``rows`` of another checkpoint with its ``weights_files``."""
        for name, path in weights.files.items():
            self._link(path, name, weights.digests[name])
        self.finished = False
        for number in range(1, len(rows) + 1):
            self.rows = [dict(row) for row in rows[:number]]
            if self.follow:
                self.follow(self.rows)
        self._write()

    def _link(self, source: Path, name: str, digest: str) -> None:
        with whole_file(self.folder / name) as part:
            link(source, part)
        self._files[name] = digest

    def has_array(self, name: str) -> bool:
        """Return whether there is an array called ``name``."""
        return ARRAY.format(name) in self._files

    def save_array(self, name: str, values: np.ndarray) -> None:
        """Save ``values`` as the array ``name``."""
        path = self.folder / ARRAY.format(name)
        with whole_file(path) as part:
            write_array(part, values)
        self._files[path.name] = digest_files([path])
        self._write()

    def adopt_array(self, name: str, path: Path, digest: str) -> None:
        """Take over an array of another checkpoint, with its digest, as the array ``name``."""
        self._link(path, ARRAY.format(name), digest)
        self._write()

    def array_file(self, name: str) -> Path:
        """Return the file of the array ``name``."""
        return self.folder / ARRAY.format(name)

    def array(self, name: str) -> np.ndarray:
        """Return the array ``name``, mapped from its file."""
        return np.load(self.array_file(name), mmap_mode="r", allow_pickle=False)

    def drop_arrays(self) -> None:
        """Remove all arrays."""
        self._files = {name: digest for name, digest in self._files.items() if not name.endswith(ARRAY.format(""))}
        self._write()

    def restart(self, batch_size: int) -> None:
        """Restart at the first epoch, with batches of ``batch_size``."""
        self.rows, self.batch_size, self.finished, self._files = [], batch_size, False, {}
        self._write()
        if self.follow:
            self.follow([])

    def _write(self) -> None:
        write_json(
            self.folder / STATE,
            {
                "key": self.key,
                "batch_size": self.batch_size,
                "finished": self.finished,
                "rows": self.rows,
                "files": self._files,
            },
        )
        self._tidy()

    def load(self, model: keras.Model, epoch: int) -> None:
        """Load the weights of ``epoch`` into ``model`` and its optimizer: the last or the best epoch, from 1."""
        model.load_weights(self.folder / WEIGHTS.format(epoch))

    def _tidy(self) -> None:
        """Remove files that the state does not name, and the state of a training run that has not begun."""
        if not self.batch_size:
            (self.folder / STATE).unlink(missing_ok=True)
        for kind in (WEIGHTS.format("*"), ARRAY.format("*")):
            for path in [*self.folder.glob(kind), *self.folder.glob(f".part-{kind}")]:
                if path.name not in self._files:
                    path.unlink()

    def remove(self) -> None:
        """Remove the checkpoint."""
        self.batch_size, self._files = 0, {}
        self._tidy()
        (self.folder / LOCK).unlink(missing_ok=True)
        if self.folder.is_dir() and not any(
            self.folder.iterdir()
        ):  # with folds, other training runs have folders in here
            self.folder.rmdir()
