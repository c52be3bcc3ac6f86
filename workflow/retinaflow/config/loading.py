"""Load the configuration: check it, fill in defaults, and complete the settings of each model."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from retinaflow.config.checks import combination_problems
from retinaflow.config.limits import check_text, size_problems
from retinaflow.config.messages import describe, raise_problems
from retinaflow.config.presets import with_presets
from retinaflow.config.sweeps import expand, repeated
from retinaflow.errors import RetinaflowError
from retinaflow.networks.backbones import BACKBONES
from retinaflow.networks.extractor_files import is_onnx
from retinaflow.settings.linear import LinearSection
from retinaflow.settings.root import Configuration, ConfigurationFile
from retinaflow.settings.train import ModelSection, TrainingSettings, TrainSection

HEAD_EPOCHS = 30  # if `head_epochs` is auto
# If `learning_rate` is auto: after a head, and without.
RATES = 1e-5, 1e-4


def load(values: Mapping[str, Any]) -> Configuration:
    """The complete configuration that ``values``, the content of a configuration file, describe.

    Files are not looked at (see ``places.check_files``).

    Raises:
        RetinaflowError: one error that lists all mistakes, each with its key.
    """
    raise_problems(size_problems(values))
    raise_problems(_key_problems(values))
    values = with_presets(values)
    try:
        written = ConfigurationFile.model_validate(values)
    except ValidationError as error:
        raise_problems(describe(error, ConfigurationFile, values))
        raise
    config = complete(written)
    raise_problems(combination_problems(config))
    return config


def read(path: Path) -> Configuration:
    """The complete configuration of a YAML file (see ``load``).

    Raises:
        RetinaflowError: if the file cannot be read, or its configuration has mistakes.
    """
    try:
        check_text([path])
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RetinaflowError(f"{path}: {error.strerror}; expected a configuration file.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RetinaflowError(f"{path}: cannot be read as YAML ({error}). Correct it.") from error
    return load(values if isinstance(values, Mapping) else {})


def complete(written: ConfigurationFile) -> Configuration:
    """The configuration with complete settings of each model instead of the ones that differ from ``train``.

    Of a model, ``head_epochs`` and ``learning_rate`` are numbers and ``feature_layers`` a list.
    """
    shared = written.train.model_dump(exclude_unset=True)
    linear = {name: section for name, section in written.models.items() if isinstance(section, LinearSection)}
    sections = expand(
        {name: section for name, section in written.models.items() if not isinstance(section, LinearSection)}
    )
    completed = {name: _complete_model(name, shared, sections[name]) for name in sorted(sections)}
    # A network in ONNX form has features and is not trained.
    extractors = {name: settings for name, settings in completed.items() if is_onnx(settings.backbone)}
    trained = {name: settings for name, settings in completed.items() if name not in extractors}
    models = repeated(trained, written.repeats)
    others = {name: getattr(written, name) for name in Configuration.model_fields if hasattr(written, name)}
    if "endpoints" not in written.model_fields_set:
        others["endpoints"] = {"referable": _referable_grades(len(written.data.grade_names))}
    used = {name for section in linear.values() for name in section.features if name not in {**models, **extractors}}
    # An unknown name is refused afterwards.
    frozen = {**extractors, **{name: _complete_model(name, shared, ModelSection()) for name in sorted(used)}}
    return Configuration.model_validate(
        {**others, "models": models, "linear": dict(sorted(linear.items())), "frozen": dict(sorted(frozen.items()))}
    )


def _referable_grades(grade_count: int) -> list[int]:
    """The grades of the endpoint ``referable`` if none are configured: from the third on, or the second of two."""
    return list(range(min(2, grade_count - 1), grade_count))


def _complete_model(name: str, shared: Mapping[str, Any], own: ModelSection) -> TrainingSettings:
    merged = _merge(shared, own.model_dump(exclude_unset=True, exclude={"sweep", "repeat"}))
    backbone = merged.pop("backbone", None) or name
    values = TrainSection.model_validate(merged).model_dump()
    trained = values["weights"] != "random"
    if values["feature_layers"] == "auto":
        # An unknown backbone is refused afterwards.
        values["feature_layers"] = list(BACKBONES[backbone].feature_layers) if trained and backbone in BACKBONES else []
    if values["head_epochs"] == "auto":
        values["head_epochs"] = HEAD_EPOCHS if trained and values["batch_norm"] == "inference" else 0
    if values["learning_rate"] == "auto":
        values["learning_rate"] = RATES[0] if values["head_epochs"] else RATES[1]
    return TrainingSettings.model_validate({**values, "backbone": backbone, "repeat": own.repeat})


def _merge(shared: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(shared)
    for key, value in own.items():
        both = isinstance(merged.get(key), Mapping) and isinstance(value, Mapping)
        merged[key] = _merge(merged[key], value) if both else value
    return merged


def _key_problems(section: Mapping[Any, Any], prefix: str = "") -> Iterable[str]:
    for key, value in section.items():
        # The values in a label table, which are keys of a grade map, may be numbers.
        if not isinstance(key, str) and not (prefix.endswith(".grade_map.") and type(key) is int):
            yield f"{prefix}{key}: YAML reads this key as {type(key).__name__}, expected text; put it in quotes"
        if isinstance(value, Mapping):
            yield from _key_problems(value, f"{prefix}{key}.")
