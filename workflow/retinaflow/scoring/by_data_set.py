"""Metrics of each training set: the held-out images of joined training sets, set by set."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from retinaflow.data.frames import read_frame
from retinaflow.errors import RetinaflowError
from retinaflow.evaluation.bootstrap import bootstrap_kappas, interval
from retinaflow.evaluation.bootstrap import kappa as kappa_of
from retinaflow.evaluation.grades import parse_grades
from retinaflow.storage.tables import REBUILD

_KAPPA = "quadratic_weighted_kappa"
# Cross-fitted risks have no common scale, so that there is no area under the ROC curve.
_RATES = ("operating_point_sensitivity", "operating_point_specificity")
DATA_SET_COLUMNS = (
    *("split", "data_set", "rank", "model", "images", "patients", "accuracy"),
    *(f"{_KAPPA}{end}" for end in ("", "_low", "_high")),
    *_RATES,
)


def score_data_sets(
    ranked: Sequence[Mapping[str, Any]], data_sets: Sequence[str], *, samples: int, seed: int
) -> list[dict[str, Any]]:
    """Compute the metrics of models on the images of each training set.

    Args:
        ranked: Rows of the ranked models on the split of the ranking.
        data_sets: Names of the joined training sets, which the names of images begin with. With fewer than two, there
            is nothing to compute.
        samples: Number of bootstrap samples of the patients of a set, 0 for no intervals.
        seed: Seed of the bootstrap.

    Returns:
        A row of ``DATA_SET_COLUMNS`` for each model and set with images, by rank.

    Raises:
        RetinaflowError: A table of predictions cannot be read, or an image is of no set.
    """
    rows = []
    for row in ranked if len(data_sets) > 1 else ():
        images = _read(row, data_sets)
        for data_set in data_sets:
            chosen = images[images["data_set"] == data_set]
            if len(chosen):
                header = {"split": row["split"], "data_set": data_set, "rank": row["rank"], "model": row["model"]}
                rows.append(header | _metrics(chosen, len(row["grade_names"]), samples, seed))
    return rows


def _read(row: Mapping[str, Any], data_sets: Sequence[str]) -> pd.DataFrame:
    """Data set, patient, grades and screening decision of each image."""
    path, names = row["predictions"], row["grade_names"]
    frame = read_frame(path, ("image", "patient", "grade", "predicted_grade", "referable"))
    sets = [image.partition("/")[0] for image in frame["image"]]
    if unknown := set(sets) - set(data_sets):
        raise RetinaflowError(
            f"{path}: an image is of {min(unknown)!r}, expected one of {', '.join(data_sets)}. {REBUILD}"
        )
    grades = {name: parse_grades(path, frame[name], len(names)) for name in ("grade", "predicted_grade")}
    known = {"data_set": sets, "patient": frame["patient"], **grades, "referred": frame["referable"] == "1"}
    return pd.DataFrame(known).assign(referable=grades["grade"] >= names.index(row["referable_grade_name"]))


def _metrics(images: pd.DataFrame, grade_count: int, samples: int, seed: int) -> dict[str, Any]:
    actual, predicted = images["grade"].to_numpy(), images["predicted_grade"].to_numpy()
    positive, referred = images["referable"].to_numpy(), images["referred"].to_numpy()
    patients = images["patient"].tolist()
    # With a single patient, all bootstrap samples are the same.
    options: dict[str, Any] = {"patients": patients, "samples": samples if len(set(patients)) > 1 else 0, "seed": seed}
    low, high = interval(bootstrap_kappas(actual, [predicted], grade_count=grade_count, **options)[0]) or (None, None)
    matrix = np.bincount(actual * grade_count + predicted, minlength=grade_count**2).reshape(grade_count, grade_count)
    agreement = float(kappa_of(matrix))
    rates = (_share(referred[positive]), _share(~referred[~positive]))
    return {
        "images": len(actual),
        "patients": len(set(patients)),
        "accuracy": float(np.mean(actual == predicted)),
        _KAPPA: agreement if np.isfinite(agreement) else None,
        f"{_KAPPA}_low": low,
        f"{_KAPPA}_high": high,
        **dict(zip(_RATES, rates, strict=True)),
    }


def _share(values: np.ndarray) -> float | None:
    return float(values.mean()) if len(values) else None
