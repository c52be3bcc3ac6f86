"""Linear probe: how well features of a frozen backbone grade, one eye or both, before any network is trained."""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jsonschema
import jsonschema.exceptions
import numpy as np
from sklearn.metrics import confusion_matrix

from retinaflow.errors import RetinaflowError
from retinaflow.evaluation.bootstrap import bootstrap_kappas, interval, kappa
from retinaflow.scoring import eyes as both
from retinaflow.scoring import ridge
from retinaflow.scoring.decision_rules import mean_thresholds
from retinaflow.scoring.feature_files import read_features
from retinaflow.storage.files import whole_file, write_json
from retinaflow.storage.tables import REBUILD, read_table, write_table

log = logging.getLogger(__name__)

COLUMNS = (
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
# What ranking reads of the results.
RESULTS = {
    "type": "array",
    "items": {
        "type": "object",
        "required": list(COLUMNS[1:]),
        "properties": {
            **{name: {"type": "string", "minLength": 1} for name in ("network", "layer")},
            "eyes": {"enum": ["one", "both"]},
            "images": {"type": "integer", "minimum": 1},
            "paired": {"type": "integer", "minimum": 0},
            **dict.fromkeys(COLUMNS[6:], _NUMBER),
        },
    },
}


def probe(
    features: np.ndarray,
    grades: np.ndarray,
    patients: Sequence[str],
    eyes: Sequence[str],
    classes: int,
    bootstrap_samples: int,
    seed: int,
) -> list[dict[str, Any]]:
    """What ridge regression on ``features`` float (n, 2 d) is worth: a result for one eye, and one for both eyes.

    ``grades``: int64 (n,), 0 to ``classes`` - 1; ``patients`` and ``eyes``: names (n,), "" for an unknown eye.
    Without a photograph of a fellow eye there is no result for both. Each fifth of the patients is graded by a
    regression and by thresholds on its severity that come of the others: its strength and the thresholds of those held
    out in turn among these, so that nothing is judged by what it was fitted to.

    A result holds ``eyes`` ("one" or "both"), ``images``, ``paired`` (with a fellow), ``quadratic_weighted_kappa`` with
    the ends ``low`` and ``high`` of its 95 % interval (bootstrap over patients), ``accuracy``,
    ``baseline_accuracy`` (of always answering the first class) and the ``strengths`` chosen. Kappa and interval
    are None where they are undefined.
    """
    fellows = both.fellows(patients, eyes)
    paired = int(both.paired(fellows).sum())
    kinds = {"one": features.astype(np.float32)}
    if paired:
        kinds["both"] = both.both_eyes(features, patients, eyes)
    results = []
    for kind, values in kinds.items():
        graded, strengths = _grade(values, grades, patients, classes, seed)
        figures = _judge(grades, graded, patients, classes, bootstrap_samples, seed)
        results.append({"eyes": kind, "images": len(grades), "paired": paired, **figures, "strengths": strengths})
    return results


def _grade(
    features: np.ndarray, grades: np.ndarray, patients: Sequence[str], classes: int, seed: int
) -> tuple[np.ndarray, list[float]]:
    graded, strengths = np.empty(len(grades), np.int64), []
    names = np.asarray(patients, dtype=object)
    for training, held_out in ridge.divided(grades, patients, seed):
        known = grades[training]
        fitted = ridge.fit(features[training], known, known, names[training], seed)
        thresholds = mean_thresholds(fitted.held_out, known, names[training].tolist(), classes, seed)
        graded[held_out] = np.searchsorted(thresholds, fitted.answer(features[held_out]), side="left")
        strengths.append(fitted.strength)
    return graded, strengths


def _judge(
    grades: np.ndarray, graded: np.ndarray, patients: Sequence[str], classes: int, bootstrap_samples: int, seed: int
) -> dict[str, float | None]:
    (kappas,) = bootstrap_kappas(
        grades, [graded], grade_count=classes, patients=patients, samples=bootstrap_samples, seed=seed
    )
    low, high = interval(kappas) or (None, None)
    found = float(kappa(confusion_matrix(grades, graded, labels=range(classes))))
    return {
        "quadratic_weighted_kappa": found if np.isfinite(found) else None,
        "low": low,
        "high": high,
        "accuracy": float(np.mean(grades == graded)),
        "baseline_accuracy": float(np.mean(grades == 0)),
    }


def probe_job(
    backbone: str,
    layer: str,
    indices: Sequence[Path],
    features: Sequence[tuple[Path, Path]],
    classes: Sequence[str],
    bootstrap_samples: int,
    seed: int,
    output: Path,
) -> None:
    """Probe the features of all parts of the training data set together, and write the results as JSON.

    ``indices`` are the index tables of the parts, ``features`` their features and rows.

    Raises ``RetinaflowError`` if a photograph of an index has no features.
    """
    known = {
        row["image"]: row for index in indices for row in read_table(index, ("image", "grade_name", "patient", "eye"))
    }
    read = [read_features(*pair) for pair in features]
    places = {image: place for place, image in enumerate(image for _, images in read for image in images)}
    missing = sorted(known.keys() - places.keys())
    if missing:
        raise RetinaflowError(
            f"{len(missing)} images of {', '.join(map(str, indices))} have no features, first {missing[0]!r}. "
            "Delete the features of this backbone and run again."
        )
    # In the order of their names, however they are spread over parts.
    rows = [known[image] for image in sorted(known)]
    values = np.concatenate([array for array, _ in read])[[places[row["image"]] for row in rows]]
    results = probe(
        values,
        np.array([classes.index(row["grade_name"]) for row in rows], np.int64),
        [row["patient"] for row in rows],
        [row["eye"] for row in rows],
        len(classes),
        bootstrap_samples,
        seed,
    )
    for result in results:
        log.info(
            "%s, eyes: %s: quadratic weighted kappa %s", backbone, result["eyes"], result["quadratic_weighted_kappa"]
        )
    write_json(output, {"network": backbone, "layer": layer, "results": results})


def rank(probes: Sequence[Path], table: Path, markdown: Path) -> str:
    """Write a table and a Markdown summary of the results of all backbones, the best kappa first; returns the latter.

    Raises ``RetinaflowError`` if a file of ``probes`` is not what ``probe_job`` writes.
    """
    results = [row for path in probes for row in _read(path)]
    results.sort(key=_place)
    rows = [{"rank": number, **row} for number, row in enumerate(results, start=1)]
    write_table(table, COLUMNS, ({column: row[column] for column in COLUMNS} for row in rows))
    text = _markdown(rows)
    with whole_file(markdown) as part:
        part.write_text(text, encoding="utf-8")
    return text


def _place(row: Mapping[str, Any]) -> tuple[float, str, str]:
    kappa = row["quadratic_weighted_kappa"]
    return np.inf if kappa is None else -kappa, row["network"], row["eyes"]


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        rows = [{"network": content["network"], "layer": content["layer"], **row} for row in content["results"]]
        jsonschema.validate(rows, RESULTS)
    except (OSError, ValueError, LookupError, TypeError, jsonschema.exceptions.ValidationError) as error:
        told = " ".join(str(error).split())[:200]
        raise RetinaflowError(f"{path}: is no result of a probe ({told}). {REBUILD}") from error
    return rows


def _kappa(row: Mapping[str, Any]) -> str:
    kappa, low, high = (row[name] for name in ("quadratic_weighted_kappa", "low", "high"))
    ends = "" if low is None or high is None else f" [{low:.3f}, {high:.3f}]"
    return "undefined" if kappa is None else f"{kappa:.3f}{ends}"


def _markdown(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        "# Linear probe of frozen backbones",
        "",
        f"Ridge regression on features of {rows[0]['images']} photographs of the training data set, judged by patients "
        "that neither the regression nor its thresholds have seen. Nothing was trained but that regression. In "
        "brackets the 95 % interval by a bootstrap of patients.",
        "",
        "| rank | backbone | layer | eyes | quadratic weighted kappa | accuracy | always the first class |",
        "|---|---|---|---|---|---|---|",
        *(
            f"| {row['rank']} | {row['network']} | {row['layer']} | {row['eyes']} | "
            f"{_kappa(row)} | {row['accuracy']:.3f} | {row['baseline_accuracy']:.3f} |"
            for row in rows
        ),
        "",
        f"Photographs with the patient's other eye: {rows[0]['paired']}."
        + ("" if rows[0]["paired"] else " So there is no row for both eyes."),
    ]
    return "\n".join(lines) + "\n"
