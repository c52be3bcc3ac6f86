"""Metrics of each training set: the held-out images of joined training sets, set by set."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from retinaflow.data.frames import read_frame
from retinaflow.errors import RetinaflowError
from retinaflow.evaluation.bootstrap import bootstrap_auc, bootstrap_kappas, interval, weighted_auc
from retinaflow.evaluation.bootstrap import kappa as kappa_of
from retinaflow.evaluation.grades import parse_grades
from retinaflow.scoring.decision_rules import apply_decision_rule, read_decision_rule
from retinaflow.scoring.raw_outputs import fold_strata, read_raw_outputs
from retinaflow.storage.tables import REBUILD

_KAPPA, _AUC = "quadratic_weighted_kappa", "referable_auc"
_RATES = ("operating_point_sensitivity", "operating_point_specificity")
DATA_SET_COLUMNS = (
    *("split", "data_set", "rank", "model", "images", "patients", "accuracy"),
    *(f"{name}{end}" for name in (_KAPPA, _AUC) for end in ("", "_low", "_high")),
    *_RATES,
)


@dataclass(frozen=True)
class HeldOutFiles:
    """Raw outputs of a model for its held-out images, and its decision rule.

    Attributes:
        raw_outputs: Table of raw outputs.
        decision_rule: File of the decision rule.
        kind: Columns of the raw outputs: ``output`` or ``no_tta``.
    """

    raw_outputs: Path
    decision_rule: Path
    kind: str = "output"


@dataclass(frozen=True)
class JoinedSets:
    """Joined training sets.

    Attributes:
        names: Names of the sets, which the names of images begin with.
        models: Files of each ranked model.
        folds: Index tables of the folds; none without folds.
    """

    names: Sequence[str]
    models: Mapping[str, HeldOutFiles]
    folds: Sequence[Path] = ()


def score_data_sets(
    ranked: Sequence[Mapping[str, Any]], joined: JoinedSets | None, *, samples: int, seed: int
) -> list[dict[str, Any]]:
    """Compute the metrics of models on the images of each training set.

    Args:
        ranked: Rows of the ranked models on the split of the ranking.
        joined: Training sets. With fewer than two, there is nothing to compute.
        samples: Number of bootstrap samples of the patients of a set, 0 for no intervals.
        seed: Seed of the bootstrap.

    Returns:
        A row of ``DATA_SET_COLUMNS`` for each model and set with images, by rank.

    Raises:
        RetinaflowError: A table cannot be read, tables have other images, or an image is of no set.
    """
    if joined is None or len(joined.names) < 2:
        return []
    rows = []
    for row in ranked:
        images = _read(row, joined)
        for data_set in joined.names:
            chosen = images[images["data_set"] == data_set]
            if len(chosen):
                header = {"split": row["split"], "data_set": data_set, "rank": row["rank"], "model": row["model"]}
                rows.append(header | _metrics(chosen, len(row["grade_names"]), samples, seed))
    return rows


def _read(row: Mapping[str, Any], joined: JoinedSets) -> pd.DataFrame:
    """Data set, patient, grades, screening decision, risk and stratum of each image."""
    path, names = row["predictions"], row["grade_names"]
    frame = read_frame(path, ("image", "patient", "grade", "predicted_grade", "referable"))
    sets = [image.partition("/")[0] for image in frame["image"]]
    if unknown := set(sets) - set(joined.names):
        raise RetinaflowError(
            f"{path}: an image is of {min(unknown)!r}, expected one of {', '.join(joined.names)}. {REBUILD}"
        )
    grades = {name: parse_grades(path, frame[name], len(names)) for name in ("grade", "predicted_grade")}
    referable = names.index(row["referable_grade_name"])
    known = {"data_set": sets, "patient": frame["patient"], **grades, "referred": frame["referable"] == "1"}
    # Cross-fitted risks have no common scale: one decision rule ranks all images, as in the metrics of all sets.
    files = joined.models[row["model"]]
    rule = read_decision_rule(files.decision_rule)
    raw = read_raw_outputs(files.raw_outputs, rule.objective, grade_count=len(names), kind=files.kind)
    if frame["image"].tolist() != list(raw.images):
        raise RetinaflowError(f"{path}: other images than in {files.raw_outputs}. {REBUILD}")
    return pd.DataFrame(known).assign(
        referable=grades["grade"] >= referable,
        risk=apply_decision_rule(rule, raw.outputs).probabilities[:, referable:].sum(axis=1),
        stratum=fold_strata(joined.folds, raw.images) if joined.folds else 0,
    )


def _metrics(images: pd.DataFrame, grade_count: int, samples: int, seed: int) -> dict[str, Any]:
    actual, predicted = images["grade"].to_numpy(), images["predicted_grade"].to_numpy()
    positive, referred = images["referable"].to_numpy(), images["referred"].to_numpy()
    ranking = images["risk"].to_numpy(), images["stratum"].to_numpy()
    patients = images["patient"].tolist()
    # With a single patient, all bootstrap samples are the same.
    options: dict[str, Any] = {"patients": patients, "samples": samples if len(set(patients)) > 1 else 0, "seed": seed}
    kappas = bootstrap_kappas(actual, [predicted], grade_count=grade_count, **options)[0]
    matrix = np.bincount(actual * grade_count + predicted, minlength=grade_count**2).reshape(grade_count, grade_count)
    area = weighted_auc(positive, *ranking)(np.ones((1, len(positive))))[0]
    rates = (_share(referred[positive]), _share(~referred[~positive]))
    return {
        "images": len(actual),
        "patients": len(set(patients)),
        "accuracy": float(np.mean(actual == predicted)),
        **_with_interval(_KAPPA, kappa_of(matrix), kappas),
        **_with_interval(_AUC, area, bootstrap_auc(positive, ranking, **options)),
        **dict(zip(_RATES, rates, strict=True)),
    }


def _with_interval(name: str, value: np.ndarray, samples: np.ndarray) -> dict[str, float | None]:
    low, high = interval(samples) or (None, None)
    return {name: float(value) if np.isfinite(value) else None, f"{name}_low": low, f"{name}_high": high}


def _share(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None
