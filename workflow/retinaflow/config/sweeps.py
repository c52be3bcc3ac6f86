"""Sweeps and repeats: one entry of `models` becomes several models.

A sweep makes one model of each combination of values. Repeats make one of each seed.
"""

import itertools
import re
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import ValidationError

from retinaflow.config.lookups import repeat_name
from retinaflow.config.messages import describe, raise_problems
from retinaflow.settings.train import ModelSection, TrainingSettings

MOST = 1000  # models of one sweep
NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_.-]+")


def expand(models: Mapping[str, ModelSection | None]) -> dict[str, ModelSection]:
    """Make one model of each combination of the values below ``sweep``.

    A model of a sweep is named after its entry and what differs: ``frozen-freeze_layers-10-objective-ordinal``.

    Args:
        models: The section `models` of the configuration.

    Returns:
        The models by name, without ``sweep``.

    Raises:
        RetinaflowError: A key or value of a sweep is wrong, or two models have one name.
    """
    expanded: dict[str, ModelSection] = {}
    for name, section in models.items():
        own = section or ModelSection()
        made = _combinations(name, own) if own.sweep else {name: own}
        raise_problems(
            f"models.{name}: its model {twice!r} has the name of another model; give one of them another name"
            for twice in made.keys() & expanded.keys()
        )
        expanded.update(made)
    return expanded


def repeated(models: Mapping[str, TrainingSettings], repeats: int) -> dict[str, TrainingSettings]:
    """Make ``repeats`` models of each of the ``models``, by name. The first keeps its name.

    Raises:
        RetinaflowError: Two models have one name.
    """
    made = dict(models)
    for name, settings in models.items():
        for number in range(2, repeats + 1) if settings.repeat == 1 else ():
            repeat = settings.model_copy(update={"repeat": number})
            other = made.setdefault(repeat_name(name, number), repeat)
            if other != repeat:
                raise_problems(
                    [
                        f"models.{repeat_name(name, number)}: this is the name of a repeat of {name}; give the model "
                        "another name"
                    ]
                )
    return dict(sorted(made.items()))


def _combinations(name: str, own: ModelSection) -> dict[str, ModelSection]:
    shared = own.model_dump(exclude_unset=True, exclude={"sweep"})
    shared.setdefault("backbone", name)
    raise_problems(_problems(name, own, shared))
    made: dict[str, ModelSection] = {}
    for values in itertools.product(*own.sweep.values()):
        chosen = dict(zip(own.sweep, values, strict=True))
        model = "-".join([name, *(f"{key}-{value_name(value)}" for key, value in chosen.items())])
        if model in made:
            raise_problems([f"models.{name}.sweep: two combinations have the name {model!r}; remove one of the values"])
        made[model] = _with(shared, chosen)
    return made


def _problems(name: str, own: ModelSection, shared: Mapping[str, Any]) -> Iterator[str]:
    count = 1
    for key, values in own.sweep.items():
        count *= len(values)
        if key in own.model_fields_set:
            yield f"models.{name}.{key}: this key has several values below `sweep`, too; remove one of the two"
        lines = [line for value in values for line in _value_problems(shared, key, value)]
        yield from (f"models.{name}.sweep.{line}" for line in dict.fromkeys(lines))
    if count > MOST:
        yield f"models.{name}.sweep: {count} combinations, expected at most {MOST}"


def _value_problems(shared: Mapping[str, Any], key: str, value: Any) -> list[str]:
    if key.split(".")[0] == "sweep":
        return [f"{key}: a sweep cannot be swept; remove this key"]
    try:
        _with(shared, {key: value})
    except ValidationError as error:
        return describe(error, ModelSection, _nested(shared, {key: value}))
    return []


def _with(shared: Mapping[str, Any], chosen: Mapping[str, Any]) -> ModelSection:
    return ModelSection.model_validate(_nested(shared, chosen))


def _nested(shared: Mapping[str, Any], chosen: Mapping[str, Any]) -> dict[str, Any]:
    """``shared`` with the values ``chosen``; a point in a key leads into a section."""
    merged = dict(shared)
    for key, value in chosen.items():
        first, _, rest = key.partition(".")
        inner = merged.get(first)
        merged[first] = _nested(inner if isinstance(inner, Mapping) else {}, {rest: value}) if rest else value
    return merged


def value_name(value: Any) -> str:
    """``value`` as a part of a model's name: letters, digits, points, hyphens and underscores."""
    if isinstance(value, list):
        return "_".join(map(value_name, value)) or "none"
    return NOT_IN_NAMES.sub("_", str(value).lower() if isinstance(value, bool) else str(value)).strip("_") or "none"
