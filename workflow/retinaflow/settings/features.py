"""Settings of image features."""

from typing import Annotated, Any, Literal

from pydantic import Field

from retinaflow.settings.augment import AugmentSettings
from retinaflow.settings.section import Section, Text, Unique
from retinaflow.settings.train import Normalisation, TrainingSettings

Poolings = Annotated[list[Literal["mean", "max", "std", "generalised"]], Field(min_length=1), Unique()]
# Settings that are no parameter of a job at their defaults, so that former features stay up to date.
_POOLED = ("poolings", "root")


def _without_means(values: dict[str, Any]) -> dict[str, Any]:
    """Settings without a pooling by means alone, which is the default."""
    by_means = values["poolings"] == ["mean"] and not values["root"]
    return {name: value for name, value in values.items() if not (by_means and name in _POOLED)}


class FeatureSettings(Section):
    """Features of images for linear models, `snakemake probe` and eye stacking."""

    views: Annotated[int, Field(ge=1, le=1000)] = 1
    """Views of each image: the image itself, then random changes of it by `augment` of its model. Features are the
    mean and the standard deviation over the views. Each view takes as long as one scoring."""
    poolings: Poolings = ["mean"]
    """Values of each channel of a frozen backbone over the area of the image, joined. They are its `mean`, maximum
    (`max`), standard deviation (`std`), and `generalised` mean, the cube root of the mean cube (0 if that is negative).
    They are for linear models and `snakemake probe`, not for eye stacking. `config/few.yaml` has the best ones."""
    root: bool = False
    """Replace each of these values by its square root, and keep its sign."""

    def pooled(self) -> dict[str, Any]:
        """Return the pooling for the record of a linear model; empty for means."""
        return _without_means(self.model_dump(include=set(_POOLED)))


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
    poolings: Poolings = ["mean"]
    """Values of each channel over the area of the image."""
    root: bool = False
    """Whether each of these values is replaced by its square root."""
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
            poolings=features.poolings,
            root=features.root,
            augment=model.augment if features.views > 1 else None,
        )

    def parameters(self) -> dict[str, Any]:
        """Return the values that decide features, without those of a pooling by means alone."""
        return _without_means(self.model_dump())
