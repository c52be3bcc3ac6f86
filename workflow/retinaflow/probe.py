"""Linear probe: how well features of a frozen backbone grade, one eye or both, before any network is trained."""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jsonschema
import jsonschema.exceptions
import numpy as np
from sklearn.metrics import cohen_kappa_score

from retinaflow import eyes as fellow_eyes
from retinaflow.errors import RetinaflowError
from retinaflow.features import read_features
from retinaflow.files import whole_file, write_json
from retinaflow.ridge import rounds
from retinaflow.tables import REBUILD, read_table, write_table

log = logging.getLogger(__name__)

COLUMNS = (
    "rank",
    "backbone",
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
_NUMBER = {"type": "number", "minimum": -1 - 1e-9, "maximum": 1 + 1e-9}
# What ranking reads of the results.
RESULTS = {
    "type": "array",
    "items": {
        "type": "object",
        "required": list(COLUMNS[1:]),
        "properties": {
            **{name: {"type": "string", "minLength": 1} for name in ("backbone", "layer")},
            "eyes": {"enum": ["one", "both"]},
            "images": {"type": "integer", "minimum": 1},
            "paired": {"type": "integer", "minimum": 0},
            **dict.fromkeys(COLUMNS[6:], _NUMBER),
        },
    },
}
REPLICATES = 1000


def probe(
    features: np.ndarray, levels: np.ndarray, patients: Sequence[str], eyes: Sequence[str], classes: int, seed: int
) -> list[dict[str, Any]]:
    """What ridge regression on ``features`` float (n, 2 d) is worth: a result for one eye, and one for both eyes.

    ``levels``: int64 (n,), 0 to ``classes`` - 1; ``patients`` and ``eyes``: names (n,), "" for an unknown eye.
    Without a photograph of a fellow eye there is no result for both. Each fifth of the patients is graded by a
    regression and by thresholds on its severity that come of the others: its strength and the thresholds of those held
    out in turn among these, so that nothing is judged by what it was fitted to.

    A result holds ``eyes`` ("one" or "both"), ``images``, ``paired`` (with a fellow), ``quadratic_weighted_kappa`` with
    the ends ``low`` and ``high`` of its 95 % interval (bootstrap of patients), ``accuracy``, ``baseline_accuracy`` (of
    always answering the first class) and the ``strengths`` chosen.
    """
    weights = fellow_eyes.fellows(patients, eyes)
    paired = int(fellow_eyes.paired(weights).sum())
    kinds = {"one": features.astype(np.float32)}
    if paired:
        kinds["both"] = fellow_eyes.both_eyes(features, patients, eyes)
    return [
        {"eyes": kind, "images": len(levels), "paired": paired, **_judge(values, levels, patients, classes, seed)}
        for kind, values in kinds.items()
    ]


def _judge(
    features: np.ndarray, levels: np.ndarray, patients: Sequence[str], classes: int, seed: int
) -> dict[str, Any]:
    graded, strengths = np.empty(len(levels), np.int64), []
    for training, held_out, fitted in rounds(features, levels, patients, seed):
        cuts = _thresholds(fitted.held_out, levels[training], classes)
        graded[held_out] = np.searchsorted(cuts, fitted.severity(features[held_out]), side="right")
        strengths.append(fitted.strength)
    low, high = _kappa_interval(levels, graded, patients, classes, seed)
    return {
        "quadratic_weighted_kappa": float(
            cohen_kappa_score(levels, graded, labels=range(classes), weights="quadratic")
        ),
        "low": low,
        "high": high,
        "accuracy": float(np.mean(levels == graded)),
        "baseline_accuracy": float(np.mean(levels == 0)),
        "strengths": strengths,
    }


# Stand-ins until decision.py and bootstrap.py are there ---------------------------------------------------------------


def _thresholds(severity: np.ndarray, levels: np.ndarray, classes: int) -> np.ndarray:
    order = np.argsort(severity, kind="stable")
    ordered, n = severity[order], len(severity)
    below = np.zeros((n + 1, classes))
    below[1:] = np.cumsum(np.eye(classes)[levels[order]], axis=0)
    apart = np.concatenate([[True], ordered[1:] > ordered[:-1], [True]])
    penalty = np.subtract.outer(np.arange(classes), np.arange(classes)) ** 2
    chance = below[-1] @ penalty / n
    cuts = np.concatenate([[0], np.cumsum(below[-1]).astype(int)])
    best = -np.inf
    while True:
        for j in range(1, classes):
            places = np.arange(cuts[j - 1], cuts[j + 1] + 1)
            places = places[apart[places]]
            observed, expected = np.zeros(len(places)), np.zeros(len(places))
            for graded in range(classes):
                start = below[places] if graded == j else below[cuts[graded]]
                end = below[places] if graded + 1 == j else below[cuts[graded + 1]]
                column = np.broadcast_to(end - start, (len(places), classes))
                observed += column @ penalty[:, graded]
                expected += column.sum(axis=1) * chance[graded]
            kappas = 1 - observed / np.maximum(expected, 1e-12)
            cuts[j], kappa = places[kappas.argmax()], kappas.max()
        if kappa <= best + 1e-12:
            break
        best = kappa
    ends = np.concatenate([[ordered[0] - 1], ordered, [ordered[-1] + 1]])
    return (ends[cuts[1:-1]] + ends[cuts[1:-1] + 1]) / 2


def _kappa_interval(
    levels: np.ndarray, graded: np.ndarray, patients: Sequence[str], classes: int, seed: int
) -> tuple[float, float]:
    names, of = np.unique(np.asarray(patients, dtype=object), return_inverse=True)
    counts = np.zeros((len(names), classes * classes))
    np.add.at(counts, (of, levels * classes + graded), 1)
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), REPLICATES)
    tables = (drawn @ counts).reshape(-1, classes, classes)
    penalty = np.subtract.outer(np.arange(classes), np.arange(classes)) ** 2
    chance = tables.sum(axis=2)[:, :, np.newaxis] * tables.sum(axis=1)[:, np.newaxis, :]
    total = tables.sum(axis=(1, 2))
    kappas = 1 - (tables * penalty).sum(axis=(1, 2)) * total / np.maximum((chance * penalty).sum(axis=(1, 2)), 1e-12)
    low, high = np.percentile(kappas, (2.5, 97.5))
    return float(low), float(high)


# ----------------------------------------------------------------------------------------------------------------------


def probe_job(
    backbone: str,
    layer: str,
    indices: Sequence[Path],
    features: Sequence[tuple[Path, Path]],
    classes: Sequence[str],
    seed: int,
    output: Path,
) -> None:
    """Probe the features of all parts of the training data set together, and write the results as JSON.

    ``indices`` are the index tables of the parts, ``features`` their features and rows.

    Raises ``RetinaflowError`` if a photograph of an index has no features.
    """
    known = {row["image"]: row for index in indices for row in read_table(index, ("image", "class", "patient", "eye"))}
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
        np.array([classes.index(row["class"]) for row in rows], np.int64),
        [row["patient"] for row in rows],
        [row["eye"] for row in rows],
        len(classes),
        seed,
    )
    for result in results:
        log.info("%s, %s: quadratic weighted kappa %.4f", backbone, result["eyes"], result["quadratic_weighted_kappa"])
    write_json(output, {"backbone": backbone, "layer": layer, "results": results})


def rank(probes: Sequence[Path], table: Path, markdown: Path) -> str:
    """Write a table and a Markdown summary of the results of all backbones, the best kappa first; returns the latter.

    Raises ``RetinaflowError`` if a file of ``probes`` is not what ``probe_job`` writes.
    """
    results = [row for path in probes for row in _read(path)]
    results.sort(key=lambda row: (-row["quadratic_weighted_kappa"], row["backbone"], row["eyes"]))
    rows = [{"rank": number, **row} for number, row in enumerate(results, start=1)]
    write_table(table, COLUMNS, ({column: row[column] for column in COLUMNS} for row in rows))
    text = _markdown(rows)
    with whole_file(markdown) as part:
        part.write_text(text, encoding="utf-8")
    return text


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        rows = [{"backbone": content["backbone"], "layer": content["layer"], **row} for row in content["results"]]
        jsonschema.validate(rows, RESULTS)
    except (OSError, ValueError, LookupError, TypeError, jsonschema.exceptions.ValidationError) as error:
        told = " ".join(str(error).split())[:200]
        raise RetinaflowError(f"{path}: is no result of a probe ({told}). {REBUILD}") from error
    return rows


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
            f"| {row['rank']} | {row['backbone']} | {row['layer']} | {row['eyes']} | "
            f"{row['quadratic_weighted_kappa']:.3f} [{row['low']:.3f}, {row['high']:.3f}] | {row['accuracy']:.3f} | "
            f"{row['baseline_accuracy']:.3f} |"
            for row in rows
        ),
        "",
        f"Photographs with the patient's other eye: {rows[0]['paired']}."
        + ("" if rows[0]["paired"] else " So there is no row for both eyes."),
    ]
    return "\n".join(lines) + "\n"
