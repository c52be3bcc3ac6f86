"""Building of networks: raw uint8 RGB pixels in, raw outputs of the objective out."""

import contextlib
import difflib
import os
import warnings
from collections.abc import Iterator, Sequence
from typing import Any

import keras
import numpy as np
from scipy.special import logit

from retinaflow.errors import RetinaflowError
from retinaflow.networks import devices
from retinaflow.networks.backbones import BACKBONES, TORCH_DEVIATIONS, pixel_scaling
from retinaflow.networks.extractor_files import backbone_name, extractor_file
from retinaflow.networks.kappa import Accuracy, QuadraticWeightedKappa
from retinaflow.networks.keras_extractor import load_extractor
from retinaflow.networks.optimizers import build_optimizer
from retinaflow.networks.weights import EXPECTED_WEIGHTS, SET, weights_fault
from retinaflow.settings.train import NormalisationSettings, TrainingSettings

# Mean and standard deviation of each channel, in values 0 to 255.
Statistics = tuple[Sequence[float], Sequence[float]]

# Channel means of ImageNet in BGR that 'caffe' weights expect to be subtracted (keras.applications.imagenet_utils).
CAFFE_MEANS = (103.939, 116.779, 123.68)

# Least share of a grade for the initial bias. A grade without weight still has a logit that training can move.
LEAST_SHARE = 1e-3
# Added to the variance of a feature, so that a nearly constant feature is not magnified. Deviations are about 0.05.
LEAST_VARIANCE = 1e-5


def build(
    settings: TrainingSettings,
    grade_count: int,
    *,
    weights: str | os.PathLike[str] | None = None,
    statistics: Statistics | None = None,
    precision: str = "float32",
    frequencies: np.ndarray | None = None,
) -> keras.Model:
    """Build a network from uint8 RGB (n, size, size, 3) to float32 raw outputs (n, width).

    Normalisation happens inside, with layers of Keras. The saved file therefore needs neither this library nor the
    statistics of the training split.

    Args:
        settings: Settings of the model.
        grade_count: Number of grades.
        weights: Weights file of the backbone without its top, or None for random weights. These follow from the
            random seed of Keras.
        statistics: Mean and deviation of each channel. Needed for ``normalisation: dataset``.
        precision: Dtype policy of Keras. Mixed ones keep weights, normalisation and probabilities in float32
            (Micikevicius et al. 2018, arXiv:1710.03740).
        frequencies: Frequency of each grade in training, float (grade_count,), each at least 0. The initial outputs
            are about these, so that no epoch is spent on learning them (Lin et al. 2017, Focal loss for dense object
            detection, arXiv:1708.02002, section 3.3).

    Returns:
        The network, not compiled. ``objectives`` defines the width and the meaning of its outputs.

    Raises:
        RetinaflowError: The weights do not fit, or there are fewer layers than should be frozen.
    """
    with policy(precision):
        size = settings.image_size
        pixels = keras.Input((size, size, 3), dtype="uint8", name="pixels")
        normalised = settings.normalisation == "imagenet"
        network = load_backbone(settings.backbone, size, weights, normalised=normalised)
        network = up_to(network, settings.feature_layers)
        freeze(network, settings.freeze_layers, statistics_too=settings.batch_norm == "inference")
        x = prepared(pixels, network, settings.backbone, settings.normalisation, statistics=statistics)
        x = _head(pooled(network(x), settings.pooling), settings)
        outputs = _outputs(x, settings.objective, grade_count, frequencies)
        return keras.Model(pixels, outputs, name=backbone_name(settings.backbone))


def _head(x: keras.KerasTensor, settings: TrainingSettings) -> keras.KerasTensor:
    """Layers between the features of the backbone and the last layer."""
    if settings.head_epochs:
        # `head.standardise` sets the mean and the variance of each feature before the first step.
        x = keras.layers.BatchNormalization(
            center=False, scale=False, epsilon=LEAST_VARIANCE, trainable=False, dtype="float32", name="standardise"
        )(x)
    # Without a seed, torch draws from a generator that all layers share. Training sets the seed again each epoch.
    x = keras.layers.Dropout(settings.dropout, seed=0, name="dropout")(x)
    for number, units in enumerate(settings.dense_units, start=1):
        x = keras.layers.Dense(units, activation="relu", name=f"dense_{number}")(x)
        x = keras.layers.Dropout(settings.dropout, seed=number, name=f"dropout_{number}")(x)
    return x


def _outputs(
    x: keras.KerasTensor, objective: str, grade_count: int, frequencies: np.ndarray | None
) -> keras.KerasTensor:
    """The last layers, in float32 for every precision: probabilities and loss need it."""
    shares = np.full(grade_count, 1 / grade_count) if frequencies is None else frequencies / frequencies.sum()
    bias = keras.initializers.Constant(_bias(objective, np.maximum(shares, LEAST_SHARE)))
    if objective == "softmax":
        return keras.layers.Dense(
            grade_count, activation="softmax", bias_initializer=bias, dtype="float32", name="probabilities"
        )(x)
    if objective == "regression":
        return keras.layers.Dense(1, bias_initializer=bias, dtype="float32", name="level")(x)
    # CORAL: all outputs share one vector of weights and have a bias each. The kernel of the last layer stays 1.
    x = keras.layers.Dense(1, use_bias=False, dtype="float32", name="severity")(x)
    biases = keras.layers.Dense(
        grade_count - 1,
        activation="sigmoid",
        kernel_initializer="ones",
        bias_initializer=bias,
        dtype="float32",
        name="probabilities",
    )
    outputs = biases(x)
    biases.kernel.trainable = False
    return outputs


def _bias(objective: str, shares: np.ndarray) -> list[float]:
    """Biases of the last layer with which a network of zero weights predicts ``shares``, float (k,)."""
    if objective == "softmax":
        return list(np.log(shares))
    if objective == "regression":
        return [float(shares @ np.arange(len(shares)) / shares.sum())]
    return list(logit(np.cumsum(shares[::-1])[-2::-1] / shares.sum()))


@contextlib.contextmanager
def policy(precision: str) -> Iterator[None]:
    """Build layers with the dtype policy ``precision``. ``keras.applications`` read a global setting alone."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def in_float32(
    model: keras.Model, settings: TrainingSettings, grade_count: int, statistics: Statistics | None = None
) -> keras.Model:
    """Copy a network of any precision, built on any number of devices, to float32 on one device.

    Args:
        model: Network that ``build`` made with the same ``settings``, ``grade_count`` and ``statistics``.
        settings: Settings of the model.
        grade_count: Number of grades.
        statistics: Mean and deviation of each channel, if ``model`` has them.

    Returns:
        A network with the same weights.
    """
    copy = build(settings, grade_count, statistics=statistics)
    copy.set_weights(model.get_weights())
    refresh_scaling(copy)
    return copy


def refresh_scaling(model: keras.Model) -> None:
    """Let the Normalization layers of ``model`` compute with weights that were set: they use copies of them."""
    for layer in model._flatten_layers(include_self=False):
        if isinstance(layer, keras.layers.Normalization):
            layer.finalize_state()


def compile_model(
    model: keras.Model,
    settings: TrainingSettings,
    grade_count: int,
    *,
    jit: bool,
    optimizer: keras.optimizers.Optimizer | None = None,
) -> None:
    """Compile ``model`` with its optimizer, loss and metrics.

    Args:
        model: Network that ``build`` made with the same ``settings`` and ``grade_count``.
        settings: Settings of the model.
        grade_count: Number of grades.
        jit: Whether XLA compiles the training steps.
        optimizer: Optimizer for ``model``. By default a new one with the ``learning_rate`` of the settings.
    """
    if optimizer is None:
        optimizer = build_optimizer(settings, model)
        optimizer.learning_rate = settings.learning_rate
    model.compile(
        optimizer=optimizer,
        loss=Loss(settings.objective, settings.regression_loss),
        metrics=[
            Accuracy(grade_count, settings.objective),
            QuadraticWeightedKappa(grade_count, settings.objective),
        ],
        jit_compile=jit,
    )


class Loss(keras.losses.Loss):
    """Loss of targets and outputs as defined in ``objectives``: the mean over a batch on any number of devices.

    Softmax outputs have the cross-entropy. Ordinal outputs have the sum of the binary cross-entropies (CORAL, equation
    4, with equal weights). A regression has ``mse`` or ``smooth_l1`` (Girshick 2015, Fast R-CNN, arXiv:1504.08083,
    equation 3).
    """

    def __init__(self, objective: str = "softmax", regression_loss: str = "mse") -> None:
        """Create the loss of ``objective``. Only a regression uses ``regression_loss``."""
        super().__init__()
        kind = regression_loss if objective == "regression" else objective
        self.each = {
            "softmax": keras.losses.CategoricalCrossentropy(),
            "ordinal": keras.losses.BinaryCrossentropy(),
            "mse": keras.losses.MeanSquaredError(),
            "smooth_l1": keras.losses.Huber(delta=1.0),
        }[kind]
        self.terms = kind == "ordinal"

    def call(self, y_true: keras.KerasTensor, y_pred: keras.KerasTensor) -> keras.KerasTensor:
        """Return the loss of each image, (n,), for targets ``y_true`` and outputs ``y_pred``, both (n, width)."""
        # Keras averages binary cross-entropies.
        terms = y_pred.shape[-1] if self.terms else 1
        return devices.weigh_by_share(terms * self.each.call(y_true, y_pred))


def load_backbone(
    backbone: str, size: int, weights: str | os.PathLike[str] | None = None, *, normalised: bool = True
) -> keras.Model:
    """Load a network of ``keras.applications`` without its top, or of a file, for inputs (n, size, size, 3).

    Args:
        backbone: Name in ``BACKBONES``, or the path of a Keras file, which has its own weights.
        size: Side of the input in pixels.
        weights: Weights file, or None for random weights.
        normalised: Whether to keep the input scaling that some networks have built in.

    Raises:
        RetinaflowError: ``weights`` is not a weights file, or is incomplete, damaged or of another network.
    """
    if file := extractor_file(backbone):
        return load_extractor(file, size)
    description = BACKBONES[backbone]
    optional = description.input_mode == "builtin" and not description.fixed_scaling
    options: dict[str, Any] = {"include_preprocessing": normalised} if optional else {}
    constructor = getattr(keras.applications, description.constructor)
    network = constructor(include_top=False, weights=None, input_shape=(size, size, 3), **options)
    for layer in network.layers:
        if isinstance(layer, keras.layers.Rescaling | keras.layers.Normalization):
            layer.dtype_policy = "float32"
    if weights is not None:
        _load_weights(network, backbone, weights)
    if description.fixed_scaling:
        _correct_scaling(network, weights is not None, normalised)
    return network


def _load_weights(network: keras.Model, backbone: str, weights: str | os.PathLike[str]) -> None:
    if fault := weights_fault(weights):
        raise RetinaflowError(f"{weights}: {fault}. {SET}")
    try:
        # Keras warns of each layer that a file lacks, and then rejects the file.
        with warnings.catch_warnings(action="ignore"):
            network.load_weights(weights)
    except Exception as error:  # A file that does not fit, or is damaged, fails anywhere in Keras and h5py.
        cause = " ".join(str(error).split())[:400]
        raise RetinaflowError(
            f"{weights}: these weights do not fit {backbone} without its top ({cause}); {EXPECTED_WEIGHTS}. {SET}"
        ) from error


def _correct_scaling(network: keras.Model, trained: bool, normalised: bool) -> None:
    """Set the scaling inside an EfficientNet as its ImageNet weights need it, or remove its effect.

    Keras adds a layer that divides by the square root of the deviation only to a network that it loads the weights of
    itself (``keras.applications.efficientnet``). Here the stored variance has this factor.
    """
    for layer in network.layers:
        if isinstance(layer, keras.layers.Rescaling) and not normalised:
            layer.scale = 1.0
        elif isinstance(layer, keras.layers.Normalization):
            if not normalised:
                layer.adapt_mean.assign(keras.ops.zeros_like(layer.adapt_mean))
                layer.adapt_variance.assign(keras.ops.ones_like(layer.adapt_variance))
            elif trained:
                layer.adapt_variance.assign(layer.adapt_variance * np.array(TORCH_DEVIATIONS, np.float32))
            layer.finalize_state()


def up_to(network: keras.Model, names: Sequence[str]) -> keras.Model:
    """Cut ``network`` after the layers ``names``.

    Args:
        network: Network to cut. It stays as it is.
        names: Names of layers with an output (n, height, width, channels).

    Returns:
        A network that shares its weights and has a list of the outputs of these layers. Without ``names``, ``network``.

    Raises:
        RetinaflowError: ``network`` has no such layer.
    """
    if not names:
        return network
    usable = {
        layer.name: layer.output
        for layer in network.layers
        if isinstance(layer.output, keras.KerasTensor) and len(layer.output.shape) in (3, 4)
    }
    for name in names:
        if name not in usable:
            near = difflib.get_close_matches(name, usable, n=5, cutoff=0.4) or list(usable)[-5:]
            raise RetinaflowError(
                f"feature_layers: {network.name} has no layer {name!r} with an output (n, height, width, channels); "
                f"similar ones are {', '.join(near)}. Set feature_layers to layers that it has."
            )
    return keras.Model(network.inputs, [usable[name] for name in names], name=network.name)


def pooled(maps: keras.KerasTensor | Sequence[keras.KerasTensor], pooling: str = "mean") -> keras.KerasTensor:
    """Average each of the ``maps`` (n, height, width, channels) over its area, and join them: (n, channels).

    Of tokens (n, tokens, channels), ``pooling`` is the ``mean`` or the ``first`` token. Features (n, channels) stay.
    """
    maps = [maps] if isinstance(maps, keras.KerasTensor) else list(maps)
    if len(maps) == 1:
        return _pool(maps[0], pooling, "pool")
    means = [_pool(each, pooling, f"pool_{number}") for number, each in enumerate(maps, start=1)]
    return keras.layers.Concatenate(name="pool")(means)


def _pool(x: keras.KerasTensor, pooling: str, name: str) -> keras.KerasTensor:
    if len(x.shape) == 4:
        return keras.layers.GlobalAveragePooling2D(name=name)(x)
    if len(x.shape) == 2:
        return keras.layers.Flatten(name=name)(x)
    if pooling == "first":
        return keras.layers.Flatten(name=name)(keras.layers.Cropping1D((0, x.shape[1] - 1))(x))
    return keras.layers.GlobalAveragePooling1D(name=name)(x)


def prepared(
    pixels: keras.KerasTensor,
    network: keras.Model,
    backbone: str,
    normalisation: str | NormalisationSettings,
    *,
    statistics: Statistics | None = None,
) -> keras.KerasTensor:
    """Bring pixel values 0 to 255, RGB (n, size, size, 3), into the form that ``network`` of a ``backbone`` takes."""
    if not extractor_file(backbone):
        return normalise(pixels, str(normalisation), BACKBONES[backbone].input_mode, statistics)
    if network.inputs[0].dtype == "uint8":
        x = pixels
    else:
        scale, offset = pixel_scaling(normalisation)
        x = keras.layers.Rescaling(scale, offset=offset, dtype="float32", name="normalise")(pixels)
    return x if network.inputs[0].shape[-1] == 3 else keras.layers.Permute((3, 1, 2), name="channels_first")(x)


def freeze(network: keras.Model, layers: int | str, statistics_too: bool) -> None:
    """Freeze the weights of the first layers.

    A frozen BatchNormalization layer uses its stored statistics. A call of the network with ``training=False`` has no
    such effect: ``fit`` of the model around it overrides that argument.

    Args:
        network: Backbone.
        layers: Number of layers from the input, or ``all``.
        statistics_too: Whether all BatchNormalization layers are frozen.

    Raises:
        RetinaflowError: The network has fewer layers.
    """
    count = len(network.layers) if layers == "all" else int(layers)
    if count > len(network.layers):
        raise RetinaflowError(
            f"freeze_layers: {count} of {network.name}, which has {len(network.layers)} layers; "
            "expected at most that number, or 'all'."
        )
    for number, layer in enumerate(network.layers):
        if number < count or (statistics_too and isinstance(layer, keras.layers.BatchNormalization)):
            layer.trainable = False


def normalise(
    pixels: keras.KerasTensor,
    kind: str,
    input_mode: str,
    statistics: Statistics | None = None,
) -> keras.KerasTensor:
    """Normalise pixel values 0 to 255 for a backbone, in float32 for every precision.

    In bfloat16, neighbouring pixel values would become equal. The order of the channels belongs to the weights, not to
    the normalisation: it is BGR for ``caffe``.

    Args:
        pixels: RGB (n, size, size, 3).
        kind: ``train.normalisation`` of the configuration.
        input_mode: Input that the weights expect, as in ``Backbone``.
        statistics: Mean and deviation of each channel, for ``dataset``.
    """
    bgr = input_mode == "caffe"
    x = keras.ops.take(pixels, (2, 1, 0), axis=-1) if bgr else pixels
    if kind == "per_image":
        x = keras.layers.Rescaling(1.0, dtype="float32", name="to_float")(x)
        return keras.layers.LayerNormalization(
            axis=[1, 2, 3], center=False, scale=False, dtype="float32", name="normalise"
        )(x)
    if kind == "dataset":
        if statistics is None:
            raise ValueError("`normalisation: dataset` needs the statistics of the training split")
        # A constant channel has no information. A deviation of 1 keeps it finite.
        channels = [(mean, deviation or 1.0) for mean, deviation in zip(*statistics, strict=True)]
        if bgr:
            channels.reverse()
        scale, offset = (
            [1 / deviation for _, deviation in channels],
            [-mean / deviation for mean, deviation in channels],
        )
        return keras.layers.Rescaling(scale, offset=offset, dtype="float32", name="normalise")(x)
    if bgr:
        return keras.layers.Rescaling(1.0, offset=[-mean for mean in CAFFE_MEANS], dtype="float32", name="normalise")(x)
    if input_mode == "torch":
        scale, offset = pixel_scaling("imagenet")
        return keras.layers.Rescaling(scale, offset=offset, dtype="float32", name="normalise")(x)
    if input_mode == "tf":
        return keras.layers.Rescaling(1 / 127.5, offset=-1.0, dtype="float32", name="normalise")(x)
    return keras.layers.Rescaling(1.0, dtype="float32", name="to_float")(x)
