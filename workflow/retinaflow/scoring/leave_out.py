"""One table of models that were each tested on a data set that was left out of their training."""

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from retinaflow.config.lookups import LEFT_OUT_SPLIT
from retinaflow.data.frames import read_frame, write_rows
from retinaflow.errors import RetinaflowError
from retinaflow.evaluation.bootstrap import bootstrap_auc, bootstrap_kappas, interval
from retinaflow.evaluation.grades import parse_grades
from retinaflow.scoring.compare import ComparisonRow, mean_and_spread, read_together, repeat_values, repeated_model
from retinaflow.scoring.families import title
from retinaflow.scoring.summary import ACROSS, SUMMARISED, overview
from retinaflow.storage.files import whole_file
from retinaflow.storage.markdown import table as markdown_table

# Columns of the joined table beside the data sets. A blank is in no name of a data set.
VALIDATION, MEAN = "mean of validation", "mean over sets"
LEAVE_OUT_COLUMNS = (
    *("rank", "model", "title", "split", "images", "patients", *SUMMARISED),
    *(f"{name}_{end}" for name in ACROSS for end in ("low", "high")),
    *("repeat_of", "remark"),
)
_ENDS = ("low", "high")

Scored = Mapping[str, tuple[Sequence[Path], Sequence[Path]]]
_Rows = list[ComparisonRow]


def compare_left_out(
    scored: Scored,
    *,
    bootstrap_samples: int,
    seed: int,
    repeats: Mapping[str, Sequence[str]],
    table: Path,
    markdown: Path,
) -> str:
    """Write one table of all models and left-out data sets, and a Markdown summary.

    Models are ranked by the mean of their kappas on the validation images of their trainings, never on a left-out set.
    The mean over sets has a confidence interval from bootstrap samples that draw the patients of each set.

    Args:
        scored: Metrics files of models on splits, and their tables of predictions, by the set that was left out.
        bootstrap_samples: Number of bootstrap samples, 0 for no intervals.
        seed: Seed of the bootstrap.
        repeats: Names of the repeats of each network that has some, by its name.
        table: Output table (``LEAVE_OUT_COLUMNS``).
        markdown: Output summary.

    Returns:
        The summary.

    Raises:
        RetinaflowError: A file is malformed, or the files do not belong together.
    """
    validation: dict[str, _Rows] = {}
    columns: dict[str, dict[str, ComparisonRow]] = {}
    for data_set, (metrics, predictions) in scored.items():
        rows, unpaired, _ = read_together(metrics, predictions)
        for row in rows + unpaired:
            if row["split"] == LEFT_OUT_SPLIT:
                columns.setdefault(data_set, {})[row["model"]] = row
            else:
                validation.setdefault(row["model"], []).append(row)
    _check_models(columns)
    means = {model: [columns[data_set][model] for data_set in columns] for model in validation}
    joined = {
        VALIDATION: {model: _mean(rows) for model, rows in validation.items()},
        **columns,
        MEAN: {model: _mean(rows) | _intervals(rows, bootstrap_samples, seed) for model, rows in means.items()},
    }
    ordered = _ordered(joined, repeats)
    text = _summary(ordered, bootstrap_samples)
    write_rows(table, LEAVE_OUT_COLUMNS, [row for rows in zip(*ordered.values(), strict=True) for row in rows])
    with whole_file(markdown) as part:
        part.write_text(text, encoding="utf-8")
    return text


def _check_models(columns: Mapping[str, Mapping[str, ComparisonRow]]) -> None:
    (name, first), *others = columns.items()
    for other, rows in others:
        if odd := set(first) ^ set(rows):
            raise RetinaflowError(
                f"the model {min(odd)!r} is scored on one of {name} and {other} alone, expected both. Run again."
            )


def _mean(rows: Sequence[ComparisonRow]) -> ComparisonRow:
    """Mean of each metric over ``rows`` of one model; None if it is undefined in one of them."""
    remark = next((row["remark"] for row in rows if row["remark"]), "")
    values = {name: [row[name] for row in rows] for name in SUMMARISED}
    return {
        **dict.fromkeys(LEAVE_OUT_COLUMNS),
        **{name: None if None in of else statistics.mean(of) for name, of in values.items()},
        "images": sum(row["images"] for row in rows),
        "patients": sum(row["patients"] for row in rows),
        "remark": remark,
    }


def _intervals(rows: Sequence[ComparisonRow], samples: int, seed: int) -> dict[str, float | None]:
    """Intervals of the mean of each metric of ``ACROSS`` over the ``rows`` of one model, one of each set."""
    found: dict[str, float | None] = {f"{name}_{end}": None for name in ACROSS for end in _ENDS}
    if not samples or any(row["remark"] for row in rows):
        return found
    drawn = [_drawn_metrics(row, samples, seed + number) for number, row in enumerate(rows)]
    for name in ACROSS:
        ends = interval(np.mean([of_set[name] for of_set in drawn], axis=0)) or (None, None)
        found |= {f"{name}_{end}": value for end, value in zip(_ENDS, ends, strict=True)}
    return found


def _drawn_metrics(row: ComparisonRow, samples: int, seed: int) -> dict[str, np.ndarray]:
    """Each metric of ``ACROSS`` in the bootstrap samples of the images of one row, float64 (samples,)."""
    names, path = row["grade_names"], row["predictions"]
    lowest = names.index(row["referable_grade_name"])
    risks = [f"probability_{name}" for name in names[lowest:]]
    frame = read_frame(path, ("patient", "grade", "predicted_grade", *risks), types=dict.fromkeys(risks, float))
    actual, predicted = (parse_grades(path, frame[name], len(names)) for name in ("grade", "predicted_grade"))
    options: dict[str, Any] = {"patients": frame["patient"].tolist(), "samples": samples, "seed": seed}
    kappas = bootstrap_kappas(actual, [predicted], grade_count=len(names), **options)[0]
    areas = bootstrap_auc(actual >= lowest, (frame[risks].sum(axis=1).to_numpy(), None), **options)
    return dict(zip(ACROSS, (kappas, areas), strict=True))


def _ordered(
    joined: Mapping[str, Mapping[str, ComparisonRow]], repeats: Mapping[str, Sequence[str]]
) -> dict[str, _Rows]:
    """Rows of ``LEAVE_OUT_COLUMNS`` of each column, by rank. A model with a remark has no rank and comes last."""
    kappas = {model: row["quadratic_weighted_kappa"] for model, row in joined[VALIDATION].items()}
    remarks = {model for rows in joined.values() for model, row in rows.items() if row["remark"]}
    models = sorted(kappas, key=lambda name: (name in remarks, kappas[name] is None, -(kappas[name] or 0.0), name))
    repeat_of = repeated_model(models, repeats)
    return {
        split: [
            {
                **{name: rows[model][name] for name in LEAVE_OUT_COLUMNS if name in rows[model]},
                "rank": None if model in remarks else rank,
                "model": model,
                "title": title(model),
                "split": split,
                "repeat_of": repeat_of.get(model, ""),
            }
            for rank, model in enumerate(models, start=1)
        ]
        for split, rows in joined.items()
    }


def _summary(columns: Mapping[str, _Rows], bootstrap_samples: int) -> str:
    sets = {split: rows for split, rows in columns.items() if split not in (VALIDATION, MEAN)}
    scored = {split: [row for row in rows if not row["remark"]] for split, rows in columns.items()}
    remarks = {(split, row["model"]): row["remark"] for split, rows in columns.items() for row in rows if row["remark"]}
    sentences = [
        "Each data set was left out once: the models in its column were trained and validated on all other sets.",
        f"Models are ordered by kappa on the validation images of their trainings ({VALIDATION}), never on test.",
        f"In {MEAN}, each data set counts the same.",
    ]
    if bootstrap_samples:
        sentences.append(
            f"Brackets are 95 % intervals over {bootstrap_samples:,} bootstrap samples of the patients of each set."
        )
    lines = [" ".join(sentences), ""]
    counts = [(name, f"{rows[0]['images']:,}", f"{rows[0]['patients']:,}") for name, rows in sets.items()]
    lines += markdown_table(("left out", "images", "patients"), counts)
    spreads = {split: mean_and_spread(repeat_values(rows)) for split, rows in scored.items()}
    lines += overview(scored, spreads, remarks)
    # The overview has only models with scores on validation images.
    lines += [f"\n{model} has no rank: {remark}." for (split, model), remark in remarks.items() if split == VALIDATION]
    return "\n".join(lines) + "\n"
