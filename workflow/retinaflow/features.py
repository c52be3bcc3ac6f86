"""Features of photographs: what a layer puts out, averaged over the photograph, and how that varies over views."""

import difflib
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from retinaflow import augment, device
from retinaflow.backbones import BACKBONES
from retinaflow.errors import RetinaflowError
from retinaflow.files import whole_file
from retinaflow.loader import Photographs, photograph_number
from retinaflow.model import load_backbone, normalise
from retinaflow.shards import ROW_COLUMNS
from retinaflow.tables import REBUILD, read_table, stream_table, write_table

BATCH = 32
AT_ONCE = 512  # photographs whose views are in memory together


def frozen_backbone(
    backbone: str, size: int, layer: str | None, weights: Path | None, seed: int, threads: int
) -> keras.Model:
    """A model from uint8 RGB (n, size, size, 3) to float32 (n, channels): a layer's output, averaged over its area.

    ``layer`` names one of the backbone with an output (n, height, width, channels); None is the one that its
    ``feature_layer`` names, or its last. ``weights`` is a weights file for the backbone without its top, or None for
    random ones, which follow from ``seed``. Pixels are normalised as the weights expect.

    Raises ``RetinaflowError`` if the weights do not fit or there is no such layer.
    """
    device.prepare(seed, threads)
    device.full_float32()
    description = BACKBONES[backbone]
    network = load_backbone(backbone, size, weights)
    output = _layer(network, layer or description.feature_layer).output
    pixels = keras.Input((size, size, 3), dtype="uint8", name="pixels")
    x = keras.Model(network.inputs, output)(normalise(pixels, "imagenet", description.input_mode))
    return keras.Model(pixels, keras.layers.GlobalAveragePooling2D(name="pool")(x), name=backbone)


def _layer(network: keras.Model, name: str | None) -> keras.Layer:
    """The layer of that name, or the last one."""
    usable = {
        layer.name: layer
        for layer in network.layers
        if isinstance(layer.output, keras.KerasTensor) and len(layer.output.shape) == 4
    }
    if name is None:
        return network.layers[-1]
    if name not in usable:
        near = difflib.get_close_matches(name, usable, n=5, cutoff=0.4) or list(usable)[-5:]
        raise RetinaflowError(
            f"feature_layer: {network.name} has no layer {name!r} that puts out (n, height, width, channels); similar "
            f"ones are {', '.join(near)}. Set feature_layer to one that it has."
        )
    return usable[name]


def fine_tuned(model: keras.Model) -> keras.Model:
    """A trained model up to what enters its head: from uint8 RGB (n, size, size, 3) to float32 (n, channels)."""
    return keras.Model(model.inputs, model.get_layer("pool").output, name=model.name)


def extract(
    model: keras.Model,
    photographs: Photographs,
    views: int,
    augmentation: Mapping[str, Any],
    seed: int,
    threads: int,
) -> Iterator[np.ndarray]:
    """Features of the photographs in their order, float16 (m, 2 d) at a time: mean and standard deviation over views.

    ``model`` gives d numbers a photograph. The first view is the photograph as it is; the others are changed at random
    as ``augmentation`` (``train.augment`` of the configuration) says, which follows from (seed, view, photograph). With
    one view the deviations are 0. Mean and deviation over views are what github.com/sveitser/kaggle_diabetic, second in
    the Kaggle competition of 2015, graded by.

    Raises ``RetinaflowError`` if a feature is not finite or too large for float16.
    """
    for start in range(0, len(photographs), AT_ONCE):
        chosen = range(start, min(start + AT_ONCE, len(photographs)))
        batches = _Views(photographs, chosen, views, augmentation, seed, threads)
        outputs = model.predict(batches, verbose=0).reshape(views, len(chosen), -1).astype(np.float32)
        features = np.concatenate([outputs.mean(axis=0), outputs.std(axis=0)], axis=1)
        # NaN fails the comparison.
        wrong = ~(np.abs(features) <= np.finfo(np.float16).max)
        if wrong.any():
            row, column = np.argwhere(wrong)[0]
            raise RetinaflowError(
                f"{model.name}: the features of {photographs.images[start + row]!r} have the value "
                f"{features[row, column]:g}, expected -65504 to 65504, which float16 holds. Set feature_layer to "
                "another layer, or weights to others."
            )
        yield features.astype(np.float16)


class _Views(keras.utils.PyDataset):
    """Batches of ``chosen`` photographs: all of them as they are, then all of them changed, view after view."""

    def __init__(
        self,
        photographs: Photographs,
        chosen: range,
        views: int,
        augmentation: Mapping[str, Any],
        seed: int,
        threads: int,
    ) -> None:
        # Below two workers Keras reads in the thread that computes.
        super().__init__(workers=max(2, threads), use_multiprocessing=False, max_queue_size=8)
        self.photographs, self.augmentation, self.seed = photographs, augmentation, seed
        self.places = [(view, number) for view in range(views) for number in chosen]

    @property
    def num_batches(self) -> int:
        """Batches of all views."""
        return -(-len(self.places) // BATCH)

    def __getitem__(self, index: int) -> tuple[np.ndarray]:
        """Batch ``index``: uint8 (b, size, size, 3)."""
        places, size = self.places[index * BATCH : (index + 1) * BATCH], self.photographs.size
        pixels = np.empty((len(places), size, size, 3), np.uint8)
        for (view, number), out in zip(places, pixels, strict=True):
            if view == 0:
                self.photographs.read_into(out, number)
            else:
                rng = np.random.default_rng((self.seed, view, photograph_number(self.photographs.images[number])))
                augment.apply(self.photographs[number], augment.draw(self.augmentation, size, rng), out)
        return (pixels,)


def write_features(
    model: keras.Model,
    photographs: Photographs,
    indices: Sequence[Path],
    views: int,
    augmentation: Mapping[str, Any],
    seed: int,
    threads: int,
    features: Path,
    rows: Path,
) -> None:
    """Write ``extract`` of all photographs: ``features`` float16 (n, 2 d), ``rows`` a table of image and digest.

    ``indices`` are the index tables of the photographs. Memory does not grow with their number.
    """
    rows.unlink(missing_ok=True)  # or a kill between the two files would leave new features beside old rows
    shape = (len(photographs), 2 * model.output_shape[-1])
    with whole_file(features) as part, open(part, "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f2", "fortran_order": False, "shape": shape})
        for some in extract(model, photographs, views, augmentation, seed, threads):
            file.write(some.tobytes())
    digests = {row["image"]: row["digest"] for index in indices for row in stream_table(index, ROW_COLUMNS)}
    write_table(rows, ROW_COLUMNS, ({"image": image, "digest": digests[image]} for image in photographs.images))


def read_features(features: str | os.PathLike[str], rows: str | os.PathLike[str]) -> tuple[np.ndarray, list[str]]:
    """Features float16 (n, 2 d) of ``write_features`` and the names of the n images.

    Raises ``RetinaflowError`` if either file is missing, damaged or they do not belong together.
    """
    try:
        array = np.load(features, allow_pickle=False)
    except Exception as error:  # NumPy has no one exception for a file that is not an array
        raise RetinaflowError(f"{features}: cannot be read as an array of features ({error}). {REBUILD}") from error
    if array.dtype != np.float16 or array.ndim != 2 or array.shape[1] % 2 or not np.isfinite(array).all():
        raise RetinaflowError(
            f"{features}: found {array.dtype} {array.shape}; expected finite float16 (n, 2 d). {REBUILD}"
        )
    images = [row["image"] for row in read_table(rows, ROW_COLUMNS)]
    if len(images) != len(array):
        raise RetinaflowError(
            f"{features}: found {len(array)} photographs, but {len(images)} rows in {rows}; expected as many. "
            "Delete both files and run again to rebuild them."
        )
    return array, images
