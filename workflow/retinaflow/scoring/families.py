"""Repeats of a model as one family, and names of models as people read them."""

import re
from collections.abc import Iterable, Mapping, Sequence

from retinaflow.config.models import network_of
from retinaflow.settings.train import TrainingSettings

_SWEPT = re.compile(rf"-({'|'.join(sorted(TrainingSettings.model_fields))})((?:[.]\w+)*)-")


def families(models: Iterable[str], repeats: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Group models that differ in the seed of their training only.

    Args:
        models: Names of models.
        repeats: Names of the repeats of each network that has some, by its name.

    Returns:
        Names of the models of each family, by the name of its first one, in the order of ``models``. A model without
        repeats, such as an ensemble, is a family of one.
    """
    of_network = {repeat: name for name, members in repeats.items() for repeat in members}
    found: dict[str, list[str]] = {}
    for model in models:
        network = network_of(model)
        found.setdefault(of_network.get(network, network) + model[len(network) :], []).append(model)
    return found


def title(model: str) -> str:
    """Return the name of a model of a sweep with its settings apart: ``frozen, freeze_layers 10``.

    Other names stay as they are.
    """
    network = network_of(model)
    name, *parts = _SWEPT.split(network)
    settings = [f"{key}{rest} {value}" for key, rest, value in zip(*[iter(parts)] * 3, strict=True)]
    return ", ".join([name, *settings]) + (" " if settings and model != network else "") + model[len(network) :]
