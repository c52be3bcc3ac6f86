"""What it takes to grade new photographs, as one file beside the models. Imports nothing heavy."""

import os
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from retinaflow.data.inventory import usable
from retinaflow.errors import RetinaflowError
from retinaflow.storage.documents import read_document
from retinaflow.storage.files import write_json
from retinaflow.storage.tables import stream_table

NOTICE = "This is research software, not a medical device."
# Share of the training photographs below whose quality a photograph is said to be poor.
POOR = 0.05

_NAME = {"type": "string", "minLength": 1}
_COUNT = {"type": "integer", "minimum": 1}
_SHARE = {"type": "number", "minimum": 0, "maximum": 1}
_OBJECTIVE = {"enum": ["softmax", "regression", "ordinal"]}


def _object(**properties: dict[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "additionalProperties": False,
        "required": list(properties),
        "properties": properties,
    }


def _list(item: dict[str, Any], least: int = 1) -> dict[str, Any]:
    return {"type": "array", "minItems": least, "items": item}


_NETWORK = _object(
    name=_NAME,
    objective=_OBJECTIVE,
    recipe=_NAME,
    models=_list(_NAME),
    cpu_threads=_COUNT,
    backend={"enum": ["tensorflow", "jax", "torch"]},
)
_GRADER = _object(
    objective=_OBJECTIVE,
    decision=_NAME,
    blended={**_NAME, "type": ["string", "null"]},
    backbones=_list(_NETWORK),
)
SCHEMA = _object(
    classes=_list(_NAME, 2),
    patient=_NAME,
    pixel_limit=_COUNT,
    seed={"type": "integer", "minimum": 0},
    views=_COUNT,
    blend_weight=_SHARE,
    quality_share=_SHARE,
    quality_cut=_SHARE,
    best=_NAME,
    graders={"type": "object", "minProperties": 1, "additionalProperties": _GRADER},
)


class Network(NamedTuple):
    """A trained backbone: of which ``objective`` its outputs are, of which ``recipe`` its photographs.

    ``models``: its one model, or those of its folds. ``cpu_threads`` and ``backend`` are those that scored it.
    """

    name: str
    objective: str
    recipe: str
    models: list[Path]
    cpu_threads: int
    backend: str


class Grader(NamedTuple):
    """The mean of what ``backbones`` put out, of this ``objective``; the file ``decision`` reads it.

    ``blended``, where there is one, reads the mean of both eyes.
    """

    objective: str
    decision: Path
    blended: Path | None
    backbones: list[Network]


class Graders(NamedTuple):
    """All that grade new photographs, by name, and which is ``best`` by its kappa on held-out photographs.

    ``classes``, ``patient`` (pattern), ``pixel_limit``, ``seed``, ``views`` and ``blend_weight`` are those of the
    configuration. Of the training photographs, ``quality_share`` are of less quality than ``quality_cut``.
    """

    classes: list[str]
    patient: str
    pixel_limit: int
    seed: int
    views: int
    blend_weight: float
    quality_share: float
    quality_cut: float
    best: str
    graders: dict[str, Grader]

    def named(self, system: str) -> Grader:
        """The grader called ``system``; ``RetinaflowError`` if there is none."""
        if system not in self.graders:
            raise RetinaflowError(
                f"system: {system!r} grades no new photographs, expected one of {', '.join(self.graders)}. Name one of "
                "these, or none for the best."
            )
        return self.graders[system]


def write_graders(path: Path, described: Mapping[str, Any], comparison: Path, inventory: Path) -> None:
    """Write ``described``, all of ``SCHEMA`` but what follows from two tables: which is best, and what quality is poor.

    ``comparison`` ranks systems; one by both eyes, ``X+eye_average``, counts for ``X``. ``inventory`` is that of the
    training photographs. Paths of models and decisions are relative to the folder of ``path``.
    """
    ranked = [row["model"] for row in stream_table(comparison, ("rank", "model")) if row["rank"]]
    best = next(name for run in ranked if (name := run.removesuffix("+eye_average")) in described["graders"])
    rows = usable(stream_table(inventory, ("quality", "problem")))
    qualities = sorted(float(row["quality"]) for row in rows)
    cut = qualities[int(POOR * len(qualities))]
    write_json(path, {**described, "quality_share": POOR, "quality_cut": cut, "best": best})


def read_graders(path: str | os.PathLike[str]) -> Graders:
    """Read what ``write_graders`` wrote.

    Raises ``RetinaflowError`` if the file cannot be read or is something else, or a path leads out of its folder.
    """
    again = "Let the workflow run to its end; if it has, delete the file and run it again."
    content = read_document(path, SCHEMA, "the graders of a finished run", again)

    def below(name: str) -> Path:
        # What is read there decides how photographs are graded, and may be somebody else's.
        if PurePath(name).is_absolute() or ".." in PurePath(name).parts:
            raise RetinaflowError(f"{path}: {name!r} leads out of the folder of models, where all is expected. {again}")
        return Path(path).parent / name

    graders = {
        system: Grader(
            grader["objective"],
            below(grader["decision"]),
            below(grader["blended"]) if grader["blended"] else None,
            [
                Network(**{**network, "models": [below(model) for model in network["models"]]})
                for network in grader["backbones"]
            ],
        )
        for system, grader in content["graders"].items()
    }
    found = Graders(**{**content, "graders": graders})
    found.named(found.best)
    return found
