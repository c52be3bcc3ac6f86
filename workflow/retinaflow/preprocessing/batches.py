"""Feed photographs from shards to Keras: labels joined by image name, batches of raw uint8 pixels."""

import contextlib
import errno
import hashlib
import io
import os
import resource
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import cv2
import keras
import numpy as np

from retinaflow.errors import RetinaflowError
from retinaflow.preprocessing import augmentation
from retinaflow.preprocessing.allocator import keep_freed_memory
from retinaflow.preprocessing.sampling import balance_at, sample_epoch
from retinaflow.preprocessing.shards import REBUILD, read_shard
from retinaflow.storage.tables import stream_table


class ImageSource(Protocol):
    """What ``Batches`` are made of: n photographs, as ``Images`` have them."""

    size: int
    grades: np.ndarray

    @property
    def names(self) -> Sequence[str]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, number: int) -> np.ndarray: ...

    def read_into(self, out: np.ndarray, number: int) -> None: ...

    def prefetch(self, numbers: np.ndarray) -> None: ...


class Images:
    """The labelled photographs of one or more parts, in the order of their names.

    ``names``; ``filenames``; ``grades``: int64 (n,); ``patients``; ``eyes``, ``""`` where that is not known;
    ``size``: side of the photographs in pixels. ImageSource
    stay in the shards until asked for, and are read and not mapped: mapped pages count as memory of the process,
    however many photographs there are. The order does not depend on how photographs are spread over shards, so neither
    does anything drawn from a seed.
    """

    def __init__(self, indices: Sequence[Path], shards: Sequence[tuple[Path, Path]], classes: Sequence[str]) -> None:
        """Join the index tables of the parts with their shards, each a pair of pixel file and row table.

        Raises ``RetinaflowError`` if an image of an index has no pixels, its class is unknown or there are more shards
        than the system lets a process open.
        """
        # Some of the columns, row by row: a million whole rows are a gigabyte.
        labelled = {
            row["image"]: tuple(sys.intern(row[column]) for column in ("filename", "grade_name", "patient", "eye"))
            for index in indices
            for row in stream_table(index, ("image", "filename", "grade_name", "patient", "eye"))
        }
        self.size = 0
        places: dict[str, tuple[int, int]] = {}  # shard, and where in its file
        for number, (pixels, rows) in enumerate(shards):
            array, stored = read_shard(pixels, rows)
            if self.size not in (0, array.shape[1]):
                raise RetinaflowError(f"{pixels}: photographs of {array.shape[1]} px, expected {self.size}. {REBUILD}")
            self.size = int(array.shape[1])
            places.update((name, (number, array.offset + row * array[0].nbytes)) for row, name in enumerate(stored))
        _allow_open_files()
        self._files = [_open(pixels, len(shards)) for pixels, _ in shards]
        self.names = sorted(labelled)
        if not self.names:
            raise RetinaflowError(f"{', '.join(map(str, indices))}: no photograph listed; expected at least one.")
        missing = [image for image in self.names if image not in places]
        if missing:
            raise RetinaflowError(
                f"{len(missing)} images of {', '.join(map(str, indices))} are in no shard, first {missing[0]!r}. "
                "Delete the shards of this part and run again."
            )
        self.filenames, grade_names, self.patients, self.eyes = (
            list(column) for column in zip(*(labelled[image] for image in self.names), strict=True)
        )
        unknown = set(grade_names) - set(classes)
        if unknown:
            raise RetinaflowError(f"{indices[0]}: class {min(unknown)!r} is none of {', '.join(classes)}.")
        levels = {name: level for level, name in enumerate(classes)}
        self.grades = np.array([levels[name] for name in grade_names], dtype=np.int64)
        self._places = np.array([places[image] for image in self.names], dtype=np.int64)

    @classmethod
    def of(cls, files: Mapping[str, Sequence[str]], use: str, classes: Sequence[str]) -> "Images":
        """Those that a job uses so: its ``files`` named ``{use}_indices``, ``{use}_pixels`` and ``{use}_rows``."""
        shards = zip(files[f"{use}_pixels"], files[f"{use}_rows"], strict=True)
        indices = [Path(index) for index in files[f"{use}_indices"]]
        return cls(indices, [(Path(pixels), Path(rows)) for pixels, rows in shards], classes)

    def __len__(self) -> int:
        """Number of photographs."""
        return len(self.names)

    def __getitem__(self, number: int) -> np.ndarray:
        """ImageSource of one photograph: uint8 RGB (size, size, 3)."""
        pixels = np.empty((self.size, self.size, 3), np.uint8)
        self.read_into(pixels, number)
        return pixels

    def read_into(self, out: np.ndarray, number: int) -> None:
        """Read the pixels of one photograph to ``out``, uint8 (size, size, 3) and contiguous.

        Raises ``RetinaflowError`` if the shard has become shorter since it was opened.
        """
        shard, offset = self._places[number]
        file, left = self._files[shard], out.data.cast("B")
        try:
            while left:  # nearly always once: network file systems may hand out less
                if not (count := os.preadv(file.fileno(), [left], offset)):
                    raise RetinaflowError(f"{file.name}: became shorter while it was read. {REBUILD}")
                offset, left = offset + count, left[count:]
        except OSError as error:
            raise RetinaflowError(f"{file.name}: cannot be read ({error.strerror}). Run again.") from error

    def prefetch(self, numbers: np.ndarray) -> None:
        """Have the system begin to read the pixels of photographs that will be asked for soon."""
        if hasattr(os, "posix_fadvise"):
            for shard, offset in self._places[numbers]:
                with contextlib.suppress(OSError):  # advice that a file system need not take
                    os.posix_fadvise(self._files[shard].fileno(), offset, 3 * self.size**2, os.POSIX_FADV_WILLNEED)

    def channel_statistics(self) -> tuple[np.ndarray, np.ndarray]:
        """Mean and standard deviation of each channel over all pixels: two float64 (3,), in values 0 to 255."""
        # Sums of integers: exact, so the order of the photographs cannot change the result.
        total, squares = np.zeros(3, np.int64), np.zeros(3, np.int64)
        for number in range(len(self)):
            values = self[number].reshape(-1, 3).astype(np.int64)
            total += values.sum(axis=0)
            squares += np.einsum("ij,ij->j", values, values)
        pixels = len(self) * self.size**2
        mean = total / pixels
        return mean, np.sqrt(np.maximum(squares / pixels - mean**2, 0))


class Batches(keras.utils.PyDataset):
    """Batches of photographs, the last one smaller if need be.

    Each is ``(pixels, targets)``, uint8 (b, size, size, 3) and float32 (b, width), or ``(pixels, targets, weights)``
    with float32 (b,) where there are weights. Without targets, int64 (b,) levels take their place.

    Each batch can be cut into ``devices`` parts, equal but for a smaller last one and none of them empty, as TensorFlow
    does: what is left at the end and too little for that joins the batch before.

    With ``seed`` the photographs are shuffled anew each epoch and, with ``augmentation`` (``train.augment`` of the
    configuration), each is changed at random. Shuffle and changes follow from (seed, epoch, photograph) alone: the
    number of worker threads, and where an interrupted training starts again, make no difference. That takes ``fit``
    with ``shuffle=False`` and the callback ``follow_epochs``: Keras shuffles batches and counts epochs in ways of its
    own. Each worker has a core to itself: OpenCV is told to start no threads.

    With ``mixup`` or ``cutmix`` of ``augmentation`` each photograph is then mixed with the next one of its batch, which
    the shuffle makes one of any; its target and weight are mixed by the same share.

    With a ``balance`` (share and epochs of ``sampling.balance_at``), rare classes come more often in the first epochs.
    An epoch keeps its length. A repeated image is changed in another way.

    With ``view`` all photographs are seen so (``augment.view``); not to be used with ``augmentation``.
    """

    def __init__(
        self,
        images: ImageSource,
        batch_size: int,
        *,
        threads: int = 1,
        seed: int | None = None,
        augmentation: Mapping[str, Any] | None = None,
        devices: int = 1,
        targets: np.ndarray | None = None,
        weights: np.ndarray | None = None,
        view: int = 0,
        balance: tuple[float, int] = (0.0, 0),
    ) -> None:
        """Describe the batches; nothing is read yet.

        ``targets``, float32 (n, width), and ``weights`` in the loss, float32 (n,), are of the photographs in their
        order. Raises ``RetinaflowError`` if there are too few photographs for ``devices``.
        """
        # Below two workers Keras reads in the thread that trains; a second thread keeps one batch ahead.
        super().__init__(workers=max(2, threads), use_multiprocessing=False, max_queue_size=8)
        cv2.setNumThreads(1)  # the workers each have a batch of their own
        keep_freed_memory()
        self.images = images
        self.batch_size = batch_size
        self.seed = seed
        if augmentation is not None and seed is None:
            raise ValueError("augmentation needs a seed")
        self._mixes = augmentation is not None and bool(augmentation["mixup"] or augmentation["cutmix"])
        if self._mixes and targets is None:
            raise ValueError("what is mixed has no level; give targets")
        self.augmentation = augmentation
        self.targets = targets
        self.weights = weights
        self.view = view
        self.balance = balance
        self.devices = devices
        # By name and not by place, so that one more photograph does not change what happens to the others.
        self._names = [image_number(image) for image in images.names]
        self._count = _count(len(images), batch_size, devices)
        self.start_epoch(0)

    @property
    def num_batches(self) -> int:
        """Batches in an epoch."""
        return self._count

    def __getitem__(self, index: int) -> tuple[np.ndarray, ...]:
        """Batch ``index`` of the current epoch."""
        places = self._places(index)
        chosen = self.order[places]
        # Shuffled, they lie anywhere in the shards: a disk reads them faster if told before a worker asks.
        if self.seed is not None:
            self.images.prefetch(self.order[self._places(index + self.workers)])
        size = self.images.size
        pixels = np.empty((len(chosen), size, size, 3), np.uint8)
        values = self._values(chosen)
        if self.augmentation is None or self.seed is None:
            for number, out in zip(chosen, pixels, strict=True):
                if self.view:
                    augmentation.write_view(self.images[number], self.view, out)
                else:
                    self.images.read_into(out, number)
            return pixels, *values
        sources = [self._source(self.seed, place) for place in range(places.start, places.stop)]
        for number, rng, out in zip(chosen, sources, pixels, strict=True):
            augmentation.augment(self.images[number], self.augmentation, rng, out)
        if self._mixes:
            shares = augmentation.mix(pixels, self.augmentation, sources)
            values = [augmentation.mix_values(value, shares) for value in values]
        return pixels, *values

    def _values(self, chosen: np.ndarray) -> list[np.ndarray]:
        targets = self.images.grades if self.targets is None else self.targets
        return [targets[chosen]] if self.weights is None else [targets[chosen], self.weights[chosen]]

    def _places(self, index: int) -> slice:
        count = len(self.order)
        return slice(index * self.batch_size, count if index == self._count - 1 else (index + 1) * self.batch_size)

    def _source(self, seed: int, place: int) -> np.random.Generator:
        again = [int(self._again[place])] if self._again[place] else []
        return np.random.default_rng([seed, self.epoch, self._names[self.order[place]], *again])

    def start_epoch(self, epoch: int) -> None:
        """Turn to ``epoch``, counted from 0, and draw its ``order``, int64 (n,). No worker may be reading."""
        self.epoch = epoch
        if self.seed is None:
            self.order = np.arange(len(self.images))
        else:
            rng = np.random.default_rng((self.seed, epoch))
            self.order, self._again = sample_epoch(self.images.grades, balance_at(epoch, *self.balance), rng)

    def follow_epochs(self) -> keras.callbacks.Callback:
        """A callback for ``fit`` that turns to each epoch before its first batch is read."""
        return keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: self.start_epoch(epoch))  # noqa: ARG005


def _allow_open_files() -> None:
    """Raise the number of files this process may have open to what the system allows: each shard is one."""
    limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit != most:
        with contextlib.suppress(OSError, ValueError):  # macOS says that there is no limit, and has one
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _open(pixels: Path, shards: int) -> io.FileIO:
    try:
        return io.FileIO(pixels)
    except OSError as error:
        if error.errno != errno.EMFILE:
            raise
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        raise RetinaflowError(
            f"{pixels}: one of {shards} shards, and this process may have {most} files open at most. Raise "
            "preprocess.shard_size, or have the limit raised (`ulimit -Hn` tells it)."
        ) from error


def _count(photographs: int, batch_size: int, devices: int) -> int:
    """The number of batches."""
    for count in range(-(-photographs // batch_size), 0, -1):
        last = photographs - (count - 1) * batch_size
        if last > (devices - 1) * -(-last // devices):
            return count
    raise RetinaflowError(
        f"gpus: {devices}, but {photographs} photographs cannot be divided so that each has some. Lower gpus, or add "
        "photographs."
    )


def image_number(image: str) -> int:
    """What stands for a photograph in seeds: 0 to 2**128 - 1, from its name alone."""
    name = image.encode("utf-8", "surrogateescape")
    return int.from_bytes(hashlib.blake2b(name, digest_size=16).digest(), "big")
