"""Trained networks as ONNX graphs with all that prediction and heat maps need. Converts with TensorFlow and tf2onnx.

A graph maps ``pixels``, uint8 RGB (n, size, size, 3), to

- ``outputs``: raw outputs, float32 (n, width);
- ``map_1``, ``map_2`` and so on: the feature maps whose means the head reads, float32 (n, height, width, channels).
  Features without places in the image, such as those of a backbone by path, have one place with zeros: no heat map;
- ``relevance``: weights of the channels of all maps for each of k grades as the answer, float32 (n, k, channels). The
  weighted sum of the maps is the heat map of module ``explain``.

The graph of a frozen backbone maps ``pixels`` to ``features`` alone, float32 (n, channels).
"""

import logging
import math
from collections.abc import Sequence
from pathlib import Path

import keras
import numpy as np

from retinaflow.errors import RetinaflowError
from retinaflow.networks.building import refresh_scaling
from retinaflow.serving.bundle import BACKBONE_FEATURES
from retinaflow.serving.graph_check import graph_fault
from retinaflow.serving.repeatable import make_repeatable
from retinaflow.serving.sessions import MAP, OUTPUTS, PIXELS, RELEVANCE, graph_session
from retinaflow.storage.disk_errors import disk_refusal
from retinaflow.storage.files import whole_file

log = logging.getLogger(__name__)

CHECKED = 4  # drawn images on which the graph is compared with Keras
# Largest difference of raw outputs. Rounding makes 1e-6 of it; a layer that was converted wrongly makes more than this.
TOLERANCE = 1e-4


def convert_network(model: keras.Model, objective: str, grade_count: int, path: Path) -> None:
    """Write a network as an ONNX graph, and check that it answers like Keras.

    Args:
        model: Network of ``building.build``.
        objective: Kind of its raw outputs.
        grade_count: Number of grades.
        path: File to write.

    Raises:
        RetinaflowError: The network cannot be converted.
    """
    known = convertible(model)
    pool = known.get_layer("pool")
    means = pool.input if isinstance(pool.input, list) else [pool.output]
    maps = [_map(mean) for mean in means]
    whole = keras.Model(
        known.inputs,
        {
            OUTPUTS: keras.layers.Identity(name="as_outputs")(known.output),
            **{f"{MAP}{number}": each for number, each in enumerate(maps, start=1)},
            RELEVANCE: _relevance(known, objective, grade_count),
        },
    )
    _export(whole, (OUTPUTS, RELEVANCE), model.name, path)


def convert_backbone(model: keras.Model, path: Path) -> None:
    """Write a network of ``features.frozen_backbone`` as an ONNX graph, and check that it answers like Keras.

    Raises:
        RetinaflowError: The network cannot be converted.
    """
    known = convertible(model)
    features = keras.layers.Identity(name="as_features")(known.output)
    _export(keras.Model(known.inputs, {BACKBONE_FEATURES: features}), (BACKBONE_FEATURES,), model.name, path)


def _export(whole: keras.Model, names: Sequence[str], name: str, path: Path) -> None:
    """Write ``whole`` as an ONNX graph, and check its outputs ``names``. The first one decides."""
    size = whole.input_shape[1]
    drawn = np.random.default_rng(0).integers(0, 256, (CHECKED, size, size, 3), np.uint8)
    expected = whole(drawn, training=False)  # Keras exports only a model that was called.
    with whole_file(path) as part:
        try:
            write_onnx(whole, part)
            content = part.read_bytes()
            found = graph_session(content, 1).run(list(names), {PIXELS: drawn})
        except (OSError, MemoryError):
            raise
        except Exception as error:  # Converters raise errors of many kinds.
            if disk_refusal(error):  # TensorFlow writes to temporary files, too.
                raise
            cause = " ".join(str(error).split())[-400:]
            raise RetinaflowError(
                f"{name}: ONNX cannot hold this network ({type(error).__name__}: {cause}). Choose another backbone."
            ) from error
        fault = graph_fault(content)
        apart = [
            _apart(array, keras.ops.convert_to_numpy(expected[output]))
            for output, array in zip(names, found, strict=True)
        ]
        log.info("%s: %d bytes; largest difference from Keras on noise %.1e", path, len(content), apart[0])
        if fault or apart[0] > TOLERANCE:
            raise RetinaflowError(
                f"{name}: its ONNX graph cannot be used ({fault or f'raw outputs differ by {apart[0]:.2g}'}). "
                "Choose another backbone."
            )


def _apart(found: np.ndarray, expected: np.ndarray) -> float:
    """Return the largest difference; of values above 1, as features may be, as a share of the largest."""
    return float(np.abs(found - expected).max() / max(1.0, np.abs(expected).max()))


def _map(mean: keras.KerasTensor) -> keras.KerasTensor:
    """Return the maps (n, height, width, channels) of their mean. Features without places in the image have zeros."""
    maps = mean._keras_history.operation.input
    return maps if len(maps.shape) == 4 else keras.ops.expand_dims(0 * mean, (1, 2))


def _relevance(model: keras.Model, objective: str, grade_count: int) -> keras.KerasTensor:
    """Gradient of the score of each grade with respect to the input of the head, (n, k, d), as in ``explain``."""
    names = [layer.name for layer in model.layers]
    head = model.layers[names.index("pool") + 1 :]
    outputs = model.output
    signs = np.where(np.arange(grade_count) > 0, 1, -1).astype(np.float32)[np.newaxis, :, np.newaxis]
    if objective == "softmax":
        chosen = keras.ops.expand_dims(outputs / (outputs + keras.config.epsilon()), -1)
        gradient = chosen * keras.ops.subtract(np.eye(grade_count, dtype=np.float32), keras.ops.expand_dims(outputs, 1))
    elif objective == "ordinal":
        gradient = keras.ops.expand_dims(outputs * (1 - outputs), 1) * signs
    else:
        # 0 * outputs: a constant would have no dimension of the images.
        gradient = 0 * keras.ops.expand_dims(outputs, 1) + signs
    last = True
    for layer in reversed(head):
        if isinstance(layer, keras.layers.Dense):
            # The derivative of the last activation is in the score; hidden layers have ReLU.
            if not last and layer.activation is keras.activations.relu:
                gradient = gradient * keras.ops.expand_dims(keras.ops.cast(layer.output > 0, "float32"), 1)
            gradient = keras.ops.matmul(gradient, keras.ops.convert_to_numpy(layer.kernel).T)
            last = False
        elif isinstance(layer, keras.layers.BatchNormalization):
            variance = keras.ops.convert_to_numpy(layer.moving_variance)
            gradient = gradient * (1 / np.sqrt(variance + layer.epsilon)).astype(np.float32)
    return gradient


def write_onnx(model: keras.Model, path: Path) -> None:
    """Write a model of ``convertible`` as an ONNX graph, the same bytes each time."""
    # tf2onnx logs an error with a traceback for an optimisation that it leaves out.
    logging.getLogger("tf2onnx").setLevel(logging.CRITICAL)
    model.export(path, format="onnx", verbose=False)
    make_repeatable(path)


def convertible(model: keras.Model) -> keras.Model:
    """Return the same model with layers that converters know.

    tf2onnx takes the constants of Keras's normalisation (EfficientNetV2) for inputs. XLA compiles convolutions of one
    channel each (ConvNeXt).
    """

    def known(layer: keras.layers.Layer) -> keras.layers.Layer:
        if isinstance(layer, keras.layers.Normalization) and layer.input_mean is not None:
            mean, deviation = (np.ravel(keras.ops.convert_to_numpy(each)) for each in (layer.mean, layer.variance**0.5))
            scale = 1 / np.maximum(deviation, keras.config.epsilon())
            return keras.layers.Rescaling(scale.tolist(), (-mean * scale).tolist(), name=layer.name)
        if isinstance(layer, keras.layers.Conv2D) and layer.groups == layer.filters > 1:
            options = {name: getattr(layer, name) for name in ("strides", "padding", "use_bias", "activation", "name")}
            return keras.layers.DepthwiseConv2D(layer.kernel_size, **options)
        if isinstance(layer, keras.layers.Activation) and layer.activation is keras.activations.gelu:
            return keras.layers.Activation(_gelu, name=layer.name)
        return layer.__class__.from_config(layer.get_config())

    copy = keras.models.clone_model(model, clone_function=known, recursive=True)
    copy.set_weights(
        [
            # The kernel (height, width, 1, channels) is (height, width, channels, 1) in a depthwise layer.
            value if value.shape == tuple(place.shape) else np.swapaxes(value, 2, 3)
            for value, place in zip(model.get_weights(), copy.weights, strict=True)
        ]
    )
    refresh_scaling(copy)
    copy(np.zeros((1, *copy.input_shape[1:]), np.uint8))  # Keras exports only a model that was called.
    return copy


def _gelu(x: keras.KerasTensor) -> keras.KerasTensor:
    """Hendrycks and Gimpel 2016, arXiv:1606.08415, with the error function, not its complement."""
    return 0.5 * x * (1 + keras.ops.erf(x / math.sqrt(2)))
