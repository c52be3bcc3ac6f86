"""Facts that follow from a configuration: data sets, splits, models, numbers of images and shards."""

import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

from retinaflow.data.grade_texts import grade_parser, scale_grades
from retinaflow.data.image_files import has_image_extension
from retinaflow.data.labels import LabelRow, folder_labels, image_name, name_parser, read_labels
from retinaflow.data.matching import needs_paths, with_paths
from retinaflow.evaluation.grades import GradeScale
from retinaflow.networks.extractor_files import is_onnx
from retinaflow.preprocessing.variant import Variant
from retinaflow.settings.data import HELD_OUT, DataSetSettings, DataSettings, named_sets, set_name
from retinaflow.settings.linear import LinearSection
from retinaflow.settings.root import Configuration
from retinaflow.settings.train import TrainingSettings
from retinaflow.storage.archives import listed_names

CLASS_FOLDERS = "class_folders"
ENSEMBLE = "ensemble"  # the mean of several networks
LEFT_OUT_SPLIT = "left-out"  # split of all images of the data set that was left out of a training
ONE_EYE = "one_eye"  # a linear model of one eye, beside one of both eyes


OWN_COLUMNS = (
    *("image_column", "grade_column", "patient_pattern", "patient_column", "eye_column", "grade_map"),
    "subgroups",
)


def data_sets(config: Configuration) -> dict[str, DataSetSettings]:
    """The data sets by name, each with its columns and its patient pattern.

    The names are ``train`` and ``test``, or ``train-NAME`` and ``test-NAME`` of several data sets.
    """
    return {name: _with_columns(source, config) for name, source in named_sets(config.data).items()}


def _with_columns(source: DataSetSettings, config: Configuration) -> DataSetSettings:
    # A grade map of all sets leads to the grades of the training sets.
    own = [key for key in OWN_COLUMNS if key != "grade_map" or not source.scale]
    return source.model_copy(update={key: _own(source, config.data, key) for key in own})


def grade_scale(config: Configuration, split: str) -> GradeScale | None:
    """Scale of the grades of a test set; None if it, or another split, has the grades of the training sets."""
    source = data_sets(config).get(split)
    if source is None or not source.scale:
        return None
    joined = scale_grades(source.scale, config.data.grade_names)
    return GradeScale(list(joined), [number for number, grades in enumerate(joined.values()) for _ in set(grades)])


def grade_names(config: Configuration, split: str) -> list[str]:
    """Names of the grades that the images of a split or data set are labelled with."""
    scale = grade_scale(config, split)
    return list(scale.names) if scale else config.data.grade_names


def _own(source: DataSetSettings, data: DataSettings, key: str) -> Any:
    """Setting of a data set, or that of all of them."""
    value = getattr(source, key)
    return getattr(data, key) if value is None else value


def screened_grade(config: Configuration) -> int:
    """Lowest grade of the endpoint that is screened for."""
    return min(config.endpoints[config.screening.endpoint])


def training_sets(config: Configuration) -> list[str]:
    """Names of the data sets that are trained and validated on."""
    return [name for name in data_sets(config) if name.split("-")[0] == "train"]


def left_out_sets(config: Configuration) -> list[str]:
    """Names of the training sets that are left out in turn; none without ``split.leave_out``."""
    return [name.partition("-")[2] for name in training_sets(config)] if config.split.leave_out else []


def validation_sets(config: Configuration) -> list[str]:
    """Names of the data sets that are validated on and never trained on."""
    return [set_name("validation", name) for name in config.data.validation or ()]


def split_columns(config: Configuration) -> dict[str, str | None]:
    """Column that prescribes the split, by the name of the training set. Empty if no table prescribes it."""
    sources = data_sets(config)
    columns = {name: sources[name].split_column or config.split.column for name in training_sets(config)}
    return columns if any(columns.values()) else {}


def scored_sets(config: Configuration) -> list[str]:
    """Names of the data sets that are only scored. Each is a split of its own."""
    return [name for name in data_sets(config) if name.split("-")[0] == "test"]


def recalibration(config: Configuration) -> dict[str, int]:
    """Patients that refit the model for a test set, by the name of its split."""
    return {f"test-{name}" if name != "test" else name: count for name, count in config.evidence.recalibration.items()}


def patient_group(config: Configuration, data_set: str) -> str:
    """Name that patients of a data set have before their own, so that other data sets have other patients.

    A single training set and a single test set have none: their patients are the same where their names are.
    """
    name = data_set.partition("-")[2].removeprefix(HELD_OUT)
    return next((group[0] for group in config.data.shared_patients if name in group), name)


def fold_names(folds: int) -> list[str]:
    """Names of the folds: ``fold-1 ... fold-k``; none without folds."""
    return [f"fold-{number}" for number in range(1, folds + 1)]


def set_splits(data_set: str) -> list[str]:
    """Names of both stored splits of a training set that is left out in turn."""
    return [f"{data_set}-train", f"{data_set}-validation"]


def held_out_splits(config: Configuration) -> list[str]:
    """Names of the stored splits of the training set.

    They are ``train, validation``, or ``fold-1 ... fold-k``, or ``NAME-train, NAME-validation`` of each training set
    that is left out in turn.
    """
    of_sets = [split for name in left_out_sets(config) for split in set_splits(name)]
    return fold_names(config.split.folds) or of_sets or ["train", "validation"]


def training_runs(config: Configuration, network: str) -> list[str]:
    """Names of the training runs of a network: one, one a fold, or one for each data set that is left out."""
    folds = [f"{network}/{fold}" for fold in fold_names(config.split.folds)]
    return folds or [without(network, name) for name in left_out_sets(config)] or [network]


def without(model: str, data_set: str) -> str:
    """Name of a model that a data set is left out of: ``A+no_tta`` becomes ``A/without-NAME+no_tta``."""
    name, plus, kind = model.partition("+")
    return f"{name}/without-{data_set}{plus}{kind}"


def left_out_of(model: str) -> str:
    """Name of the data set that is left out of a model; empty if there is none."""
    return model.partition("/without-")[2].partition("+")[0]


def common_name(model: str) -> str:
    """Name that a model has whatever data set is left out of it: ``A/without-NAME+no_tta`` becomes ``A+no_tta``."""
    data_set = left_out_of(model)
    return model.replace(f"/without-{data_set}", "", 1) if data_set else model


def repeat_name(model: str, repeat: int) -> str:
    """Name of a repeat of ``model``. The first, 1, has the name of the model."""
    return model if repeat == 1 else f"{model}-repeat-{repeat}"


def repeats(config: Configuration) -> dict[str, list[str]]:
    """Names of the networks that repeat each model, by its name; none without repeats."""
    if config.repeats == 1:
        return {}
    return {
        name: [repeat_name(name, number) for number in range(1, config.repeats + 1)]
        for name, settings in config.models.items()
        if settings.repeat == 1
    }


def ensembles(config: Configuration) -> dict[str, list[str]]:
    """Networks of each ensemble: of the repeats of each model, and of all networks of several models."""
    of_repeats = {f"{name}+{ENSEMBLE}": members for name, members in repeats(config).items()}
    several = len(config.models) > config.repeats
    return {**of_repeats, ENSEMBLE: list(config.models)} if several else of_repeats


def feature_networks(config: Configuration) -> dict[str, TrainingSettings]:
    """Settings of all networks whose features can be computed: those that are trained, and frozen backbones."""
    return {**config.models, **config.frozen}


def linear_networks(config: Configuration) -> dict[str, TrainingSettings]:
    """Settings of the networks whose features linear models use, in the order of their names."""
    used = {name for settings in config.linear.values() for name in settings.features}
    return {name: settings for name, settings in feature_networks(config).items() if name in used}


def onnx_networks(config: Configuration) -> list[str]:
    """Names of the networks in ONNX form."""
    return [name for name, settings in config.frozen.items() if is_onnx(settings.backbone)]


def linear_models(config: Configuration) -> dict[str, LinearSection]:
    """The linear models by name, each of one eye or both. A model of both eyes has one of one eye beside it."""
    found: dict[str, LinearSection] = {}
    # The label tables are read once, and only if needed.
    paired = any(settings.eyes == "auto" for settings in config.linear.values()) and has_both_eyes(config)
    for name, settings in config.linear.items():
        both = settings.eyes == "both" or (settings.eyes == "auto" and paired)
        one = settings.model_copy(update={"eyes": "one"})
        of_both = settings.model_copy(update={"eyes": "both"})
        found |= {name: of_both, one_eye(name): one} if both else {name: one}
    return found


def one_eye(model: str) -> str:
    """Name of the linear model of one eye beside the ``model`` of both eyes."""
    return f"{model}+{ONE_EYE}"


def training_seed(config: Configuration, model: str) -> int:
    """Seed of the training runs of a network."""
    return config.seed + config.models[model].repeat - 1


def grading_models(config: Configuration) -> list[str]:
    """Names of the models that can grade new images: networks, ensembles, other models of one network, linear models.

    There are ``+eye_average``, ``+eye_stacking`` and ``+one_eye`` only if images have fellow eyes, which the label
    tables show.
    """
    of_networks = [f"{name}+{kind}" for name in config.models for kind in ("no_tta", "eye_average", "eye_stacking")]
    linear = [model for name in config.linear for model in (name, one_eye(name))]
    return [*config.models, *ensembles(config), *of_networks, *linear]


def eye_models(config: Configuration) -> list[str]:
    """Kinds of models of both eyes, ``average`` and ``stacking``, that are made of each network.

    ``auto`` is both if the label table, which must be there, has both eyes of a patient.
    """
    chosen = config.eyes.models
    if chosen != "auto":
        return list(chosen)
    return ["average", "stacking"] if has_both_eyes(config) else []


def has_both_eyes(config: Configuration) -> bool:
    """Whether the label table of a training set has both eyes of a patient. It must be there, except for a demo.

    If training sets are left out in turn, each of them must have both eyes of a patient.
    """
    sources = data_sets(config)
    paired = (_has_both_eyes(sources[name], config.data.grade_names) for name in training_sets(config))
    return bool(config.demo) or (all(paired) if config.split.leave_out else any(paired))


def may_name_eyes(source: DataSetSettings) -> bool:
    """Whether the patient pattern or the label table of a data set can name the eye of an image."""
    named_by_table = bool(source.eye_column or source.pairs)
    return named_by_table or "eye" in re.compile(str(source.patient_pattern)).groupindex


def unpaired_sets(config: Configuration) -> list[str]:
    """Test sets whose labels have no patient with both eyes. Models of both eyes are not scored on them."""
    if config.demo:
        return []
    sources = data_sets(config)
    return [name for name in scored_sets(config) if not _has_both_eyes(sources[name], grade_names(config, name))]


def _has_both_eyes(source: DataSetSettings, names: Sequence[str]) -> bool:
    if not may_name_eyes(source):
        return False
    eyes: dict[str, str] = {}
    return any(eye and eyes.setdefault(patient, eye) != eye for patient, eye in _labelled_patients(source, names))


def _labelled_patients(source: DataSetSettings, names: Sequence[str]) -> Iterator[tuple[str, str]]:
    """Patient and eye of each label of a data set, as table and names have them."""
    parse_name = name_parser(str(source.patient_pattern))
    labels = label_rows(source, names)
    for label in with_paths(labels) if needs_paths(labels) else labels:
        patient, eye = parse_name(label.image)
        yield label.patient or patient, label.eye or eye


def labelled_patients(config: Configuration, data_set: str) -> int:
    """Number of patients that the labels of a data set have. Tags of DICOM files and missing images are not known."""
    if config.demo:
        return config.demo.test_patients if data_set == "test" else config.demo.train_patients
    return len(
        {patient for patient, _ in _labelled_patients(data_sets(config)[data_set], grade_names(config, data_set))}
    )


def variant(config: Configuration, model: str) -> Variant:
    """How the images of a model are preprocessed."""
    how = config.preprocess
    return Variant(feature_networks(config)[model].image_size, how.crop, how.aspect, how.enhance)


def image_counts(config: Configuration) -> dict[str, float]:
    """About how many images each split has, before any was looked at.

    It follows from the number of labels (of drawn images for a demo) and the share of the split.
    """
    folds = config.split.folds
    labelled = {name: _labels(config, name) for name in data_sets(config)}
    held_out = 1 / folds if folds else config.split.validation
    shares = dict.fromkeys(held_out_splits(config), held_out)
    if not folds:
        shares["train"] = 1 - held_out
    if left_out := left_out_sets(config):
        totals = {name: labelled[set_name("train", name)] for name in left_out}
        parts = (total * share for total in totals.values() for share in (1 - held_out, held_out))
        return dict(zip(held_out_splits(config), parts, strict=True))
    learning = sum(labelled[name] for name in training_sets(config))
    if given := validation_sets(config):
        shares["validation"] = sum(labelled[name] for name in given) / max(learning, 1)
        shares["train"] = 1 - shares["validation"]
    counts = {split: learning * share for split, share in shares.items()}
    return counts | {name: labelled[name] for name in scored_sets(config)}


def _labels(config: Configuration, data_set: str) -> int:
    if config.demo:
        return 2 * {"train": config.demo.train_patients, "test": config.demo.test_patients}[data_set]
    return len(label_rows(data_sets(config)[data_set], grade_names(config, data_set)))


def label_rows(source: DataSetSettings, names: Sequence[str]) -> list[LabelRow]:
    """Labels of a data set, as ``data_sets`` describes it, with these names of grades."""
    if tables := label_tables(source):
        return read_labels(tables, **label_columns(source))
    images = [image_name(name) for place in source.images for name in listed_names(place) if has_image_extension(name)]
    return folder_labels(images, grade_parser(names, source.grade_map))


def label_tables(source: DataSetSettings) -> list[str]:
    """Label tables of a data set; none if the grades are the names of folders."""
    if source.labels == CLASS_FOLDERS:
        return []
    return [source.labels] if isinstance(source.labels, str) else source.labels


def tables(source: DataSetSettings) -> list[str]:
    """Tables of a data set: those of labels, and that of pairs."""
    return [*label_tables(source), *([source.pairs] if source.pairs else [])]


def label_columns(source: DataSetSettings) -> dict[str, Any]:
    """Names of the columns that ``read_labels`` takes."""
    names = ("image_column", "grade_column", "patient_column", "eye_column", "subgroups", "pairs")
    return {name: getattr(source, name) for name in names}


def shard_counts(config: Configuration) -> dict[str, int]:
    """Number of shards of each split, at least 1, so that a first dry run shows every job."""
    size = config.preprocess.shard_size
    # Rounded first, so that 0.2 * 5 images, 1.0000000000000002 in floating point, stay one.
    return {split: max(1, math.ceil(round(count / size, 6))) for split, count in image_counts(config).items()}
