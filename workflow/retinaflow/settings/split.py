"""Settings of the split of the training set."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from retinaflow.settings.section import Place, Section, Text, Unique

Files = Annotated[list[Place], Field(min_length=1), Unique()]


def _as_files(value: Any) -> Any:
    return [value] if isinstance(value, str) else value


ListSetting = Annotated[Files, BeforeValidator(_as_files, json_schema_input_type=Place | Files)]


class SplitListSettings(Section):
    """Lists of image names that prescribe the split."""

    train: ListSetting | None = None
    """List of the images to train on: a text file with one name a line, or a `.csv` table with the column `image`; or
    several of these. Without it, all images that are in no other list."""
    validation: ListSetting
    """List of the images to validate on."""
    test: ListSetting | None = None
    """List of images that are not used."""


class SplitSettings(Section):
    """Split of the training set."""

    validation: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Share held out for validation. Not used with folds."""
    unit: Literal["patient", "image"] = "patient"
    """`patient` keeps all images of a patient in one split. `image` splits images, as the article did. The fellow eye
    of most validation images is then in the training split."""
    folds: Annotated[int, Field(ge=0, le=100)] = 0
    """Number of folds for cross-validation. Each fold is held out once. 0 is one split."""
    leave_out: Literal["data_set"] | None = None
    """`data_set` leaves out each of several training sets in turn. Models are trained and validated on the other sets,
    and tested on the one that was left out. One table joins the results. Such models grade no new images."""
    column: Text | None = None
    """Column of the label tables that prescribes the split: `train`, `validation` or `test`. Images of `test` are not
    used. Each training set has this column, or names its own with `split_column`."""
    lists: SplitListSettings | None = None
    """Lists of image names that prescribe the split. With several training sets, a name that is in more than one of
    them has the data set before it, as `eyepacs/17_left`."""
