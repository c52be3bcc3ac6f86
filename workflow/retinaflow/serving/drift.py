"""Drift: whether new images look like those that a model was trained on. NumPy alone.

Figures of the new images are compared with those of the training images, by the statistic of Kolmogorov and Smirnov.
One image a patient counts, since the eyes of a patient are alike. P values are corrected for the number of figures. No
image, no name and no row of a patient is kept: the values of each figure are sorted.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from retinaflow.errors import RetinaflowError
from retinaflow.evaluation.distributions import detectable_distance, largest_distance, p_value_of_distance
from retinaflow.evaluation.multiple_tests import holm
from retinaflow.serving.bundle import Bundle
from retinaflow.serving.gates import CELLS, FIGURES
from retinaflow.storage.documents import parse_document, read_document
from retinaflow.storage.files import digest, write_json
from retinaflow.storage.tables import write_table

REFERENCE_FILE = "drift_reference.json"
VALUES_FILE = "drift_values.json"
# Figures, each with the change that it shows.
DRIFT_FIGURES = {
    "focus": "focus",
    "exposure": "exposure",
    "field": "visible field",
    "short_side": "image size",
    "red": "share of red",
    "blue": "share of blue",
    "unlikeness": "distance from the training images",
    "risk": "risk",
}
DRIFT_COLUMNS = (
    *("figure", "patients", "reference_patients", "median", "reference_median"),
    *("distance", "detectable_distance", "p_value", "corrected_p_value", "drift"),
)
# Share of sources without drift that are reported as drifted.
DRIFT_LEVEL = 0.01
# Fewer patients have no p value. A reference of fewer patients is none.
FEWEST_PATIENTS = 20
# Values of a reference. The error of a distance is half of their inverse.
REFERENCE_VALUES = 256

_VALUES = {"type": "array", "minItems": 1, "items": {"type": "number", "minimum": -1e12, "maximum": 1e12}}


def _figures(item: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "propertyNames": {"enum": list(DRIFT_FIGURES)}, "additionalProperties": item}


_SAMPLE = {
    "type": "object",
    "additionalProperties": False,
    "required": ["values", "patients"],
    "properties": {"values": _VALUES, "patients": {"type": "integer", "minimum": 1, "maximum": 10**12}},
}
REFERENCE_SCHEMA = _figures(_SAMPLE)
VALUES_SCHEMA = {
    "type": "object",
    "additionalProperties": False,
    "required": ["model", "reference", "figures"],
    "properties": {
        "model": {"type": "string", "minLength": 1, "maxLength": 500},
        "reference": {"type": ["string", "null"], "pattern": r"^[0-9a-f]{32}\Z"},
        "figures": _figures(_VALUES),
    },
}

DriftRow = dict[str, Any]  # a value for each of ``DRIFT_COLUMNS``


class ReferenceSample(NamedTuple):
    """A figure of the training images.

    Attributes:
        values: Ascending values at equal shares of the patients, float (v,), at most ``REFERENCE_VALUES``.
        patients: Number of patients.
    """

    values: np.ndarray
    patients: int


class DriftReference(NamedTuple):
    """Figures of the training images.

    Attributes:
        digest: Digest of their file.
        figures: Each of the ``DRIFT_FIGURES`` that is known.
    """

    digest: str
    figures: dict[str, ReferenceSample]


class SeenImage(NamedTuple):
    """A new image: its name, its patient, and its figures, without its risk if it has no answer."""

    name: str
    patient: str
    figures: dict[str, float]


def parse_reference(content: bytes, path: str) -> DriftReference:
    """Read the content of ``REFERENCE_FILE`` of the bundle in the folder of ``path``.

    Raises:
        RetinaflowError: It is no such content.
    """
    found = parse_document(
        content, REFERENCE_SCHEMA, path=path, kind="figures of training images", again="Copy the whole bundle again."
    )
    samples = {name: ReferenceSample(np.sort(one["values"]), one["patients"]) for name, one in found.items()}
    return DriftReference(digest(content), samples)


def thumbnail_figures(features: np.ndarray) -> dict[str, np.ndarray]:
    """Return the mean shares of red and blue, each float (n,), of ``thumbnail_features``, float (n, d)."""
    shares = features[:, -3 * CELLS**2 :].reshape(len(features), -1, 3).mean(axis=1)
    return {"red": shares[:, 0], "blue": shares[:, 2]}


def image_figures(header: Any, features: np.ndarray, distance: float | None) -> dict[str, float]:
    """Measure a new image.

    Args:
        header: Its ``headers.Header``.
        features: ``gates.thumbnail_features`` of the image, prepared for the first network, float (1, d).
        distance: Its distance from the training images (``gates.Gates.distance``), if it is known.
    """
    found = {name: float(getattr(header, name)) for name in FIGURES}
    found["short_side"] = float(min(int(header.width), int(header.height)))
    found |= {name: float(values[0]) for name, values in thumbnail_figures(features).items()}
    if distance is not None:
        found["unlikeness"] = distance
    return found


def one_of_each(patients: Sequence[str], names: Sequence[str]) -> list[int]:
    """Return the place of one image of each patient. The digest of its name chooses it, so neither eye is preferred."""
    digests = [hashlib.sha256(name.encode(errors="surrogateescape")).digest() for name in names]
    chosen: dict[str, int] = {}
    for place, (patient, own) in enumerate(zip(patients, digests, strict=True)):
        if patient not in chosen or own < digests[chosen[patient]]:
            chosen[patient] = place
    return list(chosen.values())


def patient_values(images: Sequence[SeenImage]) -> dict[str, np.ndarray]:
    """Return the ascending values of each figure, one a patient: float (m,)."""
    values = {}
    for figure in DRIFT_FIGURES:
        known = [image for image in images if figure in image.figures]
        chosen = one_of_each([image.patient or image.name for image in known], [image.name for image in known])
        if chosen:
            values[figure] = ascending(known[place].figures[figure] for place in chosen)
    return values


def ascending(values: Iterable[float]) -> np.ndarray:
    """Return values in ascending order, with six digits as in files: equal values of both sides stay equal."""
    return np.sort(np.array([float(f"{value:.6g}") for value in values], float))


def drift_rows(values: Mapping[str, np.ndarray], reference: DriftReference) -> list[DriftRow]:
    """Compare new images with the training images. Return rows of ``DRIFT_COLUMNS``.

    Args:
        values: Values of each figure, one a patient.
        reference: Figures of the training images.
    """
    names = [name for name in DRIFT_FIGURES if name in values and name in reference.figures]
    found = []
    for name in names:
        own, known = values[name], reference.figures[name]
        enough = len(own) >= FEWEST_PATIENTS
        distance = largest_distance(own, known.values)
        row = {
            "figure": name,
            "patients": len(own),
            "reference_patients": known.patients,
            "median": float(np.median(own)),
            "reference_median": float(np.median(known.values)),
            "distance": distance,
            "detectable_distance": detectable_distance(DRIFT_LEVEL / len(names), len(own), known.patients),
            "p_value": p_value_of_distance(distance, len(own), known.patients) if enough else None,
        }
        found.append(row)
    corrected = holm(np.array([np.nan if row["p_value"] is None else row["p_value"] for row in found], float))
    for row, p_value in zip(found, corrected.tolist(), strict=True):
        known_p = row["p_value"] is not None
        row["corrected_p_value"] = p_value if known_p else None
        row["drift"] = int(p_value < DRIFT_LEVEL) if known_p else None
    return found


def drift_text(rows: Sequence[DriftRow]) -> str:
    """Return one sentence on ``drift_rows``; empty if nothing could be compared."""
    tested = [row for row in rows if row["drift"] is not None]
    if not tested:
        return ""
    patients = max(row["patients"] for row in tested)
    drifted = [
        f"{DRIFT_FIGURES[row['figure']]} (median {row['median']:.3g}, training images {row['reference_median']:.3g})"
        for row in tested
        if row["drift"]
    ]
    if drifted:
        return f"drift: {patients} patients differ from those of the training set in {', '.join(drifted)}"
    return f"no drift was found in {len(tested)} figures of {patients} patients"


def write_drift_rows(path: Path, rows: Iterable[DriftRow], columns: Sequence[str] = DRIFT_COLUMNS) -> None:
    """Write rows of drift. Numbers have six digits, and undefined values are empty."""
    write_table(path, columns, ({name: _cell(value) for name, value in row.items()} for row in rows))


def _cell(value: object) -> object:
    return f"{value:.6g}" if isinstance(value, float) else "" if value is None else value


def write_drift_values(
    path: Path, values: Mapping[str, np.ndarray], *, model: str, reference: DriftReference | None
) -> None:
    """Write the values of each figure for later comparisons. Without a reference, there are none."""
    listed = {name: column.tolist() for name, column in values.items()}
    write_json(path, {"model": model, "reference": reference.digest if reference else None, "figures": listed})


def read_values(folder: Path, reference: DriftReference, model: str) -> dict[str, np.ndarray]:
    """Read the values that ``write_drift`` kept in a folder of answers.

    Raises:
        RetinaflowError: There are none, or they are of another model.
    """
    path = folder / VALUES_FILE
    again = f"Grade the images again: retinaflow predict IMAGES --output {folder}."
    content = read_document(
        path, VALUES_SCHEMA, kind="the values that `retinaflow predict --output` keeps", again=again
    )
    if content["reference"] != reference.digest:
        raise RetinaflowError(
            f"{path}: the answers are of another training of {content['model']}; expected those of this bundle of "
            f"{model}. Name the bundle that graded them: --model."
        )
    return {name: np.array(column, float) for name, column in content["figures"].items()}


def compare_folders(folders: Sequence[Path], reference: DriftReference, model: str) -> list[tuple[str, list[DriftRow]]]:
    """Compare folders of answers with the training images: each folder, and its rows of ``DRIFT_COLUMNS``.

    Several folders have one more entry, ``all``, with the patients of all of them.
    """
    values = {str(folder): read_values(folder, reference, model) for folder in folders}
    rows = [(folder, drift_rows(of_folder, reference)) for folder, of_folder in values.items()]
    if len(values) > 1:
        parts = list(values.values())
        joined = {
            name: np.sort(np.concatenate([part[name] for part in parts if name in part]))
            for name in DRIFT_FIGURES
            if any(name in part for part in parts)
        }
        rows.append(("all", drift_rows(joined, reference)))
    return rows


def bundled_reference(bundle: Bundle) -> DriftReference:
    """Read the figures of the training images of a bundle.

    Raises:
        RetinaflowError: It has none, or the file is damaged.
    """
    path = bundle.folder / REFERENCE_FILE
    if REFERENCE_FILE not in bundle.files:
        raise RetinaflowError(
            f"{path}: this bundle of {bundle.model} is of an earlier version, without figures of the training images. "
            "Let the workflow run to its end again."
        )
    return parse_reference(bundle.read_file(REFERENCE_FILE), str(path))


def drift_lines(rows: Sequence[DriftRow]) -> list[str]:
    """Return lines of text for a terminal: one sentence, and one line a figure."""
    if not rows:
        return ["  nothing to compare"]
    heading = ("figure", "patients", "median", "training", "distance", "found from", "p", "drift")
    cells = [
        (
            DRIFT_FIGURES[row["figure"]],
            f"{row['patients']:,}",
            f"{row['median']:.3g}",
            f"{row['reference_median']:.3g}",
            f"{row['distance']:.3f}",
            f"{row['detectable_distance']:.3f}",
            "too few patients" if row["drift"] is None else f"{row['corrected_p_value']:.3g}",
            "yes" if row["drift"] else "",
        )
        for row in rows
    ]
    widths = [max(len(line[place]) for line in (heading, *cells)) for place in range(len(heading))]
    text = [f"  {'  '.join(map(str.ljust, line, widths))}".rstrip() for line in (heading, *cells)]
    sentence = drift_text(rows)
    return [f"  {sentence}", *text] if sentence else text
