"""Settings of linear models on features of frozen backbones."""

from typing import Annotated, Literal

from pydantic import Field

from retinaflow.settings.section import Section, Text, Unique


class LinearSection(Section):
    """An entry of the section `models` with `kind: linear`: a ridge regression on features of frozen backbones."""

    kind: Literal["linear"]
    """`linear`, for a linear model. Networks have no such key."""
    features: Annotated[list[Text], Field(min_length=1), Unique()]
    """Backbones whose features are joined. A name is that of a network in `models`, with its backbone, `image_size`,
    `weights` and `feature_layers`, or of a backbone, with the settings of `train`. No network is trained."""
    eyes: Literal["auto", "one", "both"] = "auto"
    """Eyes of a patient that a grade depends on. With `both`, a second model, `NAME+one_eye`, is for images without
    fellow eye. `auto` is `both` if the label tables have both eyes of a patient."""
