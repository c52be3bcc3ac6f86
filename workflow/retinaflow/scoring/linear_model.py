"""Linear models: files that turn features of images into severities. NumPy alone, since prediction imports this."""

import io
import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jsonschema
import jsonschema.exceptions
import numpy as np

from retinaflow.errors import RetinaflowError
from retinaflow.storage.files import whole_file

FIT_AGAIN = "Delete the file and run again to fit the model again."
_PACKAGES = ("numpy", "scikit-learn")
_ARRAYS = ("weights", "intercept", "record")
_LARGEST = 64 * 2**20  # bytes of an array; the widest features of both eyes need less than 1 MB for each backbone
_ROWS = 4096  # images whose features are in float64 together
_NAME = {"type": "string", "minLength": 1}
_COUNT = {"type": "integer", "minimum": 1}


def _object(**properties: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "additionalProperties": False,
        "required": list(properties),
        "properties": properties,
    }


_INPUT = _object(
    network=_NAME,
    training_run={**_NAME, "type": ["string", "null"]},
    backbone=_NAME,
    weights=_NAME,
    digest={**_NAME, "type": ["string", "null"]},
    variant=_NAME,
    feature_layers={"type": "array", "items": _NAME},
    views=_COUNT,
    severity={"type": "boolean"},
    deviations={"type": "boolean"},
    values=_COUNT,
)
# Models on means alone have neither.
_INPUT["properties"] |= {"poolings": {"type": "array", "minItems": 1, "items": _NAME}, "root": {"type": "boolean"}}
# Schema of the record of a linear model. docs/file-formats-scores.md explains it.
LINEAR_RECORD = _object(
    model=_NAME,
    kind={"enum": ["linear", "eye_stacking"]},
    objective={"const": "regression"},
    grade_names={"type": "array", "minItems": 2, "items": _NAME},
    eyes={"enum": ["one", "both"]},
    fallback={**_NAME, "type": ["string", "null"]},
    inputs={"type": "array", "minItems": 1, "items": _INPUT},
    strength={"type": "number", "exclusiveMinimum": 0},
    images=_COUNT,
    patients=_COUNT,
    seed={"type": "integer", "minimum": 0},
    packages={"type": "object", "additionalProperties": _NAME},
    digests={"type": "object", "additionalProperties": _NAME},
)


@dataclass(frozen=True)
class LinearModel:
    """Severity as a linear function of the features of an image, or of the images of both eyes.

    Attributes:
        weights: Weight of each value, float64 (w,). With one eye, w is ``values``. With both eyes, w is
            2 ``values`` + 1: the values of the image, those of the fellow eye, and whether there is a fellow eye.
        intercept: Severity of an image whose values are all 0.
        record: Origin of the values and of the model, as ``LINEAR_RECORD`` describes it.
    """

    weights: np.ndarray
    intercept: float
    record: Mapping[str, Any]

    @property
    def both(self) -> bool:
        """Return whether the model uses both eyes."""
        return bool(self.record["eyes"] == "both")

    @property
    def values(self) -> int:
        """Return the number of values of one image, those of all inputs joined."""
        return sum(item["values"] for item in self.record["inputs"])

    def predict(self, features: np.ndarray) -> np.ndarray:
        """Return the severity of images, float64 (n,), without bounds: the raw outputs of a regression.

        Args:
            features: Values of the images, float (n, w). For a model of both eyes, ``join_eyes`` makes them.

        Raises:
            RetinaflowError: The number of values is wrong.
        """
        if features.ndim != 2 or features.shape[1] != len(self.weights):
            raise RetinaflowError(
                f"{self.record['model']}: found features of shape {features.shape}, expected (n, {len(self.weights)}). "
                "Compute the features with the backbones and layers that the model was fitted with."
            )
        parts = [features[start : start + _ROWS] for start in range(0, len(features), _ROWS)]
        return np.concatenate(
            [np.empty(0), *(part.astype(np.float64) @ self.weights + self.intercept for part in parts)]
        )


def join_eyes(own: np.ndarray, fellow: np.ndarray, paired: np.ndarray) -> np.ndarray:
    """Join the values of each image with those of its fellow eye.

    An image without fellow eye has its own values twice, as if both eyes were alike.

    Args:
        own: float (n, d).
        fellow: Mean values of the images of the fellow eye, float (n, d). Rows without fellow eye are ignored.
        paired: Whether each image has a fellow eye, bool (n,).

    Returns:
        float32 (n, 2 d + 1).
    """
    known = paired[:, np.newaxis]
    return np.concatenate([own, np.where(known, fellow, own), known], axis=1, dtype=np.float32)


def package_versions() -> dict[str, str]:
    """Return the versions of the packages that fit linear models."""
    return {name: version(name) for name in _PACKAGES}


def write_linear_model(path: Path, model: LinearModel) -> None:
    """Write a linear model: one NumPy archive with two arrays and the record as JSON.

    Raises:
        ValueError: The record or the shape of the weights is not that of a linear model.
    """
    if fault := _fault(model):
        raise ValueError(f"{path}: {fault}")
    text = json.dumps(model.record, allow_nan=False, ensure_ascii=False, sort_keys=True)
    with whole_file(path) as part:
        np.savez(
            part,
            weights=model.weights.astype(np.float64),
            intercept=np.float64(model.intercept),
            record=np.frombuffer(text.encode(), np.uint8),
        )


def read_linear_model(path: Path) -> LinearModel:
    """Read a file of ``write_linear_model``.

    Raises:
        RetinaflowError: The file cannot be read or is no linear model.
    """
    return _parse(path, path)


def parse_linear_model(content: bytes, path: Path) -> LinearModel:
    """Return the linear model of a file's ``content``. Errors name the ``path``.

    Raises:
        RetinaflowError: It is no linear model.
    """
    return _parse(io.BytesIO(content), path)


def _parse(source: Path | io.BytesIO, path: Path) -> LinearModel:
    try:
        with zipfile.ZipFile(source) as archive:
            sizes = {entry.filename: entry.file_size for entry in archive.infolist()}
        if set(sizes) != {f"{name}.npy" for name in _ARRAYS} or max(sizes.values()) > _LARGEST:
            raise ValueError(f"found {sorted(sizes)[:5]}")
        with np.load(source, allow_pickle=False) as arrays:
            weights, intercept, text = (arrays[name] for name in _ARRAYS)
        model = LinearModel(weights.astype(np.float64), float(intercept), json.loads(text.tobytes()))
    except Exception as error:  # NumPy and zipfile raise many types for a damaged file.
        message = " ".join(str(error).split())[:200]
        raise RetinaflowError(
            f"{path}: cannot be read as a linear model ({message}); expected a NumPy archive of "
            f"{', '.join(_ARRAYS)}. {FIT_AGAIN}"
        ) from error
    if fault := _fault(model):
        raise RetinaflowError(f"{path}: {fault}. {FIT_AGAIN}")
    return model


def _fault(model: LinearModel) -> str:
    """Words that say why a model is none; empty if it is one."""
    try:
        jsonschema.validate(model.record, LINEAR_RECORD)
    except jsonschema.exceptions.ValidationError as error:
        return f"record: {error.json_path.removeprefix('$.')}: {error.message[:200]}"
    expected = 2 * model.values + 1 if model.both else model.values
    if model.weights.shape != (expected,):
        return f"weights of shape {model.weights.shape}, expected ({expected},), as the inputs of the record say"
    if not (np.isfinite(model.weights).all() and np.isfinite(model.intercept)):
        return "a weight is not finite, expected numbers"
    return ""
