"""Where a training goes on after it was cut short: the weights and figures of its last finished epoch."""

import json
import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from retinaflow.storage.files import digest_files, whole_file, write_json
from retinaflow.storage.lock import LOCK

log = logging.getLogger(__name__)

STATE = "state.json"
WEIGHTS = "epoch-{}.weights.h5"
ARRAY = "{}.array.npy"


class Checkpoint:
    """The state of one training in ``folder``: its epochs so far, and the weights of the last and of the best one.

    Beside them are arrays that take long to make, as long as they are of use.

    ``key`` stands for everything that decides the outcome: what another key left is removed, and so is what does not
    hold together. ``rows`` are the figures of each finished epoch, ``batch_size`` what was trained with (0 before
    anything was), ``finished`` whether no further epoch is wanted. ``follow``, if there is one, is called with all
    rows once another one is kept, and with none where the training begins or begins anew.

    The state file names the files that belong to it, with their digests, and is replaced after they are whole: a
    kill at any moment leaves the epoch before or this one, never a mixture.
    """

    def __init__(self, folder: Path, key: str) -> None:
        """Take up what is in ``folder``, or nothing."""
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
                self._take_up(json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("%s: what an earlier run left cannot be used (%s); training starts anew", path, error)
        self._tidy()

    def _take_up(self, state: dict[str, Any]) -> None:
        if state["key"] != self.key:
            raise ValueError("it is of other data, settings or code")
        for name, digest in state["files"].items():
            if digest_files([self.folder / name]) != digest:
                raise ValueError(f"{name} is damaged")
        self.rows, self.finished = state["rows"], state["finished"]
        self.batch_size, self._files = state["batch_size"], state["files"]

    def save(self, model: keras.Model, rows: Sequence[Mapping[str, Any]], best: int, finished: bool) -> None:
        """Keep ``model``, optimiser included, as of the last epoch of ``rows``; ``best`` is the best epoch, from 1."""
        last = WEIGHTS.format(len(rows))
        with whole_file(self.folder / last) as part:
            model.save_weights(part)
        arrays = ARRAY.format("")
        kept = {name: of for name, of in self._files.items() if name == WEIGHTS.format(best) or name.endswith(arrays)}
        self._files = {**kept, last: digest_files([self.folder / last])}
        self.rows, self.finished = [dict(row) for row in rows], finished
        self._write()
        if self.follow:
            self.follow(self.rows)

    def has_array(self, name: str) -> bool:
        """Whether there is an array of that name."""
        return ARRAY.format(name) in self._files

    def keep_array(self, name: str, values: np.ndarray) -> None:
        """Keep ``values`` under that name."""
        path = self.folder / ARRAY.format(name)
        with whole_file(path) as part:
            np.save(part, values)
        self._files[path.name] = digest_files([path])
        self._write()

    def array(self, name: str) -> np.ndarray:
        """The array of that name, mapped from its file."""
        return np.load(self.folder / ARRAY.format(name), mmap_mode="r", allow_pickle=False)

    def drop_arrays(self) -> None:
        """Remove the arrays, which are of no more use."""
        self._files = {name: digest for name, digest in self._files.items() if not name.endswith(ARRAY.format(""))}
        self._write()

    def restart(self, batch_size: int) -> None:
        """Begin at the first epoch, with batches of ``batch_size``."""
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
        """Give ``model``, optimiser included, the weights of ``epoch``: the last one or the best one, from 1."""
        model.load_weights(self.folder / WEIGHTS.format(epoch))

    def _tidy(self) -> None:
        """Remove the files that the state does not name, and the state if it is of no use."""
        if not self.batch_size:
            (self.folder / STATE).unlink(missing_ok=True)
        for kind in (WEIGHTS.format("*"), ARRAY.format("*")):
            for path in [*self.folder.glob(kind), *self.folder.glob(f".part-{kind}")]:
                if path.name not in self._files:
                    path.unlink()

    def remove(self) -> None:
        """Remove all of it: the training is done, or not worth going on with."""
        self.batch_size, self._files = 0, {}
        self._tidy()
        (self.folder / LOCK).unlink(missing_ok=True)
        if self.folder.is_dir() and not any(self.folder.iterdir()):  # with folds, other runs have folders in here
            self.folder.rmdir()
