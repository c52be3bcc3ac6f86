"""Rank backbones by what they score on held-out photographs, beside what always answering the first class scores."""

import json
import os
import re
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NoReturn

import jsonschema
import jsonschema.exceptions

from retinaflow.errors import RetinaflowError
from retinaflow.figures import comparison_figure
from retinaflow.files import whole_file
from retinaflow.tables import write_table

COLUMNS = (
    "rank",
    "run",
    "backbone",
    "part",
    "images",
    "accuracy",
    "baseline_accuracy",
    "quadratic_weighted_kappa",
    "macro_auc",
    "referable_auc",
    "referable_sensitivity",
    "referable_specificity",
    "log_loss",
)
PARTS = ("out-of-fold", "validation", "test")
SUMMARISED = ("quadratic_weighted_kappa", "accuracy", "referable_auc")

_NAME = {"type": "string", "minLength": 1}
_SHARE = {"type": "number", "minimum": 0, "maximum": 1}
_SHARE_OR_NULL = {**_SHARE, "type": ["number", "null"]}


def _object(**properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "required": list(properties), "properties": properties}


# What the comparison reads of a metrics file.
SCHEMA = _object(
    run=_NAME,
    backbone=_NAME,
    part={"enum": list(PARTS)},
    classes={"type": "array", "minItems": 2, "items": _NAME},
    images={"type": "integer", "minimum": 1},
    accuracy=_SHARE,
    # Rounding can take it beyond -1 by an ulp or two.
    quadratic_weighted_kappa={"type": ["number", "null"], "minimum": -1 - 1e-9, "maximum": 1 + 1e-9},
    macro_auc=_SHARE_OR_NULL,
    log_loss={"type": "number", "minimum": 0},
    referable=_object(
        level={"type": "integer", "minimum": 1},
        auc=_SHARE_OR_NULL,
        sensitivity=_SHARE_OR_NULL,
        specificity=_SHARE_OR_NULL,
    ),
    baseline=_object(**{"class": _NAME, "accuracy": _SHARE}),
)

Scores = dict[str, Any]


def compare(scores: Sequence[Path], table: Path, markdown: Path, figure: Path) -> str:
    """Write a table of all ``scores``, a Markdown summary and a figure of it; returns the Markdown.

    ``scores`` are metrics files: ``metrics.evaluate`` with ``run`` (a backbone, or ``BACKBONE/fold-N``), ``backbone``,
    ``part`` and ``classes``. Backbones are ranked by quadratic weighted kappa on their validation part or, with folds,
    on the pooled ``out-of-fold`` part; never on the test set. Undefined kappas come last, equals by name. The rows of
    a backbone's folds follow its pooled one, without a rank.

    Raises ``RetinaflowError`` if there is no file, one is malformed, or they do not belong together.
    """
    if not scores:
        raise RetinaflowError("scores: found no file to compare, expected at least one. Score a backbone first.")
    rows = [read_scores(path) for path in scores]
    ranked_on = "out-of-fold" if any(row["part"] == "out-of-fold" for row in rows) else "validation"
    _check_together(rows, ranked_on)
    backbones = _ranked(rows, ranked_on)
    write_table(table, COLUMNS, _table_rows(rows, backbones))
    summaries = _summarise(rows, backbones, [ranked_on, "test"])
    text = _markdown(summaries, rows[0]["referable_class"])
    with whole_file(markdown) as part:
        part.write_text(text, encoding="utf-8")
    comparison_figure(figure, summaries)
    return text


def read_scores(path: str | os.PathLike[str]) -> Scores:
    """Read one metrics file as a row of ``COLUMNS`` (without rank) and what places it among others.

    Raises ``RetinaflowError`` if the file is not what ``compare`` expects.
    """
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"), parse_constant=_refuse)
        jsonschema.validate(content, SCHEMA)
    except OSError as error:
        raise RetinaflowError(f"{path}: {error.strerror}; expected a metrics file. Score the model again.") from error
    except ValueError as error:
        raise RetinaflowError(
            f"{path}: this is no valid JSON ({error}); expected a metrics file. Delete it and score the model again."
        ) from error
    except jsonschema.exceptions.ValidationError as error:
        raise RetinaflowError(
            f"{path}: {error.json_path.removeprefix('$.')}: {error.message}. Delete it and score the model again."
        ) from error
    referable, baseline, classes = content["referable"], content["baseline"], content["classes"]
    if referable["level"] >= len(classes):
        raise RetinaflowError(
            f"{path}: referable.level is {referable['level']}, expected at most {len(classes) - 1} for {len(classes)} "
            "classes. Delete it and score the model again."
        )
    fold = re.fullmatch(re.escape(content["backbone"]) + r"(?:/fold-([1-9][0-9]*))?", content["run"])
    if not fold or (fold[1] and content["part"] == "out-of-fold"):
        raise RetinaflowError(
            f"{path}: run {content['run']!r} of {content['backbone']!r} on {content['part']!r}; expected the "
            "backbone for a run, or backbone/fold-N on another part than out-of-fold. Delete it and score again."
        )
    return {
        **{column: content[column] for column in COLUMNS if column in content},
        "baseline_accuracy": baseline["accuracy"],
        **{f"referable_{name}": referable[name] for name in ("auc", "sensitivity", "specificity")},
        "file": path,
        "fold": int(fold[1] or 0),
        "classes": classes,
        "baseline_class": baseline["class"],
        "referable_class": classes[referable["level"]],
    }


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON number")


def _check_together(rows: Sequence[Scores], ranked_on: str) -> None:
    """All in one kind of split, over the same classes and, part by part, the same photographs; no run twice."""
    seen: dict[tuple[str, str], Scores] = {}
    for row in rows:
        here = f"{row['file']}: {row['run']} on {row['part']}"
        single, test = row["fold"] == 0, row["part"] == "test"
        if (not single and ranked_on == "validation") or (not test and single != (row["part"] == ranked_on)):
            raise RetinaflowError(
                f"{here}; expected either no folds at all, or the folds of each backbone and their pooled out-of-fold "
                "part. Compare runs of one configuration."
            )
        twin = seen.setdefault((row["run"], row["part"]), row)
        if twin is not row:
            raise RetinaflowError(f"{here} is also in {twin['file']}; expected it once. Leave one out.")
        _check_equal(row, rows[0], ("classes", "baseline_class", "referable_class"))
        like = next(other for other in rows if (other["part"], other["fold"]) == (row["part"], row["fold"]))
        _check_equal(row, like, ("images", "baseline_accuracy"))


def _check_equal(row: Scores, other: Scores, names: Iterable[str]) -> None:
    for name in names:
        if row[name] != other[name]:
            raise RetinaflowError(
                f"{row['file']}: {name} is {row[name]!r}, expected {other[name]!r} as in {other['file']}. "
                "Compare models scored on the same photographs and classes."
            )


def _ranked(rows: Sequence[Scores], ranked_on: str) -> list[str]:
    """All backbones, best first."""
    kappas = {row["backbone"]: row["quadratic_weighted_kappa"] for row in rows if row["part"] == ranked_on}
    for row in rows:
        if row["backbone"] not in kappas:
            raise RetinaflowError(
                f"{row['file']}: {row['backbone']} has no scores on {ranked_on}, expected them for its rank. "
                "Add that metrics file."
            )
    return sorted(kappas, key=lambda name: (kappas[name] is None, -(kappas[name] or 0.0), name))


def _table_rows(rows: Iterable[Scores], backbones: Sequence[str]) -> list[dict[str, object]]:
    ranks = {name: rank for rank, name in enumerate(backbones, start=1)}
    ordered = sorted(rows, key=lambda row: (ranks[row["backbone"]], row["fold"], PARTS.index(row["part"])))
    return [
        {"rank": None if row["fold"] else ranks[row["backbone"]], **{column: row[column] for column in COLUMNS[1:]}}
        for row in ordered
    ]


def _summarise(rows: Sequence[Scores], backbones: Sequence[str], parts: Sequence[str]) -> list[dict[str, Any]]:
    """A row a backbone and part: figures, of folds their mean and, with ``_deviation``, sample standard deviation."""
    summaries = []
    for backbone in backbones:
        for part in parts:
            chosen = [row for row in rows if (row["backbone"], row["part"]) == (backbone, part)]
            # Where there are folds, how far they differ says more than one figure of them all.
            chosen = [row for row in chosen if row["fold"]] or chosen
            if not chosen:
                continue
            summary = {key: chosen[0][key] for key in ("backbone", "part", "baseline_class", "baseline_accuracy")}
            for name in SUMMARISED:
                values = [row[name] for row in chosen]
                # The exact mean of `statistics`: folds that all equal the baseline must not come out a hair below it.
                summary[name] = None if None in values else statistics.mean(values)
                summary[f"{name}_deviation"] = None if None in values or len(values) == 1 else statistics.stdev(values)
            summaries.append(summary)
    return summaries


def _markdown(summaries: Sequence[dict[str, Any]], referable_class: str) -> str:
    parts = {row["part"]: row for row in summaries}
    always = f"always {summaries[0]['baseline_class']}"
    ranked_on = summaries[0]["part"]
    baselines = " and ".join(f"{row['baseline_accuracy']:.4f} on {part}" for part, row in parts.items())
    over_folds = ranked_on == "out-of-fold" and "test" in parts
    deviation = "; test figures are mean ± standard deviation over the folds" if over_folds else ""
    header = ["rank", "backbone"]
    for part in parts:
        header += [f"kappa, {part}", f"accuracy, {part}", always, f"referable AUC, {part}"]
    header.append("remark")
    lines = [
        f"Ranked by quadratic weighted kappa on {ranked_on}, never on test; {always} has accuracy {baselines}, "
        f"and kappa 0; referable is {referable_class} or worse{deviation}.",
        "",
        _line(header),
        _line(["---"] * len(header)),
    ]
    for rank, backbone in enumerate(dict.fromkeys(row["backbone"] for row in summaries), start=1):
        cells, below = [str(rank), backbone], []
        for part in parts:
            row = next((row for row in summaries if (row["backbone"], row["part"]) == (backbone, part)), None)
            if row is None:
                cells += ["–"] * 4
                continue
            kappa, accuracy, auc = (_figure(row[name], row[f"{name}_deviation"]) for name in SUMMARISED)
            cells += [kappa, accuracy, f"{row['baseline_accuracy']:.4f}", auc]
            if row["accuracy"] < row["baseline_accuracy"]:
                below.append(part)
        lines.append(_line([*cells, f"**below {always}** on {' and '.join(below)}" if below else ""]))
    return "\n".join(lines) + "\n"


def _figure(value: float | None, deviation: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.4f}" + ("" if deviation is None else f" ± {deviation:.4f}")


def _line(cells: Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"
