"""Comparison of all models: rank on held-out images, baselines, and paired differences with intervals."""

import os
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from retinaflow.config.lookups import LEFT_OUT_SPLIT, ONE_EYE, common_name
from retinaflow.config.models import needs_pairs
from retinaflow.data.frames import write_rows
from retinaflow.errors import RetinaflowError
from retinaflow.evaluation.pairs import PAIR_COLUMNS, Pair, PredictedGrades, compare_pairs, read_predicted_grades
from retinaflow.evaluation.selection import correct_for_selection
from retinaflow.scoring.by_data_set import DATA_SET_COLUMNS, JoinedSets, score_data_sets
from retinaflow.scoring.families import families, title
from retinaflow.scoring.summary import SUMMARISED, summarise_comparison
from retinaflow.storage.documents import read_document
from retinaflow.storage.files import whole_file
from retinaflow.storage.integrity import write_document

# Metrics with an interval. Its ends are the columns `_low` and `_high`.
INTERVALS = (
    "quadratic_weighted_kappa",
    "accuracy",
    "macro_auc",
    "referable_auc",
    "operating_point_sensitivity",
    "operating_point_specificity",
)
# Kappa of the first model on the split of the ranking, corrected for the choice; empty in all other rows.
CORRECTED_COLUMNS = tuple(f"selection_corrected_kappa{end}" for end in ("", "_low", "_high"))
COLUMNS = (
    "rank",
    "model",
    "network",
    "split",
    "images",
    "patients",
    "accuracy",
    "baseline_accuracy",
    "quadratic_weighted_kappa",
    "argmax_quadratic_weighted_kappa",
    "macro_auc",
    "referable_auc",
    "referable_sensitivity",
    "referable_specificity",
    "operating_point_sensitivity",
    "operating_point_specificity",
    "log_loss",
    "expected_calibration_error",
    "fellow_eye_images",
    "fellow_eye_accuracy",
    "fellow_eye_quadratic_weighted_kappa",
    "kept_phase",
    "repeat_of",
    "title",
    "remark",
    *(f"{name}_{end}" for name in INTERVALS for end in ("low", "high")),
    *CORRECTED_COLUMNS,
)
# Remark on a model of both eyes. Its row has no metrics.
NO_FELLOW_EYES = "no fellow eyes"
SPLITS = rf"out-of-fold|validation|{LEFT_OUT_SPLIT}|test(-.+)?"
# Values of a row that follow from its grades.
GRADE_VALUES = ("grade_names", "baseline_grade_name", "referable_grade_name")
REPEAT_COLUMNS = ("split", "model", "repeats", "metric", "mean", "deviation", "lowest", "highest")

_NAME = {"type": "string", "minLength": 1}
_SHARE = {"type": "number", "minimum": 0, "maximum": 1}
_SHARE_OR_NULL = {**_SHARE, "type": ["number", "null"]}


def _object(**properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "required": list(properties), "properties": properties}


_KAPPA_OR_NULL = {"type": ["number", "null"], "minimum": -1 - 1e-9, "maximum": 1 + 1e-9}  # beyond by rounding
_INTERVAL = {"type": ["array", "null"], "items": {"type": "number"}, "minItems": 2, "maxItems": 2}
_COUNT = {"type": "integer", "minimum": 0}

# Part of a metrics file that the comparison reads.
METRICS_SCHEMA = _object(
    model=_NAME,
    network=_NAME,
    split={"type": "string", "pattern": f"^({SPLITS})$"},
    grade_names={"type": "array", "minItems": 2, "items": _NAME},
    images={**_COUNT, "minimum": 1},
    patients={**_COUNT, "minimum": 1},
    accuracy=_SHARE,
    quadratic_weighted_kappa=_KAPPA_OR_NULL,
    macro_auc=_SHARE_OR_NULL,
    log_loss={"type": "number", "minimum": 0},
    referable=_object(
        grade={"type": ["integer", "null"], "minimum": 1},
        auc=_SHARE_OR_NULL,
        sensitivity=_SHARE_OR_NULL,
        specificity=_SHARE_OR_NULL,
        operating_point=_object(sensitivity=_SHARE_OR_NULL, specificity=_SHARE_OR_NULL),
    ),
    argmax=_object(quadratic_weighted_kappa=_KAPPA_OR_NULL),
    baseline=_object(**{"grade_name": _NAME, "accuracy": _SHARE}),
    fellow_eye=_object(images=_COUNT, accuracy=_SHARE_OR_NULL, quadratic_weighted_kappa=_KAPPA_OR_NULL),
    calibration=_object(expected_calibration_error=_SHARE),
    intervals={**_object(**dict.fromkeys(INTERVALS, _INTERVAL)), "type": ["object", "null"]},
)
# Images and patients of a test set that refit the model, if there are some.
METRICS_SCHEMA["properties"]["recalibration"] = _object(images=_COUNT, patients=_COUNT)

# Part of the record of a training run that the comparison reads.
RUN_RECORD = _object(best_epoch={**_COUNT, "minimum": 1}, settings=_object(head_epochs=_COUNT))

ComparisonRow = dict[str, Any]


class Comparison(NamedTuple):
    """Result of a comparison.

    Attributes:
        text: The summary, Markdown.
        ranked: Rows of ``COLUMNS`` of the ranked models, by split and rank; the split that ranks them comes first.
    """

    text: str
    ranked: list[ComparisonRow]


@dataclass(frozen=True)
class ComparisonFiles:
    """Files that a comparison writes.

    Attributes:
        table: Table of all models on all splits (``COLUMNS``).
        pairs: Table of pairs of models (``pairs.PAIR_COLUMNS``), None for no file.
        repeats: Table of mean and spread over the repeats of models (``REPEAT_COLUMNS``), None for no file.
        data_sets: Table of the held-out images of each joined training set (``DATA_SET_COLUMNS``), None for no file.
        markdown: Summary.
        selected: The model of the first rank, with its kappa on the split of the ranking; None for no file.
    """

    table: Path
    pairs: Path | None
    repeats: Path | None
    data_sets: Path | None
    markdown: Path
    selected: Path | None = None


def compare(
    metrics: Sequence[Path],
    predictions: Sequence[Path],
    *,
    bootstrap_samples: int,
    seed: int,
    files: ComparisonFiles,
    repeats: Mapping[str, Sequence[str]] | None = None,
    phases: Mapping[str, str] | None = None,
    data_sets: JoinedSets | None = None,
    failed: Mapping[str, str] | None = None,
    left_out: str = "",
) -> Comparison:
    """Write a table of all models, tables of their pairs and repeats, and a Markdown summary.

    Models are ranked by quadratic weighted kappa on the validation split or, with folds, on the ``out-of-fold`` split;
    never on a test set. Undefined kappas come last, equal ones are sorted by name. The rows of the folds of a model
    follow its own row, without a rank. Models of both eyes have no metrics without fellow eyes (``_paired``).
    Pairs (``pairs.compare_pairs``) are of ranked models, the better one first. The first model has its kappa corrected
    for the choice on the split of the ranking (``evaluation.selection``).

    Args:
        metrics: Metrics files of models and folds on splits, as ``predictions.grade_model`` writes them.
        predictions: Tables of predictions for the same models and splits, in the same order.
        bootstrap_samples: Number of bootstrap samples, 0 for no intervals.
        seed: Seed of the bootstrap.
        files: Files to write.
        repeats: Names of the repeats of each model that has some, by its name.
        phases: Phase of the kept epoch of models for which it is known, as of ``kept_phases``.
        data_sets: Joined training sets, None for a single one.
        failed: Models without metrics, each with the reason. They have a row on each split, without a rank.
        left_out: Name of the data set that was left out of all models, if any.

    Returns:
        The summary and the rows of ranked models.

    Raises:
        RetinaflowError: There is no file, a file is malformed, or the files do not belong together.
    """
    rows, unpaired, ranked_on = read_together(metrics, predictions)
    missing = unpaired + _failed(rows, failed or {})
    ordered = _ordered([*rows, *missing], _ranked(rows, ranked_on), phases or {}, repeats or {})
    by_split = _by_split(ordered, ranked_on)
    options = {"samples": bootstrap_samples, "seed": seed}
    grades = {split: _predicted_grades(ranked) for split, ranked in by_split.items()}
    found = {split: compare_pairs(of_split, **options) for split, of_split in grades.items()}
    by_split[ranked_on][0].update(_corrected(grades[ranked_on], options))
    spreads = {split: repeat_values(ranked) for split, ranked in by_split.items()}
    of_sets = score_data_sets(by_split[ranked_on], data_sets, **options)
    text = summarise_comparison(
        by_split,
        found,
        folds={split: _folds(rows, split) for split in by_split if is_test(split)},
        repeats={split: mean_and_spread(values) for split, values in spreads.items()},
        unpaired=[row for row in ordered if row["remark"]],
        data_sets=of_sets,
        bootstrap_samples=bootstrap_samples,
    )
    _write_tables(files, ordered, pairs=found, spreads=spreads, data_sets=of_sets)
    return _written(files, Comparison(_introduced(text, left_out), list(chain(*by_split.values()))))


def _selected(ranked: Sequence[ComparisonRow]) -> dict[str, Any]:
    """The first model of the split that ranks them, which comes first. No test image takes part."""
    first = ranked[0]
    return {
        "model": first["model"],
        "rule": f"highest quadratic weighted kappa on {first['split']}",
        "models": sum(row["split"] == first["split"] for row in ranked),
        **{name: first[name] for name in ("split", "images", "patients", "quadratic_weighted_kappa")},
        **{name: first.get(name) for name in CORRECTED_COLUMNS},
    }


def _introduced(text: str, left_out: str) -> str:
    """Summary with a sentence on the data set that was left out, if any."""
    if not left_out:
        return text
    return f"Trained and validated without {left_out}; {LEFT_OUT_SPLIT} is all of {left_out}. {text}"


def read_together(
    metrics: Sequence[Path], predictions: Sequence[Path]
) -> tuple[list[ComparisonRow], list[ComparisonRow], str]:
    """Read metrics files that belong together, as ``compare`` does.

    Models have the names that they have whatever data set is left out of them.

    Returns:
        Rows of the models, rows without metrics of models of both eyes on splits without fellow eyes, and the split
        that ranks models.
    """
    rows = [
        {**read, **{name: common_name(read[name]) for name in ("model", "network")}, "predictions": of}
        for read, of in zip(map(read_metrics, metrics), predictions, strict=True)
    ]
    ranked_on = _check_together(rows)
    return *_paired(rows, ranked_on), ranked_on


def _written(files: ComparisonFiles, comparison: Comparison) -> Comparison:
    if files.selected:
        write_document(files.selected, _selected(comparison.ranked))
    with whole_file(files.markdown) as part:
        part.write_text(comparison.text, encoding="utf-8")
    return comparison


def repeated_model(models: Iterable[str], repeats: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Name of the model that each repeat repeats."""
    grouped = families(dict.fromkeys(models), repeats)
    return {model: name for name, members in grouped.items() if len(members) > 1 for model in members}


def _write_tables(
    files: ComparisonFiles,
    ordered: Sequence[ComparisonRow],
    *,
    pairs: Mapping[str, Sequence[Pair]],
    spreads: Mapping[str, Any],
    data_sets: Sequence[Mapping[str, Any]],
) -> None:
    write_rows(files.table, COLUMNS, ordered)
    if files.pairs:
        write_rows(files.pairs, PAIR_COLUMNS, [(split, *pair) for split in pairs for pair in pairs[split]])
    if files.repeats:
        write_rows(files.repeats, REPEAT_COLUMNS, _repeat_rows(spreads))
    if files.data_sets:
        write_rows(files.data_sets, DATA_SET_COLUMNS, data_sets)


def _predicted_grades(ranked: Sequence[ComparisonRow]) -> PredictedGrades:
    """Predicted grades of the ranked models on one split."""
    return read_predicted_grades({row["model"]: row["predictions"] for row in ranked}, len(ranked[0]["grade_names"]))


def _paired(rows: Sequence[ComparisonRow], ranked_on: str) -> tuple[list[ComparisonRow], list[ComparisonRow]]:
    """Rows of models that have what they need, and those of models of both eyes on splits without fellow eyes.

    The latter have no metrics. They include splits for which such a model has no file. If the split of the ranking has
    no fellow eyes, the models have metrics on no split: their decision rules have seen no pairs.
    """
    of_split = {row["split"]: row for row in rows if not row["fold"]}
    names = {row["model"] for row in rows}
    models = {name for name in names if needs_pairs(name) or f"{name}+{ONE_EYE}" in names}
    scored = {(row["model"], row["split"]) for row in rows if row["fellow_eye_images"]}
    missing = [
        (model, split)
        for model in models
        for split in of_split
        if (model, split) not in scored or (model, ranked_on) not in scored
    ]
    blank = [_blank(of_split[split], model, NO_FELLOW_EYES) for model, split in sorted(missing)]
    return [row for row in rows if (row["model"], row["split"]) not in missing], blank


def _failed(rows: Sequence[ComparisonRow], failed: Mapping[str, str]) -> list[ComparisonRow]:
    """Rows of models without metrics on all splits that other models are ranked or tested on."""
    of_split = {row["split"]: row for row in rows if not row["fold"]}
    return [_blank(row, model, remark) for model, remark in failed.items() for row in of_split.values()]


def _blank(like: ComparisonRow, model: str, remark: str) -> ComparisonRow:
    """Row of a model without metrics on the split of another row."""
    known = {name: like[name] for name in ("split", "images", "patients", "fellow_eye_images")}
    return {**dict.fromkeys(COLUMNS), **known, "model": model, "network": model, "remark": remark, "fold": 0}


def _by_split(ordered: Sequence[ComparisonRow], ranked_on: str) -> dict[str, list[ComparisonRow]]:
    """Rows of the ranked models on each split. The split of the ranking is first."""
    tests = sorted({row["split"] for row in ordered if is_test(row["split"])})
    by_split = {
        split: [row for row in ordered if row["rank"] and not row["remark"] and row["split"] == split]
        for split in (ranked_on, *tests)
    }
    return {split: ranked for split, ranked in by_split.items() if ranked}


def kept_phases(records: Mapping[str, Path], runs: Mapping[str, Sequence[str]]) -> dict[str, str]:
    """Read the phase of the kept epoch of each training run and network.

    Args:
        records: Record of each training run, by its name.
        runs: Training runs of each network, by its name.

    Returns:
        ``head`` or ``network`` by name; ``both`` for a network whose folds differ.

    Raises:
        RetinaflowError: A file is no record of a training run.
    """
    phases = {}
    for run, path in records.items():
        record = read_document(path, RUN_RECORD, kind="a record of a training run", again="Delete it and train again.")
        phases[run] = "head" if record["best_epoch"] <= record["settings"]["head_epochs"] else "network"
    for network, of_network in runs.items():
        kept = {phases[run] for run in of_network}
        phases[network] = kept.pop() if len(kept) == 1 else "both"
    return phases


def read_metrics(path: str | os.PathLike[str]) -> ComparisonRow:
    """Read a metrics file.

    Returns:
        A row of ``COLUMNS`` without rank, and ``file``, ``fold`` (0 if none) and the names of grades.

    Raises:
        RetinaflowError: The file is no metrics file of a model or fold.
    """
    content = read_document(path, METRICS_SCHEMA, kind="a metrics file", again="Delete it and score the model again.")
    referable, baseline, grade_names = content["referable"], content["baseline"], content["grade_names"]
    if (referable["grade"] or 0) >= len(grade_names):
        raise RetinaflowError(
            f"{path}: referable.grade is {referable['grade']}, expected at most {len(grade_names) - 1} for "
            f"{len(grade_names)} grades. Delete it and score the model again."
        )
    fold = re.fullmatch(re.escape(content["network"]) + r"(?:/fold-([1-9][0-9]*))?", content["model"])
    if not fold or (fold[1] and content["split"] == "out-of-fold"):
        raise RetinaflowError(
            f"{path}: model {content['model']!r} of {content['network']!r} on {content['split']!r}; expected the "
            "name of the network, or NETWORK/fold-N on another split than out-of-fold. Delete it and score again."
        )
    intervals, fellow_eye = content["intervals"] or {}, content["fellow_eye"]
    return {
        **{column: content[column] for column in COLUMNS if column in content},
        "baseline_accuracy": baseline["accuracy"],
        "argmax_quadratic_weighted_kappa": content["argmax"]["quadratic_weighted_kappa"],
        **{f"referable_{name}": referable[name] for name in ("auc", "sensitivity", "specificity")},
        **{f"operating_point_{name}": value for name, value in referable["operating_point"].items()},
        "expected_calibration_error": content["calibration"]["expected_calibration_error"],
        **{f"fellow_eye_{name}": fellow_eye[name] for name in ("images", "accuracy", "quadratic_weighted_kappa")},
        **{
            f"{name}_{end}": value
            for name in INTERVALS
            for end, value in zip(("low", "high"), intervals.get(name) or (None, None), strict=True)
        },
        "remark": "",
        "file": path,
        "fold": int(fold[1] or 0),
        "grade_names": grade_names,
        "baseline_grade_name": baseline["grade_name"],
        "recalibration": content.get("recalibration"),
        "referable_grade_name": referable["grade"] and grade_names[referable["grade"]],
        "joined_grades": content.get("joined_grades"),
    }


def _check_together(rows: Sequence[ComparisonRow]) -> str:
    """Return the split that ranks models, or raise an error unless the files belong to one workflow run.

    Either all models have folds or none has. All have, split by split, the same images and grades. All splits but test
    sets with a scale of their own have the same grades. No model is on a split twice.
    """
    if not rows:
        raise RetinaflowError("metrics: found no file to compare, expected at least one. Score a model first.")
    ranked_on = "out-of-fold" if any(row["split"] == "out-of-fold" for row in rows) else "validation"
    seen: dict[tuple[str, str], ComparisonRow] = {}
    for row in rows:
        here = f"{row['file']}: {row['model']} on {row['split']}"
        is_fold, test = row["fold"] != 0, is_test(row["split"])
        if (is_fold and ranked_on == "validation") or (not test and is_fold == (row["split"] == ranked_on)):
            raise RetinaflowError(
                f"{here}; expected either no folds at all, or the folds of each network and their pooled out-of-fold "
                "split. Compare models of one configuration."
            )
        twin = seen.setdefault((row["model"], row["split"]), row)
        if twin is not row:
            raise RetinaflowError(f"{here} is also in {twin['file']}; expected it once. Leave one out.")
        if not row["joined_grades"]:
            like = next(other for other in rows if not other["joined_grades"])
            _check_equal(row, like, GRADE_VALUES)
        like = next(other for other in rows if (other["split"], other["fold"]) == (row["split"], row["fold"]))
        _check_equal(row, like, (*GRADE_VALUES, "joined_grades", "images", "patients", "baseline_accuracy"))
    return ranked_on


def _check_equal(row: ComparisonRow, other: ComparisonRow, names: Iterable[str]) -> None:
    for name in names:
        if row[name] != other[name]:
            raise RetinaflowError(
                f"{row['file']}: {name} is {row[name]!r}, expected {other[name]!r} as in {other['file']}. "
                "Compare models that are scored on the same images and grades."
            )


def _ranked(rows: Sequence[ComparisonRow], ranked_on: str) -> list[str]:
    """Names of the ranked models, best first."""
    kappas = {row["network"]: row["quadratic_weighted_kappa"] for row in rows if row["split"] == ranked_on}
    for row in rows:
        if row["network"] not in kappas:
            raise RetinaflowError(
                f"{row['file']}: {row['network']} has no scores on {ranked_on}, expected them for the rank. "
                "Add that metrics file."
            )
    return sorted(kappas, key=lambda name: (kappas[name] is None, -(kappas[name] or 0.0), name))


def _ordered(
    rows: Iterable[ComparisonRow],
    models: Sequence[str],
    phases: Mapping[str, str],
    repeats: Mapping[str, Sequence[str]],
) -> list[ComparisonRow]:
    """Rows by rank, fold and split, with ``rank`` (None of a fold), ``kept_phase`` and empty ``CORRECTED_COLUMNS``."""
    rows = list(rows)
    ranks = {name: rank for rank, name in enumerate(models, start=1)}
    repeat_of = repeated_model((row["model"] for row in rows), repeats)

    def order(row: ComparisonRow) -> tuple[Any, ...]:
        # Test sets come last. Models without a rank come after all others.
        place = ranks.get(row["network"], len(ranks) + 1), row["network"]
        return *place, row["fold"], is_test(row["split"]), row["split"]

    ordered = sorted(rows, key=order)
    return [
        {
            **row,
            "rank": None if row["fold"] or row["remark"] else ranks[row["network"]],
            "kept_phase": phases.get(row["model"], ""),
            "repeat_of": repeat_of.get(row["model"], ""),
            "title": title(row["model"]),
            **dict.fromkeys(CORRECTED_COLUMNS),
        }
        for row in ordered
    ]


def _corrected(grades: PredictedGrades, options: Mapping[str, Any]) -> dict[str, float | None]:
    """Kappa of the best model, corrected for the choice, as ``CORRECTED_COLUMNS``."""
    best = correct_for_selection(
        grades.actual, grades.predicted, grade_count=grades.grade_count, patients=grades.patients, **options
    )
    return dict(zip(CORRECTED_COLUMNS, (best.corrected, best.low, best.high), strict=True))


def _folds(rows: Sequence[ComparisonRow], split: str) -> dict[str, dict[str, tuple[float, float] | None]]:
    """Mean and sample standard deviation of the ``SUMMARISED`` metrics over the folds of each network on a split."""
    folds: dict[str, list[ComparisonRow]] = {}
    for row in rows:
        if row["fold"] and row["split"] == split:
            folds.setdefault(row["network"], []).append(row)
    return {
        network: {name: _mean_and_deviation([row[name] for row in of_network]) for name in SUMMARISED}
        for network, of_network in folds.items()
    }


def repeat_values(ranked: Sequence[ComparisonRow]) -> dict[str, dict[str, list[Any]]]:
    """Values of each ``SUMMARISED`` metric of the repeats of each model on one split."""
    values: dict[str, dict[str, list[Any]]] = {}
    for row in ranked:
        if row["repeat_of"]:
            of_model = values.setdefault(row["repeat_of"], {name: [] for name in SUMMARISED})
            for name, of_metric in of_model.items():
                of_metric.append(row[name])
    return values


def mean_and_spread(
    spread: Mapping[str, Mapping[str, Sequence[Any]]],
) -> dict[str, dict[str, tuple[float, float] | None]]:
    """Mean and sample standard deviation of the values of ``repeat_values``, by model and metric."""
    return {
        model: {name: _mean_and_deviation(values) for name, values in metrics.items()}
        for model, metrics in spread.items()
    }


def _repeat_rows(spreads: Mapping[str, Mapping[str, Mapping[str, Sequence[Any]]]]) -> list[tuple[Any, ...]]:
    """Rows of ``REPEAT_COLUMNS``."""
    rows: list[tuple[Any, ...]] = []
    for split, spread in spreads.items():
        for model, metrics in spread.items():
            for name, values in metrics.items():
                pair = _mean_and_deviation(values)
                figures = (*pair, min(values), max(values)) if pair else (None,) * 4
                rows.append((split, model, len(values), name, *figures))
    return rows


def is_test(split: str) -> bool:
    """Whether a split is a test set, or the data set that was left out."""
    return split == LEFT_OUT_SPLIT or split.split("-")[0] == "test"


def _mean_and_deviation(values: Sequence[float | None]) -> tuple[float, float] | None:
    known = [value for value in values if value is not None]
    return (statistics.mean(known), statistics.stdev(known)) if len(known) == len(values) > 1 else None
