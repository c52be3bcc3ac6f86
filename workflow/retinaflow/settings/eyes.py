"""Settings of the models that use both eyes of a patient."""

from typing import Annotated, Literal

from pydantic import Field

from retinaflow.settings.section import Section, Unique

EyeModel = Literal["average", "stacking"]


class EyeSettings(Section):
    """Models that use both eyes of a patient, one of each trained network."""

    models: Literal["auto"] | Annotated[list[EyeModel], Unique()] = "auto"
    """`average` is the mean of a network's outputs for both eyes. `stacking` is a linear model on the features of
    both eyes, fitted to images that the network was not trained on. `auto` is both models if the label table has both
    eyes of a patient (by `data.patient_pattern` or `data.eye_column`), else none."""
    fellow_eye_weight: Annotated[float, Field(ge=0, le=1)] = 0.4
    """Weight of the fellow eye in the eye average. A better network needs a smaller weight. 0.5 gives both eyes one
    grade."""
