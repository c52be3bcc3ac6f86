"""Backbones that the configuration can name. The Snakefile reads this module, so it imports nothing heavy."""

from typing import NamedTuple


class Backbone(NamedTuple):
    """A network of ``keras.applications``.

    Attributes:
        constructor: Its name there.
        input_mode: Form in which its ImageNet weights expect RGB values 0 to 255.
            ``caffe``: BGR minus the ImageNet channel means.
            ``tf``: scaled to -1..1.
            ``builtin``: as they are, since the network scales its input itself.
        minimum_size: Least side of its input in pixels.
        feature_layers: Layers whose joined features were best in a linear probe. Empty for the last layer.
    """

    constructor: str
    input_mode: str
    minimum_size: int = 32
    feature_layers: tuple[str, ...] = ()


# https://keras.io/api/applications/ lists the input each network expects and its least size.
BACKBONES = {
    "VGG16": Backbone("VGG16", "caffe", feature_layers=("block3_pool", "block4_pool")),
    "ResNet50": Backbone("ResNet50", "caffe", feature_layers=("conv3_block4_out", "conv4_block2_out")),
    "ResNet50V2": Backbone("ResNet50V2", "tf"),
    "InceptionV3": Backbone("InceptionV3", "tf", minimum_size=75, feature_layers=("mixed2", "mixed4", "mixed6")),
    "EfficientNetV2B0": Backbone("EfficientNetV2B0", "builtin"),
    "EfficientNetV2B1": Backbone("EfficientNetV2B1", "builtin"),
    "EfficientNetV2B2": Backbone("EfficientNetV2B2", "builtin"),
    "EfficientNetV2B3": Backbone("EfficientNetV2B3", "builtin"),
    "EfficientNetV2S": Backbone("EfficientNetV2S", "builtin"),
    "MobileNetV3Small": Backbone("MobileNetV3Small", "builtin"),
    "MobileNetV3Large": Backbone("MobileNetV3Large", "builtin"),
    "ConvNeXtTiny": Backbone("ConvNeXtTiny", "builtin"),
}
