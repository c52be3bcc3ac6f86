"""Features of images: the outputs of a layer, pooled over the image, and their deviation over random views."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import keras
import numpy as np
import pandas as pd

from retinaflow.data.frames import read_frame, write_frame
from retinaflow.errors import RetinaflowError
from retinaflow.networks import devices
from retinaflow.networks.backbones import BACKBONES
from retinaflow.networks.batch_progress import BatchProgress
from retinaflow.networks.building import load_backbone, normalise, pooled, prepared, up_to
from retinaflow.networks.earlier_model import COPY, earlier_model, read_record
from retinaflow.networks.earlier_weights import take_backbone
from retinaflow.networks.extractor_files import backbone_name, extractor_file, is_onnx
from retinaflow.networks.keras_files import load_safely
from retinaflow.networks.onnx_extractor import OnnxExtractor
from retinaflow.preprocessing import augmentation
from retinaflow.preprocessing.batches import Images
from retinaflow.preprocessing.shards import ROW_COLUMNS
from retinaflow.settings.augment import AugmentSettings
from retinaflow.settings.train import NormalisationSettings
from retinaflow.storage.integrity import recorded_file

BATCH = 32
AT_ONCE = 512  # images whose views are in memory together


class Extractor(Protocol):
    """Network from uint8 RGB (n, size, size, 3) to features (n, d): of Keras, or of ``networks.onnx_extractor``."""

    name: str
    output_shape: Any

    def predict(self, batches: Any, verbose: int = ..., callbacks: Any = ...) -> np.ndarray: ...


@dataclass(frozen=True)
class FeatureViews:
    """Views of each image. Features are their mean and standard deviation.

    The first view is the image itself. The others are random changes of it, which follow from (seed, view, image).

    Args:
        count: Number of views.
        augment: Ranges of the random changes.
        seed: Seed of the changes.
    """

    count: int
    augment: AugmentSettings
    seed: int


def frozen_backbone(
    backbone: str,
    size: int,
    *,
    layers: Sequence[str],
    weights: Path | None,
    seed: int,
    threads: int,
    normalisation: str | NormalisationSettings,
    pooling: str,
    poolings: Sequence[str] = ("mean",),
    root: bool = False,
) -> Extractor:
    """Return a network from images to the features of a backbone.

    Pixels are normalised as the weights expect.

    Args:
        backbone: Name of the backbone.
        size: Side of the images in pixels.
        layers: Names of the layers, as for ``building.up_to``.
        weights: Weights file of the backbone without its top, Keras file of an earlier model, or None for random
            weights.
        seed: Seed of random weights.
        threads: Number of threads on a CPU.
        normalisation: Input of a backbone by path, as ``train.normalisation``.
        pooling: Features of tokens of a backbone by path, as ``train.pooling``.
        poolings: Values of each channel over the image, as ``features.poolings``. A backbone by path has means alone.
        root: Whether to replace the values by their square roots, as ``features.root``.

    Returns:
        Network from uint8 RGB (n, size, size, 3) to float32 (n, d), the values of all channels of each layer in turn.

    Raises:
        RetinaflowError: The weights do not fit, or there is no such layer.
    """
    if is_onnx(backbone):
        return OnnxExtractor(
            Path(backbone), size, outputs=layers, normalisation=normalisation, pooling=pooling, threads=threads
        )
    devices.prepare_process(seed, threads)
    devices.full_float32()
    if extractor_file(backbone):
        return _of_file(backbone, size, layers, normalisation, pooling=pooling)
    earlier = earlier_model(weights) if weights else None
    record = read_record(earlier) if earlier else {}
    kind = record["settings"]["normalisation"] if earlier else "imagenet"
    own = load_backbone(backbone, size, None if earlier else weights, normalised=kind == "imagenet")
    network = up_to(own, layers)
    pixels = keras.Input((size, size, 3), dtype="uint8", name="pixels")
    maps = network(normalise(pixels, kind, BACKBONES[backbone].input_mode, record.get("channel_statistics")))
    model = keras.Model(pixels, _pooled(maps, poolings, root), name=backbone)
    if earlier:
        take_backbone(model, load_safely(earlier, "model", COPY), earlier)
    return model


def _pooled(
    maps: keras.KerasTensor | Sequence[keras.KerasTensor], poolings: Sequence[str], root: bool
) -> keras.KerasTensor:
    """Join values of each channel of the ``maps`` (n, height, width, channels) over their area: (n, d)."""
    if list(poolings) == ["mean"]:
        joined = pooled(maps)
    else:
        every = [maps] if isinstance(maps, keras.KerasTensor) else list(maps)
        joined = keras.ops.concatenate([_over_area(each, name) for each in every for name in poolings], axis=1)
    return keras.ops.sign(joined) * keras.ops.sqrt(keras.ops.abs(joined)) if root else joined


def _over_area(maps: keras.KerasTensor, pooling: str) -> keras.KerasTensor:
    """Pool maps (n, height, width, channels) over their area: (n, channels)."""
    if pooling == "max":
        return keras.ops.max(maps, axis=(1, 2))
    mean = keras.ops.mean(maps, axis=(1, 2), keepdims=True)
    if pooling == "std":
        return keras.ops.sqrt(keras.ops.mean(keras.ops.square(maps - mean), axis=(1, 2)))
    if pooling == "generalised":  # Radenovic et al. 2019, IEEE TPAMI 41(7), with a power of 3.
        return keras.ops.maximum(keras.ops.mean(maps * maps * maps, axis=(1, 2)), 0.0) ** (1 / 3)
    return keras.ops.squeeze(mean, axis=(1, 2))


def _of_file(
    backbone: str, size: int, layers: Sequence[str], normalisation: str | NormalisationSettings, *, pooling: str
) -> keras.Model:
    """Return the network of a Keras file, up to its features."""
    network = up_to(load_backbone(backbone, size), layers)
    pixels = keras.Input((size, size, 3), dtype="uint8", name="pixels")
    maps = network(prepared(pixels, network, backbone, normalisation))
    return keras.Model(pixels, pooled(maps, pooling), name=backbone_name(backbone))


def fine_tuned(model: keras.Model) -> keras.Model:
    """Return the part of a trained network up to the input of its head.

    It maps uint8 RGB (n, size, size, 3) to float32 (n, channels).
    """
    return keras.Model(model.inputs, model.get_layer("pool").output, name=model.name)


def extract(model: Extractor, images: Images, views: FeatureViews, *, threads: int) -> Iterator[np.ndarray]:
    """Compute the features of the images in their order, some images at a time.

    Mean and deviation over views follow github.com/sveitser/kaggle_diabetic, second in the Kaggle competition of 2015.

    Args:
        model: Network from uint8 RGB (n, size, size, 3) to float32 (n, d).
        images: Source of the images.
        views: Views of each image. With one view, the deviations are 0.
        threads: Number of threads that read images.

    Yields:
        float16 (m, 2 d): the means over views, then the standard deviations.

    Raises:
        RetinaflowError: A feature is not finite, or too large for float16.
    """
    for start in range(0, len(images), AT_ONCE):
        chosen = range(start, min(start + AT_ONCE, len(images)))
        batches = _ViewBatches(images, chosen, views=views, threads=threads)
        reported = BatchProgress(f"{len(images):,} images", first=start / len(images), last=chosen.stop / len(images))
        computed = model.predict(batches, verbose=0, callbacks=[reported])
        outputs = computed.reshape(views.count, len(chosen), -1).astype(np.float32)
        features = np.concatenate([outputs.mean(axis=0), outputs.std(axis=0)], axis=1)
        # NaN fails the comparison.
        wrong = ~(np.abs(features) <= np.finfo(np.float16).max)
        if wrong.any():
            row, column = np.argwhere(wrong)[0]
            raise RetinaflowError(
                f"{model.name}: the features of {images.names[start + row]!r} have the value "
                f"{features[row, column]:g}, expected -65504 to 65504, the range of float16. Set feature_layers to "
                "other layers, or weights to others."
            )
        yield features.astype(np.float16)


class _ViewBatches(keras.utils.PyDataset):
    """Batches of the ``chosen`` images: the first view of all images, then the second view of all, and so on."""

    def __init__(self, images: Images, chosen: range, *, views: FeatureViews, threads: int) -> None:
        # Below two workers, Keras reads in the thread that computes.
        super().__init__(workers=max(2, threads), use_multiprocessing=False, max_queue_size=8)
        self.images, self.views = images, views
        self.places = [(view, number) for view in range(views.count) for number in chosen]

    @property
    def num_batches(self) -> int:
        """Return the number of batches of all views."""
        return -(-len(self.places) // BATCH)

    def __getitem__(self, index: int) -> tuple[np.ndarray]:
        """Return batch ``index``, uint8 (b, size, size, 3)."""
        places, size = self.places[index * BATCH : (index + 1) * BATCH], self.images.size
        pixels = np.empty((len(places), size, size, 3), np.uint8)
        for (view, number), out in zip(places, pixels, strict=True):
            if view == 0:
                self.images.read_into(out, number)
            else:
                rng = np.random.default_rng(
                    (self.views.seed, view, augmentation.image_number(self.images.names[number]))
                )
                augmentation.augment(self.images[number], self.views.augment, rng, out)
        return (pixels,)


def write_features(
    model: Extractor,
    images: Images,
    *,
    indices: Sequence[Path],
    views: FeatureViews,
    threads: int,
    features: Path,
    rows: Path,
) -> None:
    """Write the features of all images. Memory does not grow with their number.

    Args:
        model: Network from uint8 RGB (n, size, size, 3) to float32 (n, d).
        images: Source of the images.
        indices: Index tables of the images.
        views: Views of each image.
        threads: Number of threads that read images.
        features: File for the features, float16 (n, 2 d).
        rows: Table for the name and the digest of each image.
    """
    # Otherwise a kill between the two files would leave new features beside old rows.
    rows.unlink(missing_ok=True)
    shape = (len(images), 2 * model.output_shape[-1])
    with recorded_file(features) as unfinished, open(unfinished, "wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f2", "fortran_order": False, "shape": shape})
        for some in extract(model, images, views, threads=threads):
            file.write(some.tobytes())
    listed = pd.concat([read_frame(index, ROW_COLUMNS)[list(ROW_COLUMNS)] for index in indices])
    write_frame(rows, listed.set_index("image").loc[images.names].reset_index())
