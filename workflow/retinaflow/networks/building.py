"""Build a grader: raw uint8 RGB pixels in, what its objective says out."""

import contextlib
import difflib
import os
import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from scipy.special import logit

from retinaflow.errors import RetinaflowError
from retinaflow.networks import devices
from retinaflow.networks.backbones import BACKBONES
from retinaflow.networks.kappa import Accuracy, QuadraticWeightedKappa
from retinaflow.networks.optimizers import optimizer
from retinaflow.networks.weights import EXPECTED, SET, weights_fault

# Channel means of ImageNet in BGR that 'caffe' weights expect to be subtracted (keras.applications.imagenet_utils).
CAFFE_MEANS = (103.939, 116.779, 123.68)

# So that a class that weighs nothing, or nearly so, has a logit that training can still move.
LEAST_SHARE = 1e-3
# Added to the variance of a feature, so that one which hardly varies is not blown up: their deviations are about 0.05.
LEAST_VARIANCE = 1e-5


def build(
    backbone: str,
    settings: Mapping[str, Any],
    classes: int,
    weights: str | os.PathLike[str] | None,
    statistics: tuple[Sequence[float], Sequence[float]] | None = None,
    precision: str = "float32",
    frequencies: np.ndarray | None = None,
) -> keras.Model:
    """A model from uint8 RGB (n, size, size, 3) to float32 (n, width), as ``objectives`` says for ``classes`` classes.

    ``settings`` is one backbone's ``train`` section of the configuration. ``weights`` is a weights file for the
    backbone without its top, or None for random ones, which follow from Keras's random seed. ``statistics`` are the
    mean and deviation of each channel (values 0 to 255), needed for ``normalisation: dataset``. ``precision`` is a
    policy of Keras; mixed ones keep weights, normalisation and probabilities in float32 (Micikevicius et al. 2018,
    arXiv:1710.03740). ``frequencies``, float (k,), are the shares of the classes in training, each at least 0: before
    the first step, the model answers about these, and no epoch is spent on them (Lin et al. 2017, Focal loss for dense
    object detection, arXiv:1708.02002, section 3.3).

    Normalisation happens inside, with layers that Keras itself has: the saved file needs neither this library nor
    anything known about how the pixels were treated in training.

    Raises ``RetinaflowError`` if the weights do not fit or there are fewer layers than should be frozen.
    """
    with policy(precision):
        return _build(backbone, settings, classes, weights, statistics, frequencies)


def _build(
    backbone: str,
    settings: Mapping[str, Any],
    classes: int,
    weights: str | os.PathLike[str] | None,
    statistics: tuple[Sequence[float], Sequence[float]] | None,
    frequencies: np.ndarray | None,
) -> keras.Model:
    size = settings["image_size"]
    pixels = keras.Input((size, size, 3), dtype="uint8", name="pixels")
    network = load_backbone(backbone, size, weights, normalised=settings["normalisation"] == "imagenet")
    network = up_to(network, settings["feature_layers"])
    freeze(network, settings["freeze_layers"], statistics_too=settings["batch_norm"] == "inference")
    x = normalise(pixels, settings["normalisation"], BACKBONES[backbone].input_mode, statistics)
    x = pooled(network(x))
    if settings["head_epochs"]:
        # Each feature with mean 0 and deviation 1, which `head.standardise` sets before the first step.
        x = keras.layers.BatchNormalization(
            center=False, scale=False, epsilon=LEAST_VARIANCE, trainable=False, dtype="float32", name="standardise"
        )(x)
    # Without a seed, torch would draw from what all layers share. `train` sets it anew each epoch.
    x = keras.layers.Dropout(settings["dropout"], seed=0, name="dropout")(x)
    for number, units in enumerate(settings["dense_units"], start=1):
        x = keras.layers.Dense(units, activation="relu", name=f"dense_{number}")(x)
        x = keras.layers.Dropout(settings["dropout"], seed=number, name=f"dropout_{number}")(x)
    outputs = _answer(x, settings["objective"], classes, frequencies)
    return keras.Model(pixels, outputs, name=backbone)


def _answer(x: keras.KerasTensor, objective: str, classes: int, frequencies: np.ndarray | None) -> keras.KerasTensor:
    """The last layers, in float32 whatever the precision of the rest: probabilities and loss need it."""
    shares = np.full(classes, 1 / classes) if frequencies is None else frequencies / frequencies.sum()
    bias = keras.initializers.Constant(_bias(objective, np.maximum(shares, LEAST_SHARE)))
    if objective == "softmax":
        return keras.layers.Dense(
            classes, activation="softmax", bias_initializer=bias, dtype="float32", name="probabilities"
        )(x)
    if objective == "regression":
        return keras.layers.Dense(1, bias_initializer=bias, dtype="float32", name="level")(x)
    # CORAL: one vector of weights for all, and a bias each. What the last layer multiplies by stays 1.
    x = keras.layers.Dense(1, use_bias=False, dtype="float32", name="severity")(x)
    biases = keras.layers.Dense(
        classes - 1,
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
    """Of the last layer, so that it answers ``shares`` where its weights say nothing."""
    if objective == "softmax":
        return list(np.log(shares))
    if objective == "regression":
        return [float(shares @ np.arange(len(shares)) / shares.sum())]
    return list(logit(np.cumsum(shares[::-1])[-2::-1] / shares.sum()))


@contextlib.contextmanager
def policy(precision: str) -> Iterator[None]:
    """What is built within computes in ``precision``: ``keras.applications`` go by a global setting alone."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy(precision)
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def in_float32(
    model: keras.Model,
    backbone: str,
    settings: Mapping[str, Any],
    classes: int,
    statistics: tuple[Sequence[float], Sequence[float]] | None,
) -> keras.Model:
    """``model``, which ``build`` has made in whatever precision and on however many devices, to be used anywhere."""
    plain = build(backbone, settings, classes, None, statistics)
    plain.set_weights(model.get_weights())
    return plain


def compile_model(
    model: keras.Model,
    settings: Mapping[str, Any],
    classes: int,
    jit: bool,
    optimiser: keras.optimizers.Optimizer | None = None,
) -> None:
    """Give ``model`` the optimiser, loss and metrics that it is trained with; ``jit`` has its steps compiled.

    ``settings`` is the ``train`` section that it was built by, for ``classes`` classes. Without ``optimiser`` it gets
    one of its own, with the ``learning_rate``.
    """
    if optimiser is None:
        optimiser = optimizer(settings, model)
        optimiser.learning_rate = settings["learning_rate"]
    objective = settings["objective"]
    model.compile(
        optimizer=optimiser,
        loss=Loss(objective, settings["regression_loss"]),
        metrics=[Accuracy(classes, objective), QuadraticWeightedKappa(classes, objective)],
        jit_compile=jit,
    )


class Loss(keras.losses.Loss):
    """Of targets and outputs as ``objectives`` has them, mean over the whole batch on however many devices it is.

    Cross-entropy of softmax; of ordinal outputs the sum of the binary cross-entropies (CORAL, equation 4, all levels of
    equal weight); of a regression ``mse`` or ``smooth_l1`` (Girshick 2015, Fast R-CNN, arXiv:1504.08083, equation 3).
    """

    def __init__(self, objective: str = "softmax", regression_loss: str = "mse") -> None:
        """``regression_loss`` is of no account for other objectives."""
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
        """Of each photograph: ``y_true`` targets and ``y_pred`` outputs, both (n, width)."""
        # Keras has the mean of the binary ones.
        terms = y_pred.shape[-1] if self.terms else 1
        return devices.weigh_by_share(terms * self.each.call(y_true, y_pred))


def load_backbone(
    backbone: str, size: int, weights: str | os.PathLike[str] | None, normalised: bool = True
) -> keras.Model:
    """The network of ``keras.applications`` without its top, for inputs (n, size, size, 3).

    ``normalised`` keeps the input scaling that some networks have built in.
    Raises ``RetinaflowError`` if ``weights`` is no weights file, incomplete, damaged or of another network.
    """
    description = BACKBONES[backbone]
    options: dict[str, Any] = {} if description.input_mode != "builtin" else {"include_preprocessing": normalised}
    constructor = getattr(keras.applications, description.constructor)
    network = constructor(include_top=False, weights=None, input_shape=(size, size, 3), **options)
    for layer in network.layers:
        if isinstance(layer, keras.layers.Rescaling | keras.layers.Normalization):
            layer.dtype_policy = "float32"
    if weights is None:
        return network
    if fault := weights_fault(weights):
        raise RetinaflowError(f"{weights}: {fault}. {SET}")
    try:
        # Keras warns of each layer that a file lacks, and then refuses the file.
        with warnings.catch_warnings(action="ignore"):
            network.load_weights(weights)
    except Exception as error:  # a file that does not fit, or is damaged, fails anywhere in Keras and h5py
        cause = " ".join(str(error).split())[:400]
        raise RetinaflowError(
            f"{weights}: these weights do not fit {backbone} without its top ({cause}); {EXPECTED}. {SET}"
        ) from error
    return network


def up_to(network: keras.Model, names: Sequence[str]) -> keras.Model:
    """``network`` up to the layers of these ``names``, of which it puts out a list; the whole of it without names.

    Raises ``RetinaflowError`` if it has no layer of a name with an output (n, height, width, channels).
    """
    if not names:
        return network
    usable = {
        layer.name: layer.output
        for layer in network.layers
        if isinstance(layer.output, keras.KerasTensor) and len(layer.output.shape) == 4
    }
    for name in names:
        if name not in usable:
            near = difflib.get_close_matches(name, usable, n=5, cutoff=0.4) or list(usable)[-5:]
            raise RetinaflowError(
                f"feature_layers: {network.name} has no layer {name!r} that puts out (n, height, width, channels); "
                f"similar ones are {', '.join(near)}. Set feature_layers to such as it has."
            )
    return keras.Model(network.inputs, [usable[name] for name in names], name=network.name)


def pooled(maps: keras.KerasTensor | Sequence[keras.KerasTensor]) -> keras.KerasTensor:
    """Features (n, channels): each of the ``maps`` (n, height, width, channels) averaged over its area, then joined."""
    several = [maps] if isinstance(maps, keras.KerasTensor) else list(maps)
    if len(several) == 1:
        return keras.layers.GlobalAveragePooling2D(name="pool")(several[0])
    means = [
        keras.layers.GlobalAveragePooling2D(name=f"pool_{number}")(each) for number, each in enumerate(several, start=1)
    ]
    return keras.layers.Concatenate(name="pool")(means)


def freeze(network: keras.Model, layers: int | str, statistics_too: bool) -> None:
    """Keep the weights of the first ``layers`` layers, or of ``all``, as they are.

    A frozen BatchNormalization layer uses its stored statistics. With ``statistics_too`` all of them do, wherever
    they stand: calling the network with ``training=False`` would not see to it, as ``fit`` of the model around it
    overrides that.

    Raises ``RetinaflowError`` if the network has fewer layers.
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
    statistics: tuple[Sequence[float], Sequence[float]] | None = None,
) -> keras.KerasTensor:
    """Pixel values 0 to 255 to what the backbone takes; ``kind`` as ``train.normalisation`` of the configuration.

    The order of the channels belongs to the weights, whatever the normalisation: BGR for ``caffe``. All of it is in
    float32, whatever the precision of the rest: in bfloat16, neighbouring pixel values would become one.
    """
    bgr = input_mode == "caffe"
    x = keras.ops.flip(pixels, axis=-1) if bgr else pixels
    if kind == "per_image":
        x = keras.layers.Rescaling(1.0, dtype="float32", name="to_float")(x)
        return keras.layers.LayerNormalization(
            axis=[1, 2, 3], center=False, scale=False, dtype="float32", name="normalise"
        )(x)
    if kind == "dataset":
        if statistics is None:
            raise ValueError("normalisation 'dataset' needs the statistics of the training photographs")
        # A channel without any variation carries nothing; a deviation of 1 keeps it finite.
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
    if input_mode == "tf":
        return keras.layers.Rescaling(1 / 127.5, offset=-1.0, dtype="float32", name="normalise")(x)
    return keras.layers.Rescaling(1.0, dtype="float32", name="to_float")(x)
