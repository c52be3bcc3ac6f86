"""Facts that follow from a configuration: data sets, splits, models, numbers of images and shards."""

import math
import re

from retinaflow.config.root import Configuration
from retinaflow.data.labels import read_labels
from retinaflow.preprocessing.variant import Variant
from retinaflow.settings.data import DataSetSettings, DataSettings

ENSEMBLE = "ensemble"  # the mean of several networks


def data_sets(config: Configuration) -> dict[str, DataSetSettings]:
    """The data sets by name: ``train`` and, if there is one, ``test``."""
    found = {"train": config.data.train, "test": config.data.test}
    return {name: source for name, source in found.items() if source}


def fold_names(folds: int) -> list[str]:
    """Names of the folds: ``fold-1 ... fold-k``; none without folds."""
    return [f"fold-{number}" for number in range(1, folds + 1)]


def held_out_splits(config: Configuration) -> list[str]:
    """Names of the splits of the training set: ``train, validation`` or ``fold-1 ... fold-k``."""
    return fold_names(config.split.folds) or ["train", "validation"]


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


def training_seed(config: Configuration, model: str) -> int:
    """Seed of the training runs of a network."""
    return config.seed + config.models[model].repeat - 1


def grading_models(config: Configuration) -> list[str]:
    """Names of the models that can grade new images: the networks and, of several, their ensembles."""
    return [*config.models, *ensembles(config)]


def eye_models(config: Configuration) -> list[str]:
    """Kinds of models of both eyes, ``average`` and ``stacking``, that are made of each network.

    ``auto`` is both if the label table, which must be there, has both eyes of a patient.
    """
    chosen = config.eyes.models
    if chosen != "auto":
        return list(chosen)
    return ["average", "stacking"] if config.demo or _has_both_eyes(config.data) else []


def _has_both_eyes(data: DataSettings) -> bool:
    pattern = re.compile(data.patient_pattern, re.DOTALL)
    if "eye" not in pattern.groupindex:
        return False
    eyes: dict[str, str] = {}
    for label in read_labels(data.train.labels, data.image_column, data.grade_column):
        match = pattern.fullmatch(label.image)
        if match and match["eye"] and eyes.setdefault(match["patient"], match["eye"]) != match["eye"]:
            return True
    return False


def variant(config: Configuration, model: str) -> Variant:
    """How the images of a model are preprocessed."""
    how = config.preprocess
    return Variant(config.models[model].image_size, how.crop, how.aspect, how.enhance)


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
    counts = {split: labelled["train"] * share for split, share in shares.items()}
    if "test" in labelled:
        counts["test"] = labelled["test"]
    return counts


def _labels(config: Configuration, data_set: str) -> int:
    if config.demo:
        return 2 * {"train": config.demo.train_patients, "test": config.demo.test_patients}[data_set]
    data = config.data
    return len(read_labels(data_sets(config)[data_set].labels, data.image_column, data.grade_column))


def shard_counts(config: Configuration) -> dict[str, int]:
    """Number of shards of each split, at least 1, so that a first dry run shows every job."""
    size = config.preprocess.shard_size
    # Rounded first, so that 0.2 * 5 images, 1.0000000000000002 in floating point, stay one.
    return {split: max(1, math.ceil(round(count / size, 6))) for split, count in image_counts(config).items()}
