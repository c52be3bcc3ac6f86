"""Requests to a scheduler: they grow with the work, and the costs of the backbones are counted again."""

import math

import keras
import pytest

from common import backbones
from retinaflow.jobs import resources
from retinaflow.jobs.resources import COSTS, DAY
from retinaflow.networks.backbones import BACKBONES
from retinaflow.scoring import score
from retinaflow.settings.train import TrainingSettings

SIZES = {"image_size": 224, "batch_size": 32}


def settings(backbone, **changes):
    resolved = {"feature_layers": [], "head_epochs": 0, "learning_rate": 1e-4}
    return TrainingSettings.model_validate({"backbone": backbone, **resolved, **SIZES, **changes})


def training_memory(network, images=0, **attempt):
    return resources.network_memory(network, images, training=True, **attempt)


def outputs(layer):
    tensors = layer.output if isinstance(layer.output, list) else [layer.output]
    return sum(math.prod(tensor.shape[1:]) for tensor in tensors)


def operations(layer):
    if isinstance(layer, keras.layers.DepthwiseConv2D):
        return outputs(layer) * math.prod(layer.kernel_size)
    if isinstance(layer, keras.layers.SeparableConv2D):
        area, channels = math.prod(layer.output.shape[1:3]), layer.input.shape[-1]
        return area * channels * (math.prod(layer.kernel_size) + layer.output.shape[-1])
    if isinstance(layer, keras.layers.Conv2D):
        return outputs(layer) * math.prod(layer.kernel_size) * layer.input.shape[-1] // layer.groups
    if isinstance(layer, keras.layers.Dense):
        return outputs(layer) * layer.kernel.shape[0]
    return 0


@pytest.mark.parametrize("name", backbones())
def test_costs_are_those_of_the_network(name):
    constructor = getattr(keras.applications, BACKBONES[name].constructor)
    network = constructor(weights=None, include_top=False, input_shape=(224, 224, 3))
    # ConvNeXt has nested layers, and a normalisation among its layers.
    layers = [layer for layer in network._flatten_layers(include_self=False) if hasattr(layer, "_inbound_nodes")]
    layers = [layer for layer in layers if layer._inbound_nodes and not isinstance(layer, keras.Model)]
    counted = (
        network.count_params() / 1e6,
        sum(map(outputs, layers)) / 1e6,
        sum(map(operations, layers)) / 1e9,
    )
    assert counted == pytest.approx(COSTS[name], rel=0.01)


@pytest.mark.parametrize("name", BACKBONES)
@pytest.mark.parametrize("key", ["image_size", "batch_size"])
def test_more_pixels_need_more_memory(name, key):
    usual, more = settings(name), settings(name, **{key: 2 * SIZES[key]})
    assert training_memory(more) > training_memory(usual)
    assert training_memory(usual) > resources.network_memory(usual, 0, training=False)


def test_training_memory_by_hand():
    # VGG16: 14.7 million parameters four times, 15.2 million outputs of 32 images twice, 4 bytes each.
    expected = 5000 + 1.25 * 4 * (14.7 * 4 + 15.2 * 32 * 2)
    assert training_memory(settings("VGG16")) == math.ceil(expected)
    averaged = 5000 + 1.25 * 4 * (14.7 * 5 + 15.2 * 32 * 2)
    assert training_memory(settings("VGG16", ema=0.99)) == math.ceil(averaged)
    # An image has 2048 features, in two copies.
    features = expected + 100_000 * (1 / 500 + 2 * 4 * 2048 / 1e6)
    assert training_memory(settings("VGG16", head_epochs=5), 100_000) == math.ceil(features)


def test_scoring_memory_by_hand():
    # Scoring has batches of 32, whatever the batch size of training was.
    expected = 5000 + 2000 + 1.25 * 4 * (14.7 + 15.2 * 32)
    small = settings("VGG16", batch_size=1)
    assert resources.network_memory(small, 1_000_000, training=False) == math.ceil(expected)
    assert resources.SCORED == score.BATCH


def test_memory_of_conversion_by_hand():
    expected = 5000 + 1.25 * 4 * (14.7 * 6 + 15.2 * 4)
    assert resources.conversion_memory(settings("VGG16"), attempt=2) == 2 * math.ceil(expected)


def test_memory_of_other_stages_by_hand():
    assert resources.reading_memory(100, 4, images=35_000) == 1000 + 2400 + 70
    assert resources.table_memory(1_000_000, attempt=2) == 2 * (1000 + 2000)


def test_minutes_by_hand():
    # ResNet50: 3 passes of 7.72 thousand million operations for an image, at a million million per second.
    seconds = 2 * (28_000 * 3 * 0.00772 + 7_000 * 0.00772)
    network = settings("ResNet50", epochs=2)
    assert resources.training_minutes(network, 28_000, validation=7_000) == math.ceil(10 + 1.5 * seconds / 60)
    # The head adds forward passes of four views, at 500 images per second, and six short epochs.
    seconds += (4 * 28_000 + 7_000) * 2 * 0.00386 + 6 * 35_000 / 50_000
    head = settings("ResNet50", epochs=2, head_epochs=6)
    assert resources.training_minutes(head, 28_000, validation=7_000) == math.ceil(10 + 1.5 * seconds / 60)
    assert resources.reading_minutes(1200, 4) == 10 + math.ceil(1.5 * 60 / 60)


def test_probes_by_hand():
    # An image has 8,192 features of four bytes, in four copies.
    assert resources.probe_memory(1000) == 1000 + math.ceil(4 * 8192 * 4 / 1000)
    assert resources.probe_minutes(1200) == 10 + math.ceil(1.5 * 60 / 60)


def test_each_attempt_requests_more_up_to_a_day():
    network = settings("VGG16")
    assert training_memory(network, attempt=2) == 2 * training_memory(network)
    few = [resources.training_minutes(network, 40, validation=10, attempt=attempt) for attempt in (1, 2, 3)]
    assert few == [few[0], 2 * few[0], 3 * few[0]]
    assert resources.training_minutes(network, 10_000_000, validation=10) == DAY
    assert resources.scoring_minutes(network, 50_000) < resources.scoring_minutes(network, 500_000)
    assert resources.unpacking_minutes(80_000) > resources.unpacking_minutes(80) >= 10


def test_predictions_of_new_images_need_more_for_more_work():
    vgg, inception = settings("VGG16"), settings("InceptionV3", image_size=299)
    few = {"networks": [vgg], "pixel_limit": 100, "threads": 2, "images": 1000}
    for more in ({"networks": [vgg, inception]}, {"pixel_limit": 200}, {"threads": 4}, {"images": 9000}):
        assert resources.predicting_memory(**{**few, **more}) > resources.predicting_memory(**few)
    assert resources.predicting_memory(**few, attempt=2) == 2 * resources.predicting_memory(**few)
    minutes = [resources.predicting_minutes([vgg], views, threads=2, images=10_000) for views in (1, 4)]
    assert minutes[0] < minutes[1]
    assert resources.predicting_minutes([vgg], 1, threads=2, images=10**9) == DAY
