"""Memory and time to ask a scheduler for, from what the stages are known to take. Imports nothing heavy.

All of it errs on the high side: who asks for too little is ended, who asks for too much waits a little longer.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

from retinaflow.settings.train import TrainingSettings
from retinaflow.training.schedule import VIEWS


class Cost(NamedTuple):
    """What a backbone takes for one photograph of 224 pixels; `tests/test_resources.py` counts it again.

    ``parameters``: million; ``activations``: million values that its layers put out; ``operations``: thousand million
    multiplications with additions, forwards.
    """

    parameters: float
    activations: float
    operations: float


COSTS = {
    "VGG16": Cost(14.7, 15.2, 15.3),
    "ResNet50": Cost(23.6, 37.1, 3.86),
    "ResNet50V2": Cost(23.6, 31.4, 3.48),
    "InceptionV3": Cost(21.8, 16.7, 2.84),
    "EfficientNetV2B0": Cost(5.92, 16.2, 0.717),
    "EfficientNetV2B1": Cost(6.93, 21.4, 1.01),
    "EfficientNetV2B2": Cost(8.77, 23.1, 1.17),
    "EfficientNetV2B3": Cost(12.9, 28.9, 1.61),
    "EfficientNetV2S": Cost(20.3, 42.0, 2.85),
    "MobileNetV3Small": Cost(0.939, 5.36, 0.055),
    "MobileNetV3Large": Cost(3.00, 15.4, 0.214),
    "ConvNeXtTiny": Cost(27.8, 30.3, 4.45),
}

# MB. TensorFlow itself takes 0.8 GB; with a GPU, its libraries and pinned buffers come on top.
LIGHT = 1000
NETWORK = 5000
# MB a million pixels: the photograph in three bytes, and as much again while it is cropped.
DECODED = 6
# MB a photograph in the tables that a stage holds as a whole: benchmarks/scaling.py finds up to 2.0 kB.
ROW = 1 / 500
# Photographs a second that one thread reads from a slow shared disk and decodes whole.
READ = 5
# MB a photograph of 8,192 features in float32, four times: as they are, scaled, of training patients, and reduced; and
# seconds that all rounds of a fit take a photograph.
FITTED = 4 * 4 * 8192 / 1e6
FIT = 1 / 20
# Photographs that are scored at once.
SCORED = 32
# New photographs that are in memory at once.
PREDICTED = 256
# Values that a backbone makes of a photograph at most, for the head.
FEATURES = 2048
# Thousand million operations a second that a modest GPU sustains in float32; and photographs a second at best.
SPEED = 1000
FEED = 500
# Minutes. A job starts Snakemake twice and TensorFlow once. Many partitions end a job after a day; a training goes on.
START = 10
DAY = 24 * 60


def reading_memory(pixel_limit: int, threads: int, photographs: int, attempt: int = 1) -> int:
    """MB for ``threads`` that decode photographs of up to ``pixel_limit`` megapixels, and rows of ``photographs``."""
    return attempt * math.ceil(LIGHT + DECODED * pixel_limit * threads + ROW * photographs)


def table_memory(photographs: int, attempt: int = 1) -> int:
    """MB for a stage that holds rows of ``photographs`` and decodes none."""
    return attempt * math.ceil(LIGHT + ROW * photographs)


def reading_minutes(photographs: float, threads: int, attempt: int = 1) -> int:
    """Minutes to read and decode ``photographs``."""
    return _minutes(photographs / (READ * threads), attempt)


def unpacking_minutes(megabytes: float, attempt: int = 1) -> int:
    """Minutes to unpack an archive of that size, at 10 MB/s."""
    return _minutes(megabytes / 10, attempt)


def network_memory(settings: TrainingSettings, photographs: int, training: bool, attempt: int = 1) -> int:
    """MB of the host's memory for a network with its ``train`` settings, should it have to compute on the CPU.

    Training holds weights, gradients, two moments and perhaps an average, the outputs of all layers and their
    gradients; scoring a part. Either has an index of its ``photographs``. Where the head is trained first, there are
    features of all of them, in two copies.
    """
    cost = COSTS[settings.backbone]
    weights = 4 * cost.parameters * (4 + bool(settings.ema) if training else 1)
    row = ROW + (2 * 4 * FEATURES / 1e6 if training and settings.head_epochs else 0)
    outputs = 4 * cost.activations * area(settings.image_size) * (2 * settings.batch_size if training else SCORED)
    return attempt * math.ceil(NETWORK + row * photographs + 1.25 * (weights + outputs))


def training_minutes(settings: TrainingSettings, train: float, validation: float, attempt: int = 1) -> int:
    """Minutes for all epochs on a GPU; a backward pass takes as much as two forwards.

    The head takes a few passes forwards; of its own epochs, a hundredth of what it takes to feed photographs.
    """
    forward = _seconds(settings)
    shown = max(forward, 1 / FEED)
    epoch = train * max(3 * forward, 1 / FEED) + validation * shown
    head = settings.head_epochs
    before = (
        min(head, VIEWS) * train * shown + min(head, 1) * validation * shown + head * (train + validation) / FEED / 100
    )
    return _minutes(settings.epochs * epoch + before, attempt)


def scoring_minutes(settings: TrainingSettings, photographs: float, attempt: int = 1) -> int:
    """Minutes to predict ``photographs`` on a GPU and judge the predictions; each view of one counts."""
    return _minutes(photographs * max(_seconds(settings), 1 / FEED), attempt)


def predicting_memory(
    networks: Sequence[TrainingSettings],
    pixel_limit: int,
    threads: int,
    photographs: int,
    attempt: int = 1,
) -> int:
    """MB to grade ``photographs`` by all ``networks`` at once."""
    weights = sum(4 * COSTS[settings.backbone].parameters for settings in networks)
    outputs = max(4 * COSTS[settings.backbone].activations * area(settings.image_size) for settings in networks)
    sizes = {settings.image_size for settings in networks}
    # While they are put together, those of one size are there twice.
    pixels = 2 * PREDICTED * sum(3 * size**2 for size in sizes) / 1e6
    decoded = DECODED * pixel_limit * threads + ROW * photographs
    return attempt * math.ceil(NETWORK + decoded + pixels + 1.25 * (weights + SCORED * outputs))


def predicting_minutes(
    networks: Sequence[TrainingSettings], views: int, threads: int, photographs: int, attempt: int = 1
) -> int:
    """Minutes to read ``photographs`` and grade all ``views`` of them by all ``networks``."""
    seconds = views * sum(max(_seconds(network), 1 / FEED) for network in networks)
    return _minutes(photographs * (1 / (READ * threads) + seconds), attempt)


def probe_memory(photographs: int, attempt: int = 1) -> int:
    """MB to fit the features of ``photographs``, both eyes', of the widest layer there is."""
    return attempt * math.ceil(LIGHT + FITTED * photographs)


def probe_minutes(photographs: int, attempt: int = 1) -> int:
    """Minutes for that, on a few cores."""
    return _minutes(FIT * photographs, attempt)


def device_memory(settings: TrainingSettings, value: int) -> float:
    """GB of each device that trains a network together, whose layers put out values of ``value`` bytes.

    As ``network_memory`` counts it, without what the backend takes for itself.
    """
    cost = COSTS[settings.backbone]
    weights = 4 * cost.parameters * (4 + bool(settings.ema))
    outputs = 2 * value * cost.activations * area(settings.image_size) * settings.batch_size / settings.gpus
    return 1.25 * (weights + outputs) / 1000


def area(size: int) -> float:
    """How many times 224 x 224 a photograph of ``size`` px is."""
    return float((size / 224) ** 2)


def _seconds(settings: TrainingSettings) -> float:
    """Of one photograph, forwards; an operation is a multiplication and an addition."""
    return 2 * COSTS[settings.backbone].operations * area(settings.image_size) / SPEED


def _minutes(seconds: float, attempt: int) -> int:
    return min(DAY, attempt * math.ceil(START + 1.5 * seconds / 60))
