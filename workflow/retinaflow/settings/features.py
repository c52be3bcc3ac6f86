"""Settings of image features."""

from typing import Annotated

from pydantic import Field

from retinaflow.settings.augment import AugmentSettings
from retinaflow.settings.section import Section, Text
from retinaflow.settings.train import Normalisation, TrainingSettings


class FeatureSettings(Section):
    """Features of images for linear models, `snakemake probe` and eye stacking."""

    views: Annotated[int, Field(ge=1, le=1000)] = 1
    """Views of each image: the image itself, then random changes of it by `augment` of its model. Features are the
    mean and the standard deviation over the views. Each view takes as long as one scoring."""


class BackboneFeatureSettings(Section):
    """The settings that decide the features of a backbone.

    A script creates it from its parameters: ``BackboneFeatureSettings.model_validate(snakemake.params.settings)``.
    """

    backbone: Text
    """Backbone of the model."""
    backend: Text
    """Backend of Keras."""
    cpu_threads: int
    """Threads of the network on a CPU."""
    image_size: int
    """Side of the images in pixels."""
    feature_layers: list[Text]
    """Layers of the backbone."""
    normalisation: Normalisation
    """Input of a backbone by path."""
    pooling: Text
    """Features of the tokens of a backbone by path."""
    views: int
    """Views of each image."""
    augment: AugmentSettings | None
    """Random changes of all views but the first. None for one view."""

    @classmethod
    def of(cls, model: TrainingSettings, features: FeatureSettings) -> "BackboneFeatureSettings":
        """Return the settings of the features of a model."""
        return cls(
            backbone=model.backbone,
            backend=model.backend,
            cpu_threads=model.cpu_threads,
            image_size=model.image_size,
            feature_layers=model.feature_layers,
            normalisation=model.normalisation,
            pooling=model.pooling,
            views=features.views,
            augment=model.augment if features.views > 1 else None,
        )
