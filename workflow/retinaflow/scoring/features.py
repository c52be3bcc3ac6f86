"""Features of photographs: what a layer puts out, averaged over the photograph, and how that varies over views."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np

from retinaflow.errors import RetinaflowError
from retinaflow.networks import devices
from retinaflow.networks.backbones import BACKBONES
from retinaflow.networks.building import load_backbone, normalise, pooled, up_to
from retinaflow.preprocessing import augmentation
from retinaflow.preprocessing.batches import Images, image_number
from retinaflow.preprocessing.shards import ROW_COLUMNS
from retinaflow.storage.files import whole_file
from retinaflow.storage.tables import stream_table, write_table

BATCH = 32
AT_ONCE = 512  # photographs whose views are in memory together


def frozen_backbone(
    backbone: str, size: int, layers: Sequence[str], weights: Path | None, seed: int, threads: int
) -> keras.Model:
    """A model from uint8 RGB (n, size, size, 3) to float32 (n, channels): what ``layers`` put out, over their area.

    ``layers`` are names, as for ``model.up_to``. ``weights`` is a weights file for the backbone without its top, or
    None for random ones, which follow from ``seed``. Pixels are normalised as the weights expect.

    Raises ``RetinaflowError`` if the weights do not fit or there is no such layer.
    """
    devices.prepare(seed, threads)
    devices.full_float32()
    network = up_to(load_backbone(backbone, size, weights), layers)
    pixels = keras.Input((size, size, 3), dtype="uint8", name="pixels")
    maps = network(normalise(pixels, "imagenet", BACKBONES[backbone].input_mode))
    return keras.Model(pixels, pooled(maps), name=backbone)


def fine_tuned(model: keras.Model) -> keras.Model:
    """A trained model up to what enters its head: from uint8 RGB (n, size, size, 3) to float32 (n, channels)."""
    return keras.Model(model.inputs, model.get_layer("pool").output, name=model.name)


def extract(
    model: keras.Model,
    photographs: Images,
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
                f"{model.name}: the features of {photographs.names[start + row]!r} have the value "
                f"{features[row, column]:g}, expected -65504 to 65504, which float16 holds. Set feature_layers to "
                "other layers, or weights to others."
            )
        yield features.astype(np.float16)


class _Views(keras.utils.PyDataset):
    """Batches of ``chosen`` photographs: all of them as they are, then all of them changed, view after view."""

    def __init__(
        self,
        photographs: Images,
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
                rng = np.random.default_rng((self.seed, view, image_number(self.photographs.names[number])))
                augmentation.augment(self.photographs[number], self.augmentation, rng, out)
        return (pixels,)


def write_features(
    model: keras.Model,
    photographs: Images,
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
    write_table(rows, ROW_COLUMNS, ({"image": image, "digest": digests[image]} for image in photographs.names))
