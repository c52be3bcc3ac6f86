"""Models of earlier runs that a training can start from: their files and their settings. Imports no backend."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from zipfile import is_zipfile

from retinaflow.errors import RetinaflowError
from retinaflow.settings.train import TrainingSettings
from retinaflow.storage.documents import read_document

MODEL, RECORD, TRAINED_ON = "model.keras", "training_run.json", "trained_on.json"
COPY = "Copy the whole folder of the model, or start from another one."

_TEXTS = {"type": "array", "items": {"type": "string"}}
RECORD_SCHEMA = {
    "type": "object",
    "required": ["backbone", "grade_names", "settings"],
    "properties": {
        "backbone": {"type": "string"},
        "grade_names": _TEXTS,
        "channel_statistics": {"type": ["array", "null"]},
        "settings": {
            "type": "object",
            "required": ["feature_layers", "normalisation", "objective", "dense_units", "head_epochs"],
            "properties": {"feature_layers": _TEXTS, "head_epochs": {"type": "integer"}},
        },
    },
}


def earlier_model(weights: str | os.PathLike[str]) -> Path | None:
    """Return the Keras file if ``weights`` is a trained model: its file, or the folder that holds it. Else None."""
    if weights in ("imagenet", "random"):
        return None
    # os.path and not Path: for it, a path that is too long is one that is not there.
    return Path(weights, MODEL) if os.path.isdir(weights) else _keras_file(weights)  # noqa: PTH112


def _keras_file(weights: str | os.PathLike[str]) -> Path | None:
    return Path(weights) if os.fspath(weights).endswith(".keras") else None


def needed_files(model: Path) -> list[Path]:
    """Files that a training needs of the model with the Keras file ``model``, which comes first."""
    return [model, model.with_name(RECORD), model.with_name(TRAINED_ON)]


def read_record(model: Path) -> dict[str, Any]:
    """Read the record of the training of ``model``.

    Raises:
        RetinaflowError: There is none beside it, or it is damaged.
    """
    return read_document(model.with_name(RECORD), RECORD_SCHEMA, kind="the record of a trained model", again=COPY)


def faults(model: Path, settings: TrainingSettings) -> Iterator[str]:
    """Say why a network with ``settings`` cannot start from ``model``."""
    for file in needed_files(model):
        if not os.path.isfile(file):  # noqa: PTH113
            beside = "" if file == model else f", which belongs to {model.name}"
            yield f"there is no file {str(file)!r}{beside}; {_others(model) or COPY}"
            return
    if not is_zipfile(model):
        yield f"{str(model)!r} is no Keras file, or not all of one; {COPY}"
        return
    try:
        record = read_record(model)
    except RetinaflowError as error:
        yield str(error)
        return
    yield from differences(model, record, settings)


def differences(model: Path, record: dict[str, Any], settings: TrainingSettings) -> Iterator[str]:
    """Describe each setting in which the network of ``model`` differs, so that its weights do not fit."""
    theirs = {"backbone": record["backbone"], **record["settings"]}
    for key in ("backbone", "feature_layers", "normalisation"):
        own = getattr(settings, key)
        if theirs[key] != own:
            yield (
                f"{str(model)!r} was trained with {key} {theirs[key]}, and this model has {own}; set {key} to "
                f"{theirs[key]}, or start from another model"
            )


def has_same_head(record: dict[str, Any], settings: TrainingSettings, grade_names: Sequence[str]) -> bool:
    """Whether the head of a network can start with the weights of the head of an earlier model."""
    theirs = record["settings"]
    return (
        list(grade_names) == record["grade_names"]
        and settings.objective == theirs["objective"]
        and settings.dense_units == theirs["dense_units"]
        # A head that was trained on features of another scale does not fit standardised ones.
        and (not settings.head_epochs or theirs["head_epochs"] > 0)
    )


def _others(model: Path) -> str:
    """Name the models below the folder of ``model``, such as those of folds."""
    found = sorted(model.parent.glob(f"*/{MODEL}")) if model.name == MODEL else []
    return f"name one of {', '.join(str(path.parent) for path in found)}" if found else ""
