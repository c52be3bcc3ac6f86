"""Settings of training, in the configuration and resolved for one model."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from retinaflow.settings.augment import AugmentSettings
from retinaflow.settings.section import Place, Section, Text, Unique

LayerNames = Annotated[list[Text], Unique()]
Units = Annotated[int, Field(ge=1)]
ClassWeight = Annotated[float, Field(ge=0)]


Channels = Annotated[list[float], Field(min_length=3, max_length=3)]
Deviations = Annotated[list[Annotated[float, Field(gt=0)]], Field(min_length=3, max_length=3)]


class NormalisationSettings(Section):
    """Input of a backbone by path: each pixel value is divided by `scale`, then its channel by `mean` and `std`."""

    mean: Channels = [0, 0, 0]
    """Mean of red, green and blue, which is subtracted after the division by `scale`."""
    std: Deviations = [1, 1, 1]
    """Standard deviation of red, green and blue, which the result is divided by."""
    scale: Annotated[float, Field(gt=0)] = 255
    """Divisor of the pixel values 0 to 255."""


def _normalisation_form(value: Any) -> str:
    return "section" if isinstance(value, Mapping | NormalisationSettings) else "name"


Normalisation = Annotated[
    Annotated[Literal["imagenet", "dataset", "per_image", "none"], Tag("name")]
    | Annotated[NormalisationSettings, Tag("section")],
    Discriminator(_normalisation_form),
]


class TrainSection(Section):
    """The section `train` of the configuration."""

    image_size: Annotated[int, Field(ge=32, le=2048)] = 224
    """Side in pixels of the square input of the network."""
    weights: Place = "imagenet"
    """Initial weights of the backbone: `imagenet` (fetched once, on the submit host), `random`, or the path of a
    `.h5` or `.weights.h5` file made for this backbone without its top. That path may be an `s3://` address. The folder
    of a trained model (`other results/models/InceptionV3`) starts from that model, with the same backbone, feature
    layers and normalisation. The head starts from it, too, if objective, `dense_units` and `grade_names` agree."""
    normalisation: Normalisation = "imagenet"
    """`imagenet` is the normalisation that the backbone's weights were trained with. `dataset` uses means and
    deviations of each channel in the training split. `per_image` uses those of each image. The saved model includes
    the normalisation. A backbone by path has `imagenet` (means and deviations of ImageNet in RGB), `none` (values 0 to
    255), or a section of its own: `{mean: [0.5, 0.5, 0.5], std: [0.5, 0.5, 0.5]}`."""
    pooling: Literal["mean", "first"] = "mean"
    """Features of a backbone by path that returns tokens (n, tokens, d): their mean, or the first token, which is the
    class token of a vision transformer."""
    feature_layers: LayerNames | Literal["auto"] = "auto"
    """Layers of the backbone, by their names in `keras.applications`. Their outputs, averaged over the image and
    joined, are the input of the head and of `snakemake probe`. Later layers are left out; `[]` is the last layer. Of a
    backbone in ONNX form, these are its outputs. `auto` uses the best layers of a probe, if the backbone has a measured
    probe and starts with trained weights. These are `mixed2`, `mixed4` and `mixed6` of InceptionV3, `conv3_block4_out`
    and `conv4_block2_out` of ResNet50, and `block3_pool` and `block4_pool` of VGG16. They are for hundreds to thousands
    of images. Tens of thousands can train the last layers too."""
    freeze_layers: Annotated[int, Field(ge=0)] | Literal["all"] = 0
    """Number of layers of the backbone, from the input, that keep their weights. `all` trains only the head."""
    batch_norm: Literal["inference", "train"] = "inference"
    """`inference` keeps the stored statistics in all BatchNormalization layers. `train` lets layers that are not
    frozen learn new ones, which random weights need."""
    objective: Literal["softmax", "regression", "ordinal"] = "softmax"
    """Outputs of the network. `softmax` has a probability of each grade. `regression` has the grade as a number.
    `ordinal` has, for each grade but the last, the probability of a higher grade. It never rises with the grade
    (CORAL, Cao et al. 2020, arXiv:1901.07884)."""
    regression_loss: Literal["mse", "smooth_l1"] = "mse"
    """Loss of `objective: regression`: squared error, or `smooth_l1`, which is linear for errors above one grade."""
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0
    """Share of each training label that is spread over all grades (Szegedy et al. 2016, arXiv:1512.00567). Only for
    `objective: softmax`. Validation labels do not change."""
    soft_labels: Annotated[list[Text], Unique()] = []
    """Columns with the grades of several readers, `subgroups` of each training set: training labels are then the mean
    of their labels. That is a share of each grade for `softmax`, the mean grade for `regression`, and the share of
    readers above each grade for `ordinal`. An empty cell does not count. An image without any such grade keeps its
    own. Class weights, sampling and validation use its own grade."""
    dense_units: Annotated[list[Units], Field(min_length=2, max_length=2)] = [512, 256]
    """Units of the head's two dense layers."""
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Share of the features, and of the units of each dense layer, that a training step leaves out."""
    class_weights: (
        Literal["none", "inverse", "sqrt_inverse", "effective_number"]
        | Annotated[list[ClassWeight], Field(min_length=2)]
    ) = "none"
    """Weight of each grade in the loss. `none` weighs all grades alike. `inverse` is inverse to the frequency in the
    training split, and `sqrt_inverse` to its square root. `effective_number` uses the effective number of images (Cui
    et al. 2019, arXiv:1901.05555, beta 0.9999). A list has the weights in the order of the grades. Except for a list,
    the mean weight of an image is 1. On all EyePACS labels, `inverse` weighs
    grades 1 to 4 as 11, 5, 30 and 36 times grade 0. These factors are 3, 2, 5 and 6 with `sqrt_inverse`, and 4, 2, 11
    and 14 with `effective_number`."""
    balanced_sampling: Annotated[float, Field(ge=0, le=1)] = 0
    """Evenness of the sampling of grades in the first epoch: 0 keeps their frequencies, 1 samples each grade equally
    often. An epoch keeps its length. Together with `class_weights`, rare grades count twice."""
    balanced_epochs: Annotated[int, Field(ge=0)] = 0
    """Epochs, those of the head included, over which `balanced_sampling` falls to 0 in equal steps, so that the
    network learns the frequencies of the grades. With 0 it stays. After o_O, second in the Kaggle competition of 2015
    (github.com/sveitser/kaggle_diabetic)."""
    batch_size: Annotated[int, Field(ge=1)] = 32
    """Images per step, on all GPUs of a training run together. With larger batches, `learning_rate` may rise in
    proportion (Goyal et al. 2017, arXiv:1706.02677)."""
    gpus: Annotated[int, Field(ge=1, le=64)] = 1
    """GPUs of one training run, each with an equal part of each batch. The batch size and the learning rate stay the
    same. Losses and weights equal those of one GPU up to rounding, except for the units that dropout draws. The
    profile must allow as many (`gpu`)."""
    precision: Literal["auto", "float32", "mixed_bfloat16", "mixed_float16"] = "auto"
    """Precision of training: `auto` is `mixed_bfloat16` on NVIDIA GPUs of compute capability 8.0 and higher (A100,
    H100), `mixed_float16` on those of 7 (V100, T4), else `float32`, without TF32. Weights, normalisation,
    probabilities and loss are always in float32, and so is the saved model. `training_run.json` records it."""
    jit: Literal["auto", True, False] = "auto"
    """Whether XLA compiles the training steps: `true`, `false`, or `auto`, which compiles them only with JAX. Compiled
    steps round differently, and the first epoch takes longer."""
    on_out_of_memory: Literal["error", "halve"] = "error"
    """Policy if the memory of the device is too small: `error`, or `halve` the batch size and start again, as often as
    necessary. `training_run.json` records the batch size."""
    backend: Literal["tensorflow", "jax", "torch"] = "tensorflow"
    """Backend of Keras, in training and scoring. `make jax` and `make torch` install the other two. The environment
    variable `KERAS_BACKEND` does not count."""
    cpu_threads: Annotated[int, Field(ge=1, le=1024)] = 8
    """Threads of a network on a CPU, independent of the number of cores. The division among threads decides how sums
    are rounded, so another number changes the last digits; `--cores` does not."""
    head_epochs: Annotated[int, Field(ge=0)] | Literal["auto"] = "auto"
    """Epochs that train the head alone before the network, 0 for none. `auto` is 30 if the backbone starts with
    trained weights and keeps its statistics (`batch_norm: inference`), else 0. The features of each image, in up to
    four random views, are computed once for all of these epochs. The epochs of the head therefore take little more
    time than two epochs of the whole network."""
    head_learning_rate: Annotated[float, Field(gt=0)] = 0.0003
    """Learning rate of these epochs."""
    epochs: Annotated[int, Field(ge=1)] = 50
    """Largest number of epochs, without those of the head."""
    learning_rate: Annotated[float, Field(gt=0)] | Literal["auto"] = "auto"
    """Highest learning rate of these epochs. `auto` is 0.00001 if the head is trained first, since larger steps spoil
    the trained head, else 0.0001."""
    warmup_epochs: Annotated[int, Field(ge=0)] = 0
    """Epochs, without those of the head, in which the learning rate rises in equal steps. The next epoch has the full
    rate."""
    schedule: Literal["plateau", "cosine"] = "plateau"
    """Decrease of the learning rate: at each `plateau` of the monitored metric, or from epoch to epoch along half a
    `cosine` to `minimum_learning_rate` in the last of `epochs`."""
    layer_decay: Annotated[float, Field(gt=0, le=1)] = 1
    """Factor on the learning rate for each tenth of the backbone's layers, from the head to the input (Howard and
    Ruder 2018, arXiv:1801.06146). With 0.8, the first layers learn at 0.1 of the rate. 1 gives all layers one rate."""
    optimizer: Literal["adam", "adamw", "sgd"] = "adam"
    """`adam`; `adamw`, which is Adam with `weight_decay`; or `sgd` with a momentum of 0.9."""
    weight_decay: Annotated[float, Field(ge=0, lt=1)] = 0
    """Share by which weights decay at each step, times the learning rate (Loshchilov and Hutter 2019,
    arXiv:1711.05101), for `adamw` and `sgd`. Biases and the weights of normalisation layers do not decay."""
    clip_norm: Annotated[float, Field(ge=0)] = 0
    """Largest norm of the gradient over all weights. A longer gradient is shortened. 0 is no limit."""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0
    """Momentum of the moving average of the weights over steps, such as 0.999. The averaged weights are validated and
    saved. 0 is no average."""
    monitor: Literal["val_loss", "val_accuracy", "val_quadratic_weighted_kappa"] = "val_loss"
    """Validation metric that selects the best epoch, lowers the learning rate and stops the training."""
    monitor_smoothing: Annotated[int, Field(ge=1)] = 1
    """Epochs over which the monitored metric is averaged, each with those before it. With few images of rare grades,
    a single epoch is often the best by chance."""
    reduce_lr_factor: Annotated[float, Field(gt=0, lt=1)] = 0.5
    """Factor on the learning rate after `reduce_lr_patience` epochs without a better metric."""
    reduce_lr_patience: Annotated[int, Field(ge=1)] = 3
    """Epochs without a better metric before the learning rate falls."""
    minimum_learning_rate: Annotated[float, Field(ge=0)] = 0.000001
    """Floor of the learning rate."""
    early_stopping_patience: Annotated[int, Field(ge=1)] = 10
    """Epochs without a better metric before the training ends."""
    augment: AugmentSettings = AugmentSettings()
    """Random changes to each training image. Validation and test images do not change."""


class ModelSection(TrainSection):
    """An entry of the section `models` of the configuration: the settings that differ from `train`."""

    backbone: Text | None = None
    """Backbone of this model: any network of `keras.applications` by its name, or the path of a frozen feature
    extractor, `.onnx` or `.keras`. Without it, the name of the model is the backbone."""
    repeat: Annotated[int, Field(ge=1, le=100)] = 1
    """Number of this model among its repeats, which `repeats` makes. Its seed is `seed` + `repeat` - 1."""
    sweep: dict[Text, Annotated[list[Any], Field(min_length=1)]] = {}
    """Settings with several values each: `{freeze_layers: [0, 10, all], objective: [softmax, ordinal]}`. Each
    combination is one model, named after what differs (`NAME-freeze_layers-10-objective-ordinal`). A key with a point
    sweeps a nested setting (`augment.rotation`)."""


class TrainingSettings(TrainSection):
    """The settings of one model, complete and with a value for each ``auto`` but ``precision`` and ``jit``.

    A script creates it from its parameters: ``TrainingSettings.model_validate(snakemake.params.settings)``.
    """

    backbone: Text
    repeat: Annotated[int, Field(ge=1, le=100)] = 1
    feature_layers: LayerNames
    head_epochs: Annotated[int, Field(ge=0)]
    learning_rate: Annotated[float, Field(gt=0)]


def decisive_settings(settings: TrainingSettings) -> dict[str, Any]:
    """The settings that decide the result of a training run. A setting that is off is absent if it came later."""
    excluded = {"on_out_of_memory"} if settings.soft_labels else {"on_out_of_memory", "soft_labels"}
    return settings.model_dump(exclude=excluded)
