"""Figures of the training images, with which the drift of new images is measured. Needs pandas."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from retinaflow.scoring.decision_rules import apply_decision_rule, read_decision_rule
from retinaflow.scoring.raw_outputs import read_raw_outputs
from retinaflow.serving.drift import FEWEST_PATIENTS, REFERENCE_VALUES, ascending, one_of_each, thumbnail_figures
from retinaflow.serving.gates import FEWEST_IMAGES, FIGURES, fitted_thumbnails, unseen_distances
from retinaflow.storage.tables import stream_table

# Groups of patients: the distance of each is measured from the images of the others.
DISTANCE_GROUPS = 10


@dataclass(frozen=True, kw_only=True)
class ReferenceSources:
    """Files that the figures of the training images are read from.

    Attributes:
        inventory: Inventory of the training images.
        shards: Shards of them in the preprocessing variant of the first network.
        rows: Table of each shard, in the same order; may be empty.
        raw_outputs: Raw outputs of the model on validation images; None if it has none that new images would have.
        output_kind: Columns of the raw outputs: ``output`` or ``no_tta``.
        decision_rule: Decision rule of the model.
    """

    inventory: Path
    shards: Sequence[Path]
    decision_rule: Path
    rows: Sequence[Path] = ()
    raw_outputs: Path | None = None
    output_kind: str = "output"


def fit_reference(sources: ReferenceSources) -> dict[str, Any]:
    """Return the content of ``drift.REFERENCE_FILE``."""
    columns = ("image", "patient", *FIGURES, "width", "height", "problem")
    rows = [row for row in stream_table(sources.inventory, columns) if not row["problem"]]
    patients = {row["image"]: row["patient"] for row in rows}
    chosen = [rows[place] for place in one_of_each([row["patient"] for row in rows], [row["image"] for row in rows])]
    samples = {name: _sample(float(row[name]) for row in chosen) for name in FIGURES}
    samples["short_side"] = _sample(float(min(int(row["width"]), int(row["height"]))) for row in chosen)
    samples |= _thumbnail_samples(sources, patients)
    if sources.raw_outputs:
        samples["risk"] = _risk(sources, sources.raw_outputs)
    return {name: sample for name, sample in samples.items() if sample["patients"] >= FEWEST_PATIENTS}


def _thumbnail_samples(sources: ReferenceSources, patients: dict[str, str]) -> dict[str, dict[str, Any]]:
    """Samples of the figures of thumbnails."""
    tables = [[row["image"] for row in stream_table(path, ("image",))] for path in sources.rows]
    if not tables:
        return {}
    places, features = fitted_thumbnails(sources.shards)
    names = [tables[shard][row] for shard, row in places]
    of_images = [patients.get(name, name) for name in names]
    found = thumbnail_figures(features)
    number = {patient: place for place, patient in enumerate(dict.fromkeys(of_images))}
    if len(features) >= FEWEST_IMAGES and len(number) >= FEWEST_PATIENTS:
        groups = np.array([number[patient] % DISTANCE_GROUPS for patient in of_images])
        found["unlikeness"] = unseen_distances(features, groups)
    chosen = one_of_each(of_images, names)
    return {figure: _sample(values[chosen]) for figure, values in found.items()}


def _risk(sources: ReferenceSources, path: Path) -> dict[str, Any]:
    """Sample of the risk of validation images by the decision rule that grades new images."""
    rule = read_decision_rule(sources.decision_rule)
    raw = read_raw_outputs(path, rule.objective, grade_count=len(rule.grade_names), kind=sources.output_kind)
    risk = apply_decision_rule(rule, raw.outputs).probabilities[:, rule.referable_grade :].sum(axis=1)
    return _sample(risk[one_of_each(raw.patients, raw.images)])


def _sample(values: Iterable[float]) -> dict[str, Any]:
    """Values at equal shares of the patients, and the number of patients."""
    ordered = ascending(values)
    count = min(len(ordered), REFERENCE_VALUES)
    places = ((np.arange(count) + 0.5) * len(ordered) / max(count, 1)).astype(int)
    return {"values": ordered[places].tolist(), "patients": len(ordered)}
