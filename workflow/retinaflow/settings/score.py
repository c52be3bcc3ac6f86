"""Settings of scoring."""

from typing import Annotated

from pydantic import Field

from retinaflow.settings.section import Section


class ScoreSettings(Section):
    """Scoring of predictions."""

    tta_views: Annotated[int, Field(ge=1, le=32)] = 1
    """Views of each image for test-time augmentation (TTA). The outputs of the model are averaged over them. 2 and 4
    are the image and its mirror images. 8 adds their quarter turns. 16 and 32 add turns by 45 and 22.5 degrees. More
    than 4 views are for networks trained with `augment: {rotation: 180}`. The time of scoring is in proportion. The
    model `{model}+no_tta` is scored too, on one view."""
    bootstrap_samples: Annotated[int, Field(ge=0, le=100000)] = 1000
    """Bootstrap samples of the patients of a split, for the 95 % confidence intervals of metrics and of differences
    between models. 0 leaves intervals out."""
