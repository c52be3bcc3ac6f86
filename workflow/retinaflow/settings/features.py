"""Settings of image features."""

from typing import Annotated

from pydantic import Field

from retinaflow.settings.section import Section


class FeatureSettings(Section):
    """Features of images for `snakemake probe` and for eye stacking."""

    views: Annotated[int, Field(ge=1, le=1000)] = 1
    """Views of each image: the image itself, then random changes of it by `augment` of its model. Features are the
    mean and the standard deviation over the views. Each view takes as long as scoring once."""
