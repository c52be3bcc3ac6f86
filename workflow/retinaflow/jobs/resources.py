"""Memory and run time that jobs request from a scheduler. This module imports nothing heavy.

All estimates are on the high side. A scheduler ends a job that requests too little. A job that requests too much only
waits a little longer.

Functions take ``attempt``, which starts at 1. The request grows in proportion to it.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from retinaflow.data.sources import PREDICTED
from retinaflow.networks.extractor_files import extractor_file, megabytes
from retinaflow.settings.train import TrainingSettings
from retinaflow.training.schedule import VIEWS


class Cost(NamedTuple):
    """Cost of a backbone for one image of 224 pixels. ``tests/jobs/test_resources.py`` counts it again.

    Attributes:
        parameters: Million parameters.
        activations: Million output values of all layers.
        operations: Thousand million multiplications with additions, in a forward pass.
    """

    parameters: float
    activations: float
    operations: float


COSTS = {
    "VGG16": Cost(14.7, 15.2, 15.3),
    "VGG19": Cost(20, 16.5, 19.5),
    "ResNet50": Cost(23.6, 37.1, 3.86),
    "ResNet101": Cost(42.7, 55.9, 7.57),
    "ResNet152": Cost(58.4, 79.1, 11.3),
    "ResNet50V2": Cost(23.6, 31.4, 3.48),
    "ResNet101V2": Cost(42.6, 51.3, 7.19),
    "ResNet152V2": Cost(58.3, 75.8, 10.9),
    "InceptionV3": Cost(21.8, 16.7, 2.84),
    "InceptionResNetV2": Cost(54.3, 40.7, 6.47),
    "Xception": Cost(20.9, 34.6, 4.55),
    "MobileNet": Cost(3.23, 16.8, 0.568),
    "MobileNetV2": Cost(2.26, 21.8, 0.299),
    "NASNetMobile": Cost(4.27, 27.7, 0.563),
    "NASNetLarge": Cost(84.9, 129, 10.3),
    "DenseNet121": Cost(7.04, 49.9, 2.83),
    "DenseNet169": Cost(12.6, 60.1, 3.36),
    "DenseNet201": Cost(18.3, 77.3, 4.29),
    "EfficientNetB0": Cost(4.05, 25.1, 0.385),
    "EfficientNetB1": Cost(6.58, 34.5, 0.568),
    "EfficientNetB2": Cost(7.77, 36.1, 0.658),
    "EfficientNetB3": Cost(10.8, 47.8, 0.961),
    "EfficientNetB4": Cost(17.7, 62.1, 1.5),
    "EfficientNetB5": Cost(28.5, 85, 2.35),
    "EfficientNetB6": Cost(41, 109, 3.36),
    "EfficientNetB7": Cost(64.1, 145, 5.17),
    "EfficientNetV2B0": Cost(5.92, 16.2, 0.717),
    "EfficientNetV2B1": Cost(6.93, 21.4, 1.01),
    "EfficientNetV2B2": Cost(8.77, 23.1, 1.17),
    "EfficientNetV2B3": Cost(12.9, 28.9, 1.61),
    "EfficientNetV2S": Cost(20.3, 42.0, 2.85),
    "EfficientNetV2M": Cost(53.2, 68.1, 5.36),
    "EfficientNetV2L": Cost(118, 120, 12.2),
    "MobileNetV3Small": Cost(0.939, 5.36, 0.055),
    "MobileNetV3Large": Cost(3.00, 15.4, 0.214),
    "ConvNeXtTiny": Cost(27.8, 30.3, 4.45),
    "ConvNeXtSmall": Cost(49.5, 47.9, 8.68),
    "ConvNeXtBase": Cost(87.6, 63.7, 15.4),
    "ConvNeXtLarge": Cost(196, 95.4, 34.4),
    "ConvNeXtXLarge": Cost(348, 127, 60.9),
}

# Million output values and thousand million operations of a network by path, for each million parameters. A vision
# transformer has 0.2 operations (ViT-L of 16 px: 304 million parameters, 61.6 operations) and 0.3 values.
VALUES_A_PARAMETER, OPERATIONS_A_PARAMETER = 0.3, 0.2
LEAST_VALUES = 40

# MB of a process without and with a network. TensorFlow needs 0.8 GB. With a GPU, its libraries and pinned buffers add
# to this.
LIGHT = 1000
NETWORK = 5000
# MB for a million pixels: three bytes each, and a second copy during the crop.
DECODED_MEMORY = 6
# MB for an image in tables that a stage holds in memory. benchmarks/scaling.py finds up to 2.0 kB.
ROW = 1 / 500
# Images that one thread reads from a slow shared disk and decodes, per second.
READ = 5
# MB for 8,192 features of an image in float32, four times: original, scaled, of training patients, and reduced.
FITTED = 4 * 4 * 8192 / 1e6
# Seconds of all rounds of a fit for one image.
FIT = 1 / 20
# Images in one batch of scoring.
SCORED = 32
# Copies of the weights, and images that are computed, in a conversion.
CONVERTED, COMPARED = 6, 4
# Largest number of features that a backbone has for the head.
FEATURES = 2048
# Thousand million operations that a modest GPU sustains in float32, per second.
SPEED = 1000
# Largest number of images that reach a GPU, per second.
FEED = 500
# Minutes. A job starts Snakemake twice and TensorFlow once.
START = 10
# Minutes. Many partitions end a job after a day. A training run then resumes in the next job.
DAY = 24 * 60


def cost_of(backbone: str) -> Cost:
    """Cost of a backbone. That of a backbone by path is estimated from the size of its files."""
    if not extractor_file(backbone):
        return COSTS[backbone]
    parameters = megabytes(backbone) / 4
    return Cost(parameters, LEAST_VALUES + VALUES_A_PARAMETER * parameters, OPERATIONS_A_PARAMETER * parameters)


def reading_memory(pixel_limit: int, threads: int, *, images: int, attempt: int = 1) -> int:
    """MB for ``threads`` that decode images of up to ``pixel_limit`` megapixels, and the rows of all ``images``."""
    return attempt * math.ceil(LIGHT + DECODED_MEMORY * pixel_limit * threads + ROW * images)


def table_memory(images: int, attempt: int = 1) -> int:
    """MB for a stage that holds the rows of ``images`` and decodes none."""
    return attempt * math.ceil(LIGHT + ROW * images)


def reading_minutes(images: float, threads: int, attempt: int = 1) -> int:
    """Minutes to read and decode ``images``."""
    return _minutes(images / (READ * threads), attempt)


def unpacking_minutes(megabytes: float, attempt: int = 1) -> int:
    """Minutes to unpack an archive of this size, at 10 MB/s."""
    return _minutes(megabytes / 10, attempt)


def network_memory(settings: TrainingSettings, images: int, *, training: bool, attempt: int = 1) -> int:
    """MB of host memory for a network, in case that it has to compute on the CPU.

    Training holds weights, gradients, two moments, an optional average, and the outputs of all layers with their
    gradients. Scoring holds weights and outputs. Both hold an index of the images. Training of the head holds two
    copies of the features of all images.

    Args:
        settings: Training settings of the network.
        images: Number of images.
        training: Whether the job trains, rather than scores.
        attempt: Number of the attempt.
    """
    cost = cost_of(settings.backbone)
    weights = 4 * cost.parameters * (4 + bool(settings.ema) if training else 1)
    row = ROW + (2 * 4 * FEATURES / 1e6 if training and settings.head_epochs else 0)
    outputs = 4 * cost.activations * area(settings.image_size) * (2 * settings.batch_size if training else SCORED)
    return attempt * math.ceil(NETWORK + row * images + 1.25 * (weights + outputs))


def conversion_memory(settings: TrainingSettings, attempt: int = 1) -> int:
    """MB of host memory for the conversion of a network to ONNX, which does not depend on the number of images.

    Weights are in memory several times: in two networks of Keras, the graph of TensorFlow, the file, its bytes and its
    session. A few images are computed.

    Args:
        settings: Training settings of the network.
        attempt: Number of the attempt.
    """
    cost = cost_of(settings.backbone)
    weights = 4 * cost.parameters * CONVERTED
    outputs = 4 * cost.activations * area(settings.image_size) * COMPARED
    return attempt * math.ceil(NETWORK + 1.25 * (weights + outputs))


def training_minutes(settings: TrainingSettings, train: float, *, validation: float, attempt: int = 1) -> int:
    """Minutes for all epochs on a GPU.

    A backward pass takes as long as two forward passes. Training of the head needs a few forward passes. Each of its
    epochs takes a hundredth of the time that reading the images takes.

    Args:
        settings: Training settings of the network.
        train: Number of training images.
        validation: Number of validation images.
        attempt: Number of the attempt.
    """
    forward = _seconds(settings)
    shown = max(forward, 1 / FEED)
    epoch = train * max(3 * forward, 1 / FEED) + validation * shown
    head = settings.head_epochs
    before = (
        min(head, VIEWS) * train * shown + min(head, 1) * validation * shown + head * (train + validation) / FEED / 100
    )
    return _minutes(settings.epochs * epoch + before, attempt)


def scoring_minutes(settings: TrainingSettings, images: float, attempt: int = 1) -> int:
    """Minutes to score ``images`` on a GPU. Each view of an image counts as one."""
    return _minutes(images * max(_seconds(settings), 1 / FEED), attempt)


def predicting_memory(
    networks: Sequence[TrainingSettings],
    pixel_limit: int,
    *,
    threads: int,
    images: int,
    attempt: int = 1,
) -> int:
    """MB to grade ``images`` by all ``networks`` in one process."""
    weights = sum(4 * cost_of(settings.backbone).parameters for settings in networks)
    outputs = max(4 * cost_of(settings.backbone).activations * area(settings.image_size) for settings in networks)
    sizes = {settings.image_size for settings in networks}
    # A batch of one size is in memory twice while it is joined.
    pixels = 2 * PREDICTED * sum(3 * size**2 for size in sizes) / 1e6
    decoded = DECODED_MEMORY * pixel_limit * threads + ROW * images
    return attempt * math.ceil(NETWORK + decoded + pixels + 1.25 * (weights + SCORED * outputs))


def predicting_minutes(
    networks: Sequence[TrainingSettings], views: int, *, threads: int, images: int, attempt: int = 1
) -> int:
    """Minutes to read ``images`` and score ``views`` of each by all ``networks``."""
    seconds = views * sum(max(_seconds(network), 1 / FEED) for network in networks)
    return _minutes(images * (1 / (READ * threads) + seconds), attempt)


def probe_memory(images: int, attempt: int = 1) -> int:
    """MB to fit a linear model to the features of ``images``, for both eyes and the widest layer of all backbones."""
    return attempt * math.ceil(LIGHT + FITTED * images)


def probe_minutes(images: int, attempt: int = 1) -> int:
    """Minutes to fit a linear model to the features of ``images`` on a few cores."""
    return _minutes(FIT * images, attempt)


def device_memory(settings: TrainingSettings, value: int) -> float:
    """GB of each device in training, for layers with outputs of ``value`` bytes.

    The estimate is that of ``network_memory`` without the memory of the backend.
    """
    cost = cost_of(settings.backbone)
    weights = 4 * cost.parameters * (4 + bool(settings.ema))
    outputs = 2 * value * cost.activations * area(settings.image_size) * settings.batch_size / settings.gpus
    return 1.25 * (weights + outputs) / 1000


def area(size: int) -> float:
    """Area of an image of ``size`` px in multiples of 224 x 224."""
    return float((size / 224) ** 2)


def _seconds(settings: TrainingSettings) -> float:
    """Seconds of a forward pass of one image. An operation is a multiplication and an addition."""
    return 2 * cost_of(settings.backbone).operations * area(settings.image_size) / SPEED


def _minutes(seconds: float, attempt: int) -> int:
    return min(DAY, attempt * math.ceil(START + 1.5 * seconds / 60))
