"""Settings of the data sets: images, labels, and what happens to problems in them."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, ConfigDict, Discriminator, Field, Tag

from retinaflow.settings.section import Pattern, Place, Section, Text, Unique

Policy = Literal["error", "exclude"]
GradeName = Annotated[str, Field(pattern=r"^(?!index[.]csv$)[A-Za-z0-9_][A-Za-z0-9_ .+-]*$")]
Places = Annotated[list[Place], Field(min_length=1), Unique()]


def _as_texts(value: Any) -> Any:
    """A grade map with all numbers as text."""
    if isinstance(value, Mapping):
        return {_as_text(key): _as_texts(inner) for key, inner in value.items()}
    return [_as_text(item) for item in value] if isinstance(value, list) else _as_text(value)


def _as_text(value: Any) -> Any:
    """A whole number as text: 2 and 2.0 are "2"."""
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    return str(int(value)) if is_whole or (isinstance(value, float) and value.is_integer()) else value


GradeMapSetting = Annotated[
    dict[Text, Text | Annotated[list[Text], Field(min_length=1)]], Field(min_length=1), BeforeValidator(_as_texts)
]
ScaleSetting = Annotated[
    dict[GradeName, Text | Annotated[list[Text], Field(min_length=1)]], Field(min_length=2), BeforeValidator(_as_texts)
]
Ungradable = Annotated[list[str], Unique(), BeforeValidator(_as_texts)]
DataSetName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$", max_length=60)]


def _as_list(value: Any) -> Any:
    return value if isinstance(value, list) else [value]


Names = Annotated[list[Text], Field(min_length=1), Unique()]
Columns = Text | Names


class ProblemSettings(Section):
    """Policy for each kind of problem."""

    empty: Policy = "exclude"
    """A file of 0 bytes."""
    not_an_image: Policy = "exclude"
    """A file that is neither JPEG, PNG, TIFF, BMP, WebP, JPEG 2000 nor DICOM, or a DICOM file without pixels."""
    unreadable: Policy = "exclude"
    """A broken header, no permission to read, no ordinary file, a DICOM file of several frames or of unknown colours,
    or a file built to exhaust time or memory."""
    truncated: Policy = "exclude"
    """A file that ends early or is damaged, so that pixels are missing or wrong."""
    blank: Policy = "exclude"
    """An image that is black all over."""
    oversized: Policy = "exclude"
    """More pixels than `pixel_limit`."""
    no_label: Policy = "exclude"
    """An image without a label."""
    no_image: Policy = "exclude"
    """A label without an image."""
    bad_grade: Policy = "error"
    """A grade that is missing, fractional, negative, too large or otherwise unknown."""
    duplicate_image: Policy = "error"
    """Two files with one image name, without extension and case. `exclude` leaves out all of them."""
    duplicate_label: Policy = "error"
    """One image with different labels."""
    identical: Policy = "exclude"
    """Images with the same bytes and grade. `exclude` keeps one of them: the one in the training set, or else the
    first by name."""
    identical_conflict: Policy = "error"
    """Images with the same bytes and different grades. `exclude` leaves out all of them. If one is in the training
    set and one in the test set, it leaves out only those of the test set."""
    patient_in_both: Policy = "error"
    """A patient with images in training and test set. `exclude` leaves out those of the test set."""


def _or_preset(schema: dict[str, Any]) -> None:
    """Change a JSON Schema: a preset names images and labels."""
    schema["anyOf"] = [{"required": schema.pop("required")}, {"required": ["preset", "folder"]}]


class DataSetSettings(Section):
    """Images and labels of a data set."""

    model_config = ConfigDict(json_schema_extra=_or_preset)

    preset: Text | None = None
    """Layout of a public download: `aptos`, `brset`, `ddr`, `deepdrid`, `eyepacs`, `idrid`, `messidor2` or `odir`, or
    the path of a `.yaml` file of this form. It gives all keys of the data set that are not named here."""
    folder: Text | None = None
    """Folder of the download, required with `preset`: a folder, a `.zip` archive, or an `s3://` address."""
    part: Annotated[Names, BeforeValidator(_as_list, json_schema_input_type=Text | Names)] | None = None
    """Part of the download, for `preset`, or a list of parts. Without it, the part `train`, `validation` or `test`, as
    the data set is used, or the only one."""
    images: Annotated[Places, BeforeValidator(_as_list, json_schema_input_type=Place | Places)]
    """Folder of images (searched with its subfolders), a `.zip` archive of one, a folder inside an archive
    (`archive.zip/folder`), or a list of these. Each may be in object storage (`s3://bucket/folder`). Required without
    `preset`."""
    labels: Place | Places
    """Label table: CSV with commas, semicolons or tabs, text with blanks, or Excel (`.xlsx`, `.xls`). It may also be a
    `.zip` archive that holds a CSV table, a table inside an archive (`archive.zip/table.csv`), an `s3://` address, or a
    list of tables.
    `class_folders` for no table: the grade is the name of the folder that the image is in, such as `2` or `mild`.
    Required without `preset`."""
    exclude: Annotated[list[str], Unique()] = []
    """Image names (without extension) to leave out."""
    image_column: Columns | None = None
    """Column of the label table with the image name. Without it, that of `data`. A list of columns is several images a
    row, as `[Left-Fundus, Right-Fundus]`."""
    grade_column: Columns | None = None
    """Column of the label table with the grade. Without it, that of `data`. A list of columns has the grades of as many
    images; of one image, the grade is in the column that is not empty."""
    patient_pattern: Pattern | None = None
    """Regular expression of the image names of this data set. Without it, that of `data`."""
    patient_column: Text | None = None
    """Column of the label table with the patient. Without it, that of `data`."""
    eye_column: Text | None = None
    """Column of the label table with the eye. Without it, that of `data`."""
    grade_map: GradeMapSetting | None = None
    """Grades of the values in the label table. Without it, that of `data`."""
    subgroups: Annotated[list[Text], Unique()] | None = None
    """Columns of the label table that name subgroups, such as `[camera, site]`. Without it, those of `data`."""
    split_column: Text | None = None
    """Column of the label table of this training set that prescribes the split. Without it, `split.column`."""
    scale: ScaleSetting | None = None
    """Grades of a test set that has fewer than the training sets. Each has the grades of `data.grade_names` that it
    joins: `{not_referable: [0, 1], referable: [2, 3, 4]}`, or `{R0: 0, R1: 1, R2: 2, R3: [3, 4]}`. The label table has
    these grades, by name or numbered from 0. `grade_map` of `data` does not apply. All models are scored on these
    grades there."""
    pairs: Place | None = None
    """Table with one patient a row. Its columns `left` and `right` have the names of the images of both eyes."""
    grade_separator: Text | None = None
    """Characters between several values in one cell of the grade column, such as `,`. The grade is the highest of the
    values in `grade_map`. Other values are ignored."""
    ungradable: Ungradable = []
    """Values in the grade column of images that nobody could grade, such as `[5]`, or `['']` for an empty cell. The
    images are listed as `ungradable` and left out. `exclude_limit` does not count them."""
    on_problem: ProblemSettings | None = None
    """Policy for some kinds of problems in this data set. For other kinds, that of `data`."""
    exclude_limit: Annotated[float, Field(ge=0, le=1)] | None = None
    """Largest share of images of this data set that may be left out. Without it, that of `data`."""


USES = ("train", "validation", "test")
HELD_OUT = "validation."  # Before the name of a validation set among the training sets.


def _form(value: Any) -> str:
    """Whether ``value`` describes ``one`` data set, or ``several`` by name."""
    if not isinstance(value, Mapping) or not value or value.keys() & DataSetSettings.model_fields.keys():
        return "one"
    return "several" if all(isinstance(inner, Mapping | DataSetSettings) for inner in value.values()) else "one"


DataSets = Annotated[
    Annotated[DataSetSettings, Tag("one")] | Annotated[dict[DataSetName, DataSetSettings], Tag("several")],
    Discriminator(_form),
]


class DataSettings(Section):
    """Images and labels, and the policy for problems in them."""

    train: DataSets
    """Images to train and validate on: one data set, or several by name (`{eyepacs: {...}, aptos: {...}}`), which are
    joined for the split."""
    validation: Annotated[dict[DataSetName, DataSetSettings], Field(min_length=1)] | None = None
    """Images to validate on and never to train on: data sets by name, such as `{ddr: {...}}`. Then no image of
    `train` is held out, and `train` has names, too. Without it, `split` decides."""
    test: DataSets | None = None
    """Images that are only scored: one data set, or several by name, each with scores of its own. Without it, models
    are scored on the validation split alone."""
    shared_patients: list[Annotated[list[DataSetName], Field(min_length=2), Unique()]] = []
    """Groups of names of data sets that have the same patients. Data sets of other names have other patients, even if
    names of images agree. A training set and a test set of one name have the same patients."""
    image_column: Columns = "image"
    """Column of the label table with the image name."""
    grade_column: Columns = "level"
    """Column of the label table with the grade."""
    grade_names: Annotated[list[GradeName], Field(min_length=2), Unique()] = [
        "no_dr",
        "mild",
        "moderate",
        "severe",
        "proliferative",
    ]
    """Names of the grades in order of severity: grade i of the label table has name i. They name the class
    folders."""
    patient_pattern: Pattern = "(?P<patient>.+)_(?P<eye>left|right)"
    """Regular expression that must match a whole image name. It has the group `patient` and may have the group `eye`.
    An image whose name does not match is a patient of its own."""
    patient_column: Text | None = None
    """Column of the label table with the patient. It replaces the patient of `patient_pattern`."""
    eye_column: Text | None = None
    """Column of the label table with the eye: left or right, L or R, OS or OD, or 1 for right and 2 for left. Case does
    not count, and an empty value is an unknown eye. It replaces the eye of `patient_pattern`."""
    grade_map: GradeMapSetting | None = None
    """Grades of the values in the label table. Each entry is a value with its grade (`{R0: 0, R1: mild}`), or a grade
    with a list of its values (`{referable: [2, 3, 4], not_referable: [0, 1]}`). A grade is a number or one of
    `grade_names`. A value that is not in the map is the problem `bad_grade`."""
    subgroups: Annotated[list[Text], Unique()] = []
    """Columns of the label table that name subgroups, such as `[camera, site]`. The inventory and the index of each
    split have them as `subgroup_camera` and `subgroup_site`. They decide nothing of the training."""
    on_problem: ProblemSettings = ProblemSettings()
    """Policy for each kind of problem that the inventory finds: `error`, or `exclude` the image or label."""
    exclude_limit: Annotated[float, Field(ge=0, le=1)] = 0.05
    """Largest share of the images of a data set that may be left out. More is an error. The limit also applies to
    labels without an image."""
    pixel_limit: Annotated[int, Field(ge=1, le=10000)] = 100
    """Largest size of an image in megapixels, by its header, for a file of at most 8 bytes per pixel. A larger image
    is not decoded, since a small file can have more pixels than fit into memory. An image of 100 megapixels needs up
    to 1.5 GB in each of up to 4 threads."""
    unpack_limit: Annotated[int, Field(ge=1)] = 200
    """Largest size in GiB of an unpacked archive."""


def named_sets(data: DataSettings) -> dict[str, DataSetSettings]:
    """The data sets by name: ``train`` and ``test``, or ``train-NAME`` and ``test-NAME`` of several.

    Validation sets are ``train-validation.NAME``, since the training set is split into them and the others.
    """
    found: dict[str, DataSetSettings] = {}
    for use in USES:
        source = getattr(data, use)
        if isinstance(source, DataSetSettings):
            found[use] = source
        elif source:
            found.update({set_name(use, name): one for name, one in source.items()})
    return found


def set_name(use: str, name: str) -> str:
    """Name of a data set that the configuration calls ``name``, one of several of its use."""
    return f"train-{HELD_OUT}{name}" if use == "validation" else f"{use}-{name}"


def set_key(data_set: str) -> str:
    """Key of a data set in the configuration: ``data.train.NAME`` of ``train-NAME``."""
    use, _, name = data_set.partition("-")
    if name.startswith(HELD_OUT):
        return f"data.{name}"
    return f"data.{use}.{name}" if name else f"data.{use}"
