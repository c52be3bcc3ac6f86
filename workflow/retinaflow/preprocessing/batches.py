"""Batches of images for Keras: raw uint8 pixels from shards, and labels joined by image name."""

import contextlib
import errno
import io
import os
import resource
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import cv2
import keras
import numpy as np

from retinaflow.errors import RetinaflowError
from retinaflow.preprocessing import augmentation
from retinaflow.preprocessing.allocator import keep_freed_memory
from retinaflow.preprocessing.sampling import balance_at, sample_epoch
from retinaflow.preprocessing.shards import open_shard, verify_pixels
from retinaflow.settings.augment import AugmentSettings
from retinaflow.storage.integrity import REBUILD
from retinaflow.storage.tables import stream_table


class ImageSource(Protocol):
    """Source of the n images of ``Batches``, with the attributes of ``Images``."""

    size: int
    grades: np.ndarray

    @property
    def names(self) -> Sequence[str]: ...

    def __len__(self) -> int: ...

    def __getitem__(self, number: int) -> np.ndarray: ...

    def read_into(self, out: np.ndarray, number: int) -> None: ...

    def prefetch(self, numbers: np.ndarray) -> None: ...


class Images:
    """Labelled images of one or more splits, in the order of their names.

    Pixels stay in the shards until a batch needs them. They are read, not memory-mapped: mapped pages of any number of
    images count as memory of the process. The order does not depend on the division into shards. The same is true of
    all random draws.

    Attributes:
        names: Image names.
        filenames: File names.
        grades: int64 (n,).
        patients: Patient of each image.
        eyes: Eye of each image, ``""`` if unknown.
        size: Side of the images in pixels.
    """

    def __init__(
        self, indices: Sequence[Path], shards: Sequence[tuple[Path, Path]], grade_names: Sequence[str]
    ) -> None:
        """Join the index tables of the splits with their shards.

        Args:
            indices: Index tables.
            shards: Pairs of pixel file and row table.
            grade_names: Names of the grades, in their order.

        Raises:
            RetinaflowError: An image of an index has no pixels, its grade is unknown, or there are more shards than
                files that the system lets a process open.
        """
        # Read some columns, row by row: a million whole rows are a gigabyte.
        labelled = {
            row["image"]: tuple(sys.intern(row[column]) for column in ("filename", "grade", "patient", "eye"))
            for index in indices
            for row in stream_table(index, ("image", "filename", "grade", "patient", "eye"))
        }
        self.size = 0
        places: dict[str, tuple[int, int, int]] = {}  # Shard, offset in its file, checksum of the pixels.
        for number, (pixels, rows) in enumerate(shards):
            array, stored, _, checksums = open_shard(pixels, rows)
            if self.size not in (0, array.shape[1]):
                raise RetinaflowError(f"{pixels}: images of {array.shape[1]} px, expected {self.size}. {REBUILD}")
            self.size = int(array.shape[1])
            image_bytes = 3 * self.size**2
            places.update(
                (name, (number, array.offset + row * image_bytes, checksums[row])) for row, name in enumerate(stored)
            )
        _allow_open_files()
        self._files = [_open(pixels, len(shards)) for pixels, _ in shards]
        self.names = sorted(labelled)
        if not self.names:
            raise RetinaflowError(f"{', '.join(map(str, indices))}: no image listed; expected at least one.")
        missing = [image for image in self.names if image not in places]
        if missing:
            raise RetinaflowError(
                f"{len(missing)} images of {', '.join(map(str, indices))} are in no shard, first {missing[0]!r}. "
                "Delete the shards of this split and run again."
            )
        self.filenames, labels, self.patients, self.eyes = (
            list(column) for column in zip(*(labelled[image] for image in self.names), strict=True)
        )
        grades = {str(grade): grade for grade in range(len(grade_names))}
        unknown = set(labels) - grades.keys()
        if unknown:
            raise RetinaflowError(
                f"{indices[0]}: grade {min(unknown)!r} is none of {', '.join(grades)} ({', '.join(grade_names)}). "
                f"{REBUILD}"
            )
        self.grades = np.array([grades[grade] for grade in labels], dtype=np.int64)
        self._places = np.array([places[image] for image in self.names], dtype=np.int64)

    @classmethod
    def of(cls, files: Mapping[str, Sequence[str]], use: str, grade_names: Sequence[str]) -> "Images":
        """Read the images of a use from the ``files`` of a job.

        Args:
            files: Inputs of the job. It names the files ``{use}_indices``, ``{use}_pixels`` and ``{use}_rows``.
            use: Use of the images, such as ``train``.
            grade_names: Names of the grades, in their order.
        """
        shards = zip(files[f"{use}_pixels"], files[f"{use}_rows"], strict=True)
        indices = [Path(index) for index in files[f"{use}_indices"]]
        return cls(indices, [(Path(pixels), Path(rows)) for pixels, rows in shards], grade_names)

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self.names)

    def __getitem__(self, number: int) -> np.ndarray:
        """Return the pixels of one image: uint8 RGB (size, size, 3)."""
        pixels = np.empty((self.size, self.size, 3), np.uint8)
        self.read_into(pixels, number)
        return pixels

    def read_into(self, out: np.ndarray, number: int) -> None:
        """Read the pixels of one image to ``out``, uint8 (size, size, 3) and contiguous.

        Raises:
            RetinaflowError: The shard has become shorter since it was opened, cannot be read, or is damaged.
        """
        shard, offset, expected = self._places[number].tolist()
        file, left = self._files[shard], out.data.cast("B")
        try:
            while left:  # Nearly always once. Network file systems may return less.
                if not (count := os.preadv(file.fileno(), [left], offset)):
                    raise RetinaflowError(f"{file.name}: became shorter while it was read. {REBUILD}")
                offset, left = offset + count, left[count:]
        except OSError as error:
            raise RetinaflowError(f"{file.name}: cannot be read ({error.strerror}). Run again.") from error
        verify_pixels(out, expected, image=self.names[number], file=str(file.name))

    def prefetch(self, numbers: np.ndarray) -> None:
        """Prefetch the pixels of these images."""
        if hasattr(os, "posix_fadvise"):
            for shard, offset, _ in self._places[numbers]:
                with contextlib.suppress(OSError):  # A file system may ignore this advice.
                    os.posix_fadvise(self._files[shard].fileno(), offset, 3 * self.size**2, os.POSIX_FADV_WILLNEED)

    def channel_statistics(self) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and standard deviation of each channel over all pixels: two float64 (3,), in values 0 to 255."""
        # Sums of integers are exact, so the order of the images cannot change the result.
        total, squares = np.zeros(3, np.int64), np.zeros(3, np.int64)
        for number in range(len(self)):
            values = self[number].reshape(-1, 3).astype(np.int64)
            total += values.sum(axis=0)
            squares += np.einsum("ij,ij->j", values, values)
        pixels = len(self) * self.size**2
        mean = total / pixels
        return mean, np.sqrt(np.maximum(squares / pixels - mean**2, 0))


class Batches(keras.utils.PyDataset):
    """Batches of images. The last batch may be smaller.

    A batch is ``(pixels, targets)``, uint8 (b, size, size, 3) and float32 (b, width). With weights it is ``(pixels,
    targets, weights)``, the last one float32 (b,). Without targets, int64 (b,) grades replace them.

    TensorFlow cuts each batch into parts for the ``devices``. All parts are equal, except for a smaller last one, and
    none is empty. A rest of images that is too small for this joins the previous batch.

    With ``seed``, the images are shuffled again each epoch. With ``augment``, each image is changed at random.
    Shuffle and changes follow from (seed, epoch, image) alone. The number of worker threads and the epoch at which an
    interrupted training resumes make no difference. For this, ``fit`` needs ``shuffle=False`` and the callback
    ``follow_epochs``: Keras shuffles batches and counts epochs in other ways. OpenCV starts no threads of its own, as
    each worker has one core.

    With ``mixup`` or ``cutmix`` of ``augment``, each image is mixed with the next one of its batch, which the
    shuffle makes a random one. Targets and weights are mixed by the same share.

    With a ``balance`` (share and epochs of ``sampling.balance_at``), rare grades occur more often in the first epochs.
    An epoch keeps its length. A repeated image is changed in another way.

    With ``view``, all images are in that view (``augmentation.write_view``). A view excludes ``augment``.
    """

    def __init__(
        self,
        images: ImageSource,
        batch_size: int,
        *,
        threads: int = 1,
        seed: int | None = None,
        augment: AugmentSettings | None = None,
        devices: int = 1,
        targets: np.ndarray | None = None,
        weights: np.ndarray | None = None,
        view: int = 0,
        balance: tuple[float, int] = (0.0, 0),
    ) -> None:
        """Describe the batches. Nothing is read yet.

        Args:
            images: Source of the images.
            batch_size: Number of images in a batch.
            threads: Number of threads that read batches ahead.
            seed: Seed of shuffle and changes, or None for the order of the names.
            augment: Random changes to the images, or None for none.
            devices: Number of devices that share each batch.
            targets: Targets of the images in their order, float32 (n, width).
            weights: Weights of the images in the loss, float32 (n,).
            view: Number of the view.
            balance: Share and epochs of ``sampling.balance_at``.

        Raises:
            RetinaflowError: There are too few images for ``devices``.
        """
        # Below two workers, Keras reads in the thread that trains. A second thread keeps one batch ahead.
        super().__init__(workers=max(2, threads), use_multiprocessing=False, max_queue_size=8)
        cv2.setNumThreads(1)  # Each worker prepares another batch.
        keep_freed_memory()
        self.images = images
        self.batch_size = batch_size
        self.seed = seed
        if augment is not None and seed is None:
            raise ValueError("augmentation needs a seed")
        self._mixes = augment is not None and bool(augment.mixup or augment.cutmix)
        if self._mixes and targets is None:
            raise ValueError("mixed images have no grade; give targets")
        self.augment = augment
        self.targets = targets
        self.weights = weights
        self.view = view
        self.balance = balance
        self.devices = devices
        # By name and not by place, so that another image does not change the augmentation of the others.
        self._names = [augmentation.image_number(image) for image in images.names]
        self._count = _count(len(images), batch_size, devices)
        self.start_epoch(0)

    @property
    def num_batches(self) -> int:
        """Return the number of batches in an epoch."""
        return self._count

    def __getitem__(self, index: int) -> tuple[np.ndarray, ...]:
        """Return batch ``index`` of the current epoch."""
        places = self._places(index)
        chosen = self.order[places]
        # Shuffled images are anywhere in the shards. A disk reads them faster after an early request.
        if self.seed is not None:
            self.images.prefetch(self.order[self._places(index + self.workers)])
        size = self.images.size
        pixels = np.empty((len(chosen), size, size, 3), np.uint8)
        values = self._values(chosen)
        if self.augment is None or self.seed is None:
            for number, out in zip(chosen, pixels, strict=True):
                if self.view:
                    augmentation.write_view(self.images[number], self.view, out)
                else:
                    self.images.read_into(out, number)
            return pixels, *values
        sources = [self._source(self.seed, place) for place in range(places.start, places.stop)]
        for number, rng, out in zip(chosen, sources, pixels, strict=True):
            augmentation.augment(self.images[number], self.augment, rng, out)
        if self._mixes:
            shares = augmentation.mix(pixels, self.augment, sources)
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
        """Start ``epoch``, counted from 0, and draw its ``order``, int64 (n,). No worker may be reading."""
        self.epoch = epoch
        if self.seed is None:
            self.order = np.arange(len(self.images))
        else:
            rng = np.random.default_rng((self.seed, epoch))
            self.order, self._again = sample_epoch(self.images.grades, balance_at(epoch, *self.balance), rng)

    def follow_epochs(self) -> keras.callbacks.Callback:
        """Return a callback for ``fit`` that starts each epoch before its first batch is read."""
        return keras.callbacks.LambdaCallback(on_epoch_begin=lambda epoch, logs: self.start_epoch(epoch))  # noqa: ARG005


def _allow_open_files() -> None:
    """Raise the number of open files of this process to the limit of the system. Each shard is one file."""
    limit, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if limit != most:
        with contextlib.suppress(OSError, ValueError):  # macOS reports no limit, but has one.
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
            "preprocess.shard_size, or have the limit raised (`ulimit -Hn` shows it)."
        ) from error


def _count(images: int, batch_size: int, devices: int) -> int:
    """Return the number of batches."""
    for count in range(-(-images // batch_size), 0, -1):
        last = images - (count - 1) * batch_size
        if last > (devices - 1) * -(-last // devices):
            return count
    raise RetinaflowError(
        f"gpus: {devices}, but {images} images cannot be divided so that each has some. Lower gpus, or add images."
    )
