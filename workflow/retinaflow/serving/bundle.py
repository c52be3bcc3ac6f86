"""Deployment bundle: models, decision rules and settings that grade new images. Imports nothing heavy."""

import os
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from retinaflow.errors import RetinaflowError
from retinaflow.storage.documents import read_document
from retinaflow.storage.files import write_json
from retinaflow.storage.tables import stream_table

NOTICE = "This is research software, not a medical device."
# Share of the training images below whose quality an image is reported as of low quality.
LOW_QUALITY_SHARE = 0.05
RUN_AGAIN = "Let the workflow run to its end; if it has, delete the file and run it again."

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
    variant=_NAME,
    files=_list(_NAME),
    cpu_threads=_COUNT,
    backend={"enum": ["tensorflow", "jax", "torch"]},
)
_MODEL = _object(
    objective=_OBJECTIVE,
    decision_rule=_NAME,
    eye_average={**_NAME, "type": ["string", "null"]},
    networks=_list(_NETWORK),
)
BUNDLE_SCHEMA = _object(
    grade_names=_list(_NAME, 2),
    patient_pattern=_NAME,
    pixel_limit=_COUNT,
    seed={"type": "integer", "minimum": 0},
    tta_views=_COUNT,
    fellow_eye_weight=_SHARE,
    quality_share=_SHARE,
    quality_threshold=_SHARE,
    best=_NAME,
    models={"type": "object", "minProperties": 1, "additionalProperties": _MODEL},
)


class BundledNetwork(NamedTuple):
    """A trained network of a bundle.

    Attributes:
        name: Its name in the configuration.
        objective: Kind of its raw outputs: ``softmax``, ``regression`` or ``ordinal``.
        variant: Preprocessing variant of its images.
        files: Its Keras file, or one for each fold.
        cpu_threads: Number of threads that scored it.
        backend: Backend of Keras that scored it.
    """

    name: str
    objective: str
    variant: str
    files: list[Path]
    cpu_threads: int
    backend: str


class BundledModel(NamedTuple):
    """A model of a bundle: the mean raw outputs of its networks, graded by a decision rule.

    Attributes:
        objective: Kind of the mean raw outputs.
        decision_rule: File of its decision rule.
        eye_average: File of the decision rule for the mean of both eyes, if there is one.
        networks: The networks it averages.
    """

    objective: str
    decision_rule: Path
    eye_average: Path | None
    networks: list[BundledNetwork]


class Bundle(NamedTuple):
    """All models that grade new images, and the settings they share.

    Attributes:
        grade_names: Name of each grade.
        patient_pattern: Regular expression for patient and eye in an image's name.
        pixel_limit: Largest image, in megapixels.
        seed: Seed of the workflow.
        tta_views: Views of test-time augmentation.
        fellow_eye_weight: Weight of the fellow eye in an eye average, 0 to 1.
        quality_share: Share of the training images whose quality is below ``quality_threshold``.
        quality_threshold: Quality below which an image is of low quality, 0 to 1.
        best: Name of the model with the highest kappa on held-out images.
        models: The models by name.
    """

    grade_names: list[str]
    patient_pattern: str
    pixel_limit: int
    seed: int
    tta_views: int
    fellow_eye_weight: float
    quality_share: float
    quality_threshold: float
    best: str
    models: dict[str, BundledModel]

    def model(self, name: str) -> BundledModel:
        """Return a model by name; raise ``RetinaflowError`` if there is none."""
        if name not in self.models:
            raise RetinaflowError(
                f"model: {name!r} grades no new images; expected one of {', '.join(self.models)}. Name one of them, or "
                "none for the best."
            )
        return self.models[name]


def write_bundle(path: Path, content: Mapping[str, Any], comparison: Path, inventory: Path) -> None:
    """Write a bundle.

    Args:
        path: The file. Paths in ``content`` are relative to its folder.
        content: All keys of ``BUNDLE_SCHEMA`` but ``best``, ``quality_share`` and ``quality_threshold``.
        comparison: Table that ranks the models. The rank of ``X+eye_average`` counts for ``X``.
        inventory: Inventory of the training images, for their quality.
    """
    ranked = [row["model"] for row in stream_table(comparison, ("rank", "model")) if row["rank"]]
    names = (model.removesuffix("+eye_average") for model in ranked)
    # Linear models alone are no content; a reader of the file says so.
    best = next((name for name in names if name in content["models"]), None)
    images = stream_table(inventory, ("quality", "problem"))
    qualities = sorted(float(image["quality"]) for image in images if not image["problem"])
    threshold = qualities[int(LOW_QUALITY_SHARE * len(qualities))]
    derived = {"quality_share": LOW_QUALITY_SHARE, "quality_threshold": threshold, "best": best}
    write_json(path, {**content, **derived})


def read_bundle(path: str | os.PathLike[str]) -> Bundle:
    """Read a bundle.

    Raises:
        RetinaflowError: The file cannot be read or is no bundle, or one of its paths leads out of its folder.
    """
    content = read_document(path, BUNDLE_SCHEMA, kind="the bundle of a finished run", again=RUN_AGAIN)
    folder = Path(path).parent

    def below(name: str) -> Path:
        # A bundle may come from another person; its files decide how images are graded.
        if PurePath(name).is_absolute() or ".." in PurePath(name).parts:
            raise RetinaflowError(
                f"{path}: {name!r} leads out of the folder of models; expected a path below it. {RUN_AGAIN}"
            )
        return folder / name

    models = {
        name: BundledModel(
            model["objective"],
            below(model["decision_rule"]),
            below(model["eye_average"]) if model["eye_average"] else None,
            [
                BundledNetwork(**{**network, "files": [below(file) for file in network["files"]]})
                for network in model["networks"]
            ],
        )
        for name, model in content["models"].items()
    }
    bundle = Bundle(**{**content, "models": models})
    bundle.model(bundle.best)
    return bundle
