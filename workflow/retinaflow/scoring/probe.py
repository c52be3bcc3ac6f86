"""Linear probe: quadratic weighted kappa of a linear model on the features of a frozen backbone, of one eye or both."""

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jsonschema
import jsonschema.exceptions
import numpy as np
import pandas as pd
from sklearn.metrics import confusion_matrix

from retinaflow.data.frames import read_frame, write_rows
from retinaflow.errors import RetinaflowError
from retinaflow.evaluation.bootstrap import bootstrap_kappas, interval, kappa
from retinaflow.scoring import eyes as eye_pairs
from retinaflow.scoring import ridge
from retinaflow.scoring.decision_rules import mean_thresholds
from retinaflow.scoring.feature_files import read_features
from retinaflow.storage.files import whole_file
from retinaflow.storage.integrity import verify, write_document
from retinaflow.storage.tables import REBUILD

log = logging.getLogger(__name__)

PROBE_COLUMNS = (
    "rank",
    "network",
    "layer",
    "eyes",
    "images",
    "paired",
    "quadratic_weighted_kappa",
    "low",
    "high",
    "accuracy",
    "baseline_accuracy",
)
_NUMBER = {"type": ["number", "null"], "minimum": -1 - 1e-9, "maximum": 1 + 1e-9}
# Schema of the results that are ranked.
RESULTS = {
    "type": "array",
    "items": {
        "type": "object",
        "required": list(PROBE_COLUMNS[1:]),
        "properties": {
            **{name: {"type": "string", "minLength": 1} for name in ("network", "layer")},
            "eyes": {"enum": ["one", "both"]},
            "images": {"type": "integer", "minimum": 1},
            "paired": {"type": "integer", "minimum": 0},
            **dict.fromkeys(PROBE_COLUMNS[6:], _NUMBER),
        },
    },
}


@dataclass(frozen=True)
class ProbeJob:
    """A probe of the features of one backbone.

    Args:
        network: Name of the model.
        layer: Name of the layers, for the results.
        indices: Index tables of all splits of the training set.
        features: Pairs of feature file and row table of these splits.
        grade_names: Names of the grades, in their order.
        bootstrap_samples: Number of bootstrap samples.
        seed: Seed of folds and bootstrap samples.
        output: File of the results, JSON.
    """

    network: str
    layer: str
    indices: Sequence[Path]
    features: Sequence[tuple[Path, Path]]
    grade_names: Sequence[str]
    bootstrap_samples: int
    seed: int
    output: Path


def probe(
    features: np.ndarray,
    grades: np.ndarray,
    *,
    patients: Sequence[str],
    eyes: Sequence[str],
    grade_count: int,
    bootstrap_samples: int,
    seed: int,
) -> list[dict[str, Any]]:
    """Measure how well ridge regression on features predicts the grade.

    Each fifth of the patients is graded by a regression and thresholds that were fitted to the other patients. The
    strength of the regression is chosen on held-out patients among these, and so are the thresholds.

    Args:
        features: Features of the images, float (n, 2 d).
        grades: Grades, int64 (n,), 0 to ``grade_count`` - 1.
        patients: Names of the patients (n,).
        eyes: Names of the eyes (n,), ``""`` if unknown.
        grade_count: Number of grades.
        bootstrap_samples: Number of bootstrap samples of the patients.
        seed: Seed of folds and bootstrap samples.

    Returns:
        A result for one eye, and one for both eyes if an image has a fellow eye. Its keys:

        - ``eyes``: ``one`` or ``both``.
        - ``images``, and ``paired``, the images with a fellow eye.
        - ``quadratic_weighted_kappa``, and the ends ``low`` and ``high`` of its 95 % confidence interval. They are
          None if undefined.
        - ``accuracy``, and ``baseline_accuracy``, the accuracy of the first grade for all images.
        - ``strengths``: the ridge strength of each fold.
    """
    paired = int(eye_pairs.have_fellow_eye(eye_pairs.fellow_eye_weights(patients, eyes)).sum())
    inputs = {"one": features.astype(np.float32)}
    if paired:
        inputs["both"] = eye_pairs.both_eyes(features, patients, eyes)
    results = []
    for kind, values in inputs.items():
        predicted, strengths = _grade(values, grades, patients=patients, grade_count=grade_count, seed=seed)
        metrics = _metrics(
            grades,
            predicted,
            patients=patients,
            grade_count=grade_count,
            bootstrap_samples=bootstrap_samples,
            seed=seed,
        )
        results.append({"eyes": kind, "images": len(grades), "paired": paired, **metrics, "strengths": strengths})
    return results


def _grade(
    features: np.ndarray, grades: np.ndarray, *, patients: Sequence[str], grade_count: int, seed: int
) -> tuple[np.ndarray, list[float]]:
    """Return the predicted grades of all images, and the ridge strength of each fold."""
    predicted, strengths = np.empty(len(grades), np.int64), []
    names = np.asarray(patients, dtype=object)
    for training, held_out in ridge.patient_folds(grades, patients, seed):
        known = grades[training]
        fitted = ridge.fit(features[training], known, grades=known, patients=names[training], seed=seed)
        thresholds = mean_thresholds(
            fitted.held_out, known, patients=names[training].tolist(), grade_count=grade_count, seed=seed
        )
        predicted[held_out] = np.searchsorted(thresholds, fitted.predict(features[held_out]), side="left")
        strengths.append(fitted.strength)
    return predicted, strengths


def _metrics(
    grades: np.ndarray,
    predicted: np.ndarray,
    *,
    patients: Sequence[str],
    grade_count: int,
    bootstrap_samples: int,
    seed: int,
) -> dict[str, float | None]:
    (kappas,) = bootstrap_kappas(
        grades, [predicted], grade_count=grade_count, patients=patients, samples=bootstrap_samples, seed=seed
    )
    low, high = interval(kappas) or (None, None)
    found = float(kappa(confusion_matrix(grades, predicted, labels=range(grade_count))))
    return {
        "quadratic_weighted_kappa": found if np.isfinite(found) else None,
        "low": low,
        "high": high,
        "accuracy": float(np.mean(grades == predicted)),
        "baseline_accuracy": float(np.mean(grades == 0)),
    }


def probe_job(job: ProbeJob) -> None:
    """Probe the features of all splits of the training set together, and write the results as JSON.

    Raises:
        RetinaflowError: An image of an index has no features.
    """
    columns = ("image", "grade", "patient", "eye")
    labels = pd.concat([read_frame(index, columns, types={"grade": int}) for index in job.indices])
    # The order of the names is the same for any number of splits.
    labels = labels.drop_duplicates("image", keep="last").sort_values("image", kind="stable")
    read = [read_features(*pair) for pair in job.features]
    places = {image: place for place, image in enumerate(image for _, images in read for image in images)}
    missing = [image for image in labels["image"] if image not in places]
    if missing:
        raise RetinaflowError(
            f"{len(missing)} images of {', '.join(map(str, job.indices))} have no features, first {missing[0]!r}. "
            "Delete the features of this backbone and run again."
        )
    results = probe(
        np.concatenate([array for array, _ in read])[[places[image] for image in labels["image"]]],
        labels["grade"].to_numpy(np.int64),
        patients=labels["patient"].tolist(),
        eyes=labels["eye"].tolist(),
        grade_count=len(job.grade_names),
        bootstrap_samples=job.bootstrap_samples,
        seed=job.seed,
    )
    for result in results:
        log.info(
            "%s, eyes: %s: quadratic weighted kappa %s", job.network, result["eyes"], result["quadratic_weighted_kappa"]
        )
    write_document(job.output, {"network": job.network, "layer": job.layer, "results": results})


def rank(probes: Sequence[Path], table: Path, markdown: Path) -> str:
    """Write a table and a Markdown summary of the results of all backbones, the highest kappa first.

    Args:
        probes: Results of the backbones, JSON.
        table: Table to write.
        markdown: Summary to write.

    Returns:
        The summary.

    Raises:
        RetinaflowError: A file of ``probes`` has no results of ``probe_job``.
    """
    results = sorted((row for path in probes for row in _read(path)), key=_sort_key)
    rows = [{"rank": number, **row} for number, row in enumerate(results, start=1)]
    # Objects keep the numbers of the JSON files, and None for an undefined kappa.
    write_rows(table, PROBE_COLUMNS, rows)
    text = _markdown(rows)
    with whole_file(markdown) as unfinished:
        unfinished.write_text(text, encoding="utf-8")
    return text


def _sort_key(row: Mapping[str, Any]) -> tuple[float, str, str]:
    kappa = row["quadratic_weighted_kappa"]
    return np.inf if kappa is None else -kappa, row["network"], row["eyes"]


def _read(path: Path) -> list[dict[str, Any]]:
    verify(path)
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        rows = [{"network": content["network"], "layer": content["layer"], **row} for row in content["results"]]
        jsonschema.validate(rows, RESULTS)
    except (OSError, ValueError, LookupError, TypeError, jsonschema.exceptions.ValidationError) as error:
        message = " ".join(str(error).split())[:200]
        raise RetinaflowError(f"{path}: has no results of a probe ({message}). {REBUILD}") from error
    return rows


def _kappa(row: Mapping[str, Any]) -> str:
    kappa, low, high = (row[name] for name in ("quadratic_weighted_kappa", "low", "high"))
    ends = "" if low is None or high is None else f" [{low:.3f}, {high:.3f}]"
    return "undefined" if kappa is None else f"{kappa:.3f}{ends}"


def _markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        "# Linear probe of frozen backbones",
        "",
        f"Ridge regression on features of {rows[0]['images']} images of the training set. Each image is graded by a "
        "regression and thresholds that were fitted without its patient. No network was trained. Brackets hold the "
        "95 % confidence interval, by a bootstrap of patients.",
        "",
        "| rank | backbone | layer | eyes | quadratic weighted kappa | accuracy | accuracy of always the first grade |",
        "|---|---|---|---|---|---|---|",
        *(
            f"| {row['rank']} | {row['network']} | {row['layer']} | {row['eyes']} | "
            f"{_kappa(row)} | {row['accuracy']:.3f} | {row['baseline_accuracy']:.3f} |"
            for row in rows
        ),
        "",
        f"Images with a fellow eye: {rows[0]['paired']}."
        + ("" if rows[0]["paired"] else " So there is no row for both eyes."),
    ]
    return "\n".join(lines) + "\n"
