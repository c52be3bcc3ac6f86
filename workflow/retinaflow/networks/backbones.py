"""Backbones that the configuration can name. The Snakefile reads this module, so it imports nothing heavy."""

from typing import NamedTuple

from retinaflow.settings.train import NormalisationSettings

# Mean and deviation of each ImageNet channel in RGB, for values 0 to 1 (keras.applications.imagenet_utils).
TORCH_MEANS, TORCH_DEVIATIONS = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


class Backbone(NamedTuple):
    """A network of ``keras.applications``.

    Attributes:
        constructor: Its name there.
        input_mode: Form in which its ImageNet weights expect RGB values 0 to 255.
            ``caffe``: BGR minus the ImageNet channel means.
            ``tf``: scaled to -1..1.
            ``torch``: scaled to 0..1, then normalised with the mean and deviation of each ImageNet channel.
            ``builtin``: as they are, since the network scales its input itself.
        minimum_size: Least side of its input in pixels.
        feature_layers: Layers whose joined features were best in a linear probe. Empty for the last layer.
        fixed_scaling: Whether its constructor cannot leave out the scaling inside.
    """

    constructor: str
    input_mode: str
    minimum_size: int = 32
    feature_layers: tuple[str, ...] = ()
    fixed_scaling: bool = False


# https://keras.io/api/applications/ lists the input each network expects and its least size.
BACKBONES = {
    "VGG16": Backbone("VGG16", "caffe", feature_layers=("block3_pool", "block4_pool")),
    "VGG19": Backbone("VGG19", "caffe"),
    "ResNet50": Backbone("ResNet50", "caffe", feature_layers=("conv3_block4_out", "conv4_block2_out")),
    "ResNet101": Backbone("ResNet101", "caffe"),
    "ResNet152": Backbone("ResNet152", "caffe"),
    "ResNet50V2": Backbone("ResNet50V2", "tf"),
    "ResNet101V2": Backbone("ResNet101V2", "tf"),
    "ResNet152V2": Backbone("ResNet152V2", "tf"),
    "InceptionV3": Backbone("InceptionV3", "tf", minimum_size=75, feature_layers=("mixed2", "mixed4", "mixed6")),
    "InceptionResNetV2": Backbone("InceptionResNetV2", "tf", minimum_size=75),
    "Xception": Backbone("Xception", "tf", minimum_size=71),
    "MobileNet": Backbone("MobileNet", "tf"),
    "MobileNetV2": Backbone("MobileNetV2", "tf"),
    "NASNetMobile": Backbone("NASNetMobile", "tf"),
    "NASNetLarge": Backbone("NASNetLarge", "tf"),
    **{name: Backbone(name, "torch") for name in ("DenseNet121", "DenseNet169", "DenseNet201")},
    **{f"EfficientNetB{n}": Backbone(f"EfficientNetB{n}", "builtin", fixed_scaling=True) for n in range(8)},
    **{f"EfficientNetV2{size}": Backbone(f"EfficientNetV2{size}", "builtin") for size in ("B0", "B1", "B2", "B3")},
    **{f"EfficientNetV2{size}": Backbone(f"EfficientNetV2{size}", "builtin") for size in ("S", "M", "L")},
    **{f"MobileNetV3{size}": Backbone(f"MobileNetV3{size}", "builtin") for size in ("Small", "Large")},
    **{
        f"ConvNeXt{size}": Backbone(f"ConvNeXt{size}", "builtin")
        for size in ("Tiny", "Small", "Base", "Large", "XLarge")
    },
}


def pixel_scaling(normalisation: str | NormalisationSettings) -> tuple[list[float], list[float]]:
    """Factor and offset of each RGB channel for pixel values 0 to 255, of a backbone by path.

    Args:
        normalisation: ``imagenet``, ``none``, or means and deviations.
    """
    if isinstance(normalisation, NormalisationSettings):
        means, deviations, scale = normalisation.mean, normalisation.std, normalisation.scale
    elif normalisation == "imagenet":
        means, deviations, scale = list(TORCH_MEANS), list(TORCH_DEVIATIONS), 255
    else:
        return [1.0] * 3, [0.0] * 3
    pairs = list(zip(means, deviations, strict=True))
    return [1 / (scale * deviation) for _, deviation in pairs], [-mean / deviation for mean, deviation in pairs]
