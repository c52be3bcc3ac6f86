"""Configurations for tests, as a file has them and complete."""

import copy
from pathlib import Path
from typing import Any

from retinaflow.config.loading import complete
from retinaflow.settings.root import Configuration, ConfigurationFile

DATA = {"train": {"images": "images", "labels": "labels.csv"}}


def written(**changes: Any) -> dict[str, Any]:
    """A right configuration with some keys set; ``a__b`` is the key b of section a."""
    result: dict[str, Any] = {"data": copy.deepcopy(DATA)}
    for key, value in changes.items():
        *sections, last = key.split("__")
        part = result
        for section in sections:
            part = part.setdefault(section, {})
        part[last] = value
    return result


def completed(values: dict[str, Any]) -> Configuration:
    """The complete configuration of ``values``, combinations not checked."""
    return complete(ConfigurationFile.model_validate(values))


def configured(**changes: Any) -> Configuration:
    """``written``, complete."""
    return completed(written(**changes))


def labelled(tmp_path: Path, **changes: Any) -> Configuration:
    """``configured`` for a folder of images and a table of 100 labels that are there."""
    (tmp_path / "images").mkdir(exist_ok=True)
    (tmp_path / "labels.csv").write_text("image,level\n" + "".join(f"{n}_left,0\n" for n in range(100)))
    train = {"images": str(tmp_path / "images"), "labels": str(tmp_path / "labels.csv")}
    return configured(**{"data__train": train, **changes})
