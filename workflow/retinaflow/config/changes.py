"""Settings that differ from their defaults, for the report."""

import re
from collections.abc import Mapping
from typing import Any

from retinaflow.config.loading import complete
from retinaflow.settings.root import Configuration, ConfigurationFile

# They decide nothing of the models.
LEFT_OUT = ("tracking.", "export.")
EMPTY: dict[str, Any] = {"data": {"train": {"images": "images", "labels": "labels"}}}


def changed(config: Configuration) -> list[list[Any]]:
    """Key, value and default of each setting that is not the default.

    Values that a model shares with ``train`` are left out. The default is None if there is none.
    """
    models = {name: {"backbone": settings.backbone} for name, settings in config.models.items()}
    linear = {name: {"kind": "linear", "features": settings.features} for name, settings in config.linear.items()}
    default = complete(ConfigurationFile.model_validate({**EMPTY, "models": {**models, **linear}})).model_dump()
    del default["data"]["train"]["images"], default["data"]["train"]["labels"]
    for name, settings in config.models.items():
        if name != settings.backbone:
            del default["models"][name]["backbone"]
    for name in config.linear:
        del default["models"][name]["features"]
    defaults, values = flat(default), flat(config.model_dump())
    found = []
    for key, value in values.items():
        shared = re.sub(r"^models\.[^.]+\.", "train.", key)
        is_own = shared == key or value != values.get(shared)
        if not key.startswith(LEFT_OUT) and value != defaults.get(key) and is_own:
            found.append([key, value, defaults.get(key)])
    return found


def flat(nested: Mapping[str, Any]) -> dict[str, Any]:
    """The values of nested mappings, by keys such as ``train.epochs``."""
    found = {}
    for key, value in nested.items():
        if isinstance(value, Mapping):
            found.update({f"{key}.{inner}": its for inner, its in flat(value).items()})
        else:
            found[key] = value
    return found
