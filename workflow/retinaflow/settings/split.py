"""Settings of the split of the training set."""

from typing import Annotated, Literal

from pydantic import Field

from retinaflow.settings.section import Section, Text


class SplitSettings(Section):
    """Split of the training set."""

    validation: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share held out for validation. Not used with folds."""
    unit: Literal["patient", "image"] = "patient"
    """`patient` keeps all images of a patient in one split. `image` splits images, as the article did. The fellow eye
    of most validation images is then in the training split."""
    folds: Annotated[int, Field(ge=0, le=100)] = 0
    """Number of folds for cross-validation. Each fold is held out once. 0 is one split."""
    column: Text | None = None
    """Column of the label tables that prescribes the split: `train`, `validation` or `test`. Images of `test` are not
    used. Each training set has this column."""
