"""Markdown summary of the comparison: a table for each split, and the gain of each step."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from retinaflow.config.lookups import ONE_EYE
from retinaflow.config.models import needs_pairs
from retinaflow.evaluation.accuracy import DEGENERATE
from retinaflow.evaluation.pairs import Pair
from retinaflow.scoring.families import title
from retinaflow.storage.markdown import table

# Metrics of the table, each with its heading.
SUMMARISED = {
    "quadratic_weighted_kappa": "kappa",
    "argmax_quadratic_weighted_kappa": "argmax kappa",
    "accuracy": "accuracy",
    "referable_auc": "referable AUC",
    "macro_auc": "macro AUC",
    "operating_point_sensitivity": "sensitivity",
    "operating_point_specificity": "specificity",
}
HEADER = ("rank", "model", *SUMMARISED.values(), "best minus this", "remark")
# Metrics of the table of all test sets.
ACROSS = {"quadratic_weighted_kappa": "kappa", "referable_auc": "referable AUC"}
# Metrics of the table of training sets.
OF_SETS = {
    "quadratic_weighted_kappa": "kappa",
    "referable_auc": "referable AUC",
    "operating_point_sensitivity": "sensitivity",
    "operating_point_specificity": "specificity",
}
NONE = "–"
# Models of the table of training sets.
MOST_OF_SETS = 10
# The model that is the mean of all networks.
ENSEMBLE = "ensemble"

SummaryRow = Mapping[str, Any]
Spreads = Mapping[str, Mapping[str, tuple[float, float] | None]]


def summarise_comparison(
    by_split: Mapping[str, Sequence[SummaryRow]],
    pairs: Mapping[str, Sequence[Pair]],
    *,
    folds: Mapping[str, Spreads],
    repeats: Mapping[str, Spreads],
    unpaired: Sequence[SummaryRow] = (),
    data_sets: Sequence[SummaryRow] = (),
    bootstrap_samples: int,
) -> str:
    """Return the Markdown summary of a comparison.

    Args:
        by_split: Rows of the ranked models on each split, with ``compare.COLUMNS``. The split of the ranking is first.
        pairs: Pairs of the models of each split.
        folds: Mean and deviation of each metric in ``SUMMARISED`` over the folds of a model, by test set and model.
        repeats: Mean and deviation of these metrics over the repeats of a model, by split and model.
        unpaired: Rows of models of both eyes on splits without fellow eyes. They have no metrics.
        data_sets: Rows of ``by_data_set.DATA_SET_COLUMNS`` for joined training sets.
        bootstrap_samples: Number of bootstrap samples.
    """
    ranked_on = next(iter(by_split))
    best = by_split[ranked_on][0]
    lines = [_introduction(ranked_on, best, bootstrap_samples, any(folds.values()))]
    if best["selection_corrected_kappa"] is not None:
        lines += ["", _selection(ranked_on, best, len(by_split[ranked_on]))]
    remarks = {(row["split"], row["model"]): row["remark"] for row in unpaired}
    if len(by_split) > 2 or any(repeats.values()):
        lines += overview(by_split, repeats, remarks)
    lines += _of_data_sets(data_sets)
    for split, rows in by_split.items():
        lines += ["", f"## {split}: {rows[0]['images']:,} images of {rows[0]['patients']:,} patients", ""]
        lines += [*_scale(rows[0], best), *_left_out(rows[0])]
        cells = _split_rows(rows, best["model"], pairs[split], folds.get(split, {}))
        cells += [_without_metrics(model, remark) for (of, model), remark in remarks.items() if of == split]
        lines += table(HEADER, [*cells, *_baselines(rows[0])])
    steps = _steps(by_split[ranked_on])
    if steps:
        lines += ["", "## Gain of each step in kappa", ""]
        gains = []
        for step in steps:
            found = [{(pair.model, pair.other_model): pair for pair in _both_ways(pairs[split])} for split in by_split]
            gains.append([*step, *(_difference(of_split.get(step)) for of_split in found)])
        lines += table(["model", "over", *by_split], gains)
    return "\n".join(lines) + "\n"


def _introduction(ranked_on: str, row: SummaryRow, bootstrap_samples: int, over_folds: bool) -> str:
    text = [
        f"Ranked by quadratic weighted kappa on {ranked_on}, never on test.",
        "Argmax kappa is the kappa of the argmax predictions, without fitted thresholds.",
        f"Referable is {row['referable_grade_name']} or worse.",
    ]
    if bootstrap_samples:
        text.append(
            f"Brackets are 95 % intervals over {bootstrap_samples:,} bootstrap samples of the patients. The share "
            "behind a difference is that of the samples in its favour."
        )
    if over_folds:
        text.append("Single folds: mean ± standard deviation over the folds.")
    return " ".join(text)


def _scale(row: SummaryRow, best: SummaryRow) -> list[str]:
    """Lines on the grades of a test set with a scale of its own."""
    if not row.get("joined_grades"):
        return []
    grades = ", ".join(f"{name} ({', '.join(joined)})" for name, joined in row["joined_grades"].items())
    text = f"Scored on the grades of this set: {grades}."
    if row["referable_grade_name"] is None:
        text += f" None of them starts at {best['referable_grade_name']}, so that referable is not defined."
    return [text, ""]


def _left_out(row: SummaryRow) -> list[str]:
    """Lines on the patients of a test set that refit the model at a new site."""
    if not (local := row.get("recalibration")):
        return []
    images, patients = local["images"], local["patients"]
    return [
        f"{images:,} images of {patients:,} patients refit the model (`evidence.recalibration`) and are left out.",
        "",
    ]


def _selection(ranked_on: str, best: SummaryRow, models: int) -> str:
    """Return the sentence on the kappa of the best model, corrected for the choice."""
    name = "selection_corrected_kappa"
    corrected = _metric(best[name], best[f"{name}_low"], best[f"{name}_high"])
    kappa = _metric(best["quadratic_weighted_kappa"])
    chosen = f"Best of {models} models on {ranked_on}: {best['model']}, kappa {kappa}"
    return f"{chosen}; corrected for the choice: {corrected}."


def _split_rows(rows: Sequence[SummaryRow], best: str, pairs: Sequence[Pair], folds: Spreads) -> list[list[str]]:
    """Cells of the table of a split."""
    behind = {pair.other_model: pair for pair in _both_ways(pairs) if pair.model == best}
    cells = []
    for row in rows:
        cells.append(_model(row, behind.get(row["model"])))
        if row["model"] in folds:
            cells.append(_single_folds(row["model"], folds[row["model"]]))
    return cells


def overview(
    by_split: Mapping[str, Sequence[SummaryRow]],
    repeats: Mapping[str, Spreads],
    remarks: Mapping[tuple[str, str], str],
) -> list[str]:
    """Lines with one row a model and one column a split, for each metric of ``ACROSS``. Repeats are one row.

    Args:
        by_split: Rows of the ranked models on each split.
        repeats: Mean and deviation over repeats, by split and model.
        remarks: Text in the place of missing metrics, by split and model.
    """
    ranked_on = next(iter(by_split))
    rows = {(split, row["model"]): row for split, ranked in by_split.items() for row in ranked}
    means = _family_means(by_split[ranked_on], repeats[ranked_on])
    names = sorted(means, key=lambda name: (means[name] is None, -(means[name] or 0.0), name))

    def cell(split: str, model: str, metric: str) -> str:
        if model in repeats[split]:
            return _spread(repeats[split][model][metric])
        row = rows.get((split, model))
        return remarks.get((split, model), NONE) if row is None else _interval_of(row, metric)

    over = ", repeats: mean ± standard deviation" if any(repeats.values()) else ""
    lines = []
    for metric, name in ACROSS.items():
        lines += ["", f"## All models: {name}{over}", ""]
        cells = [[title(model), *(cell(split, model, metric) for split in by_split)] for model in names]
        lines += table(["model", *by_split], cells)
    return lines


def _of_data_sets(rows: Sequence[SummaryRow]) -> list[str]:
    """Lines on the best models, with columns for each joined training set."""
    if not rows:
        return []
    sets = {row["data_set"]: row for row in rows}
    found = {(row["model"], row["data_set"]): row for row in rows}
    best = list(dict.fromkeys(row["model"] for row in rows))[:MOST_OF_SETS]
    header = [f"{name}: {metric}" for name in sets for metric in OF_SETS.values()]
    counts = ", ".join(f"{row['images']:,} images of {name}" for name, row in sets.items())
    cells = [
        [title(model), *(_interval_of(found[model, name], metric) for name in sets for metric in OF_SETS)]
        for model in best
    ]
    lines = ["", f"## {rows[0]['split']} by training set: {counts}", "", *table(["model", *header], cells)]
    if len(found) > len(best) * len(sets):
        lines += ["", "The other models are in `by_data_set.csv`."]
    return lines


def _family_means(ranked: Sequence[SummaryRow], spreads: Spreads) -> dict[str, float | None]:
    """Kappa of each model, or the mean over its repeats."""
    means: dict[str, float | None] = {}
    for row in ranked:
        name = row["repeat_of"] or row["model"]
        spread = spreads[name]["quadratic_weighted_kappa"] if name in spreads else None
        means[name] = spread[0] if spread else row["quadratic_weighted_kappa"]
    return means


def _without_metrics(model: str, remark: str) -> list[str]:
    return ["", model, *[NONE] * len(SUMMARISED), "", remark]


def _interval_of(row: SummaryRow, name: str) -> str:
    return _metric(row[name], row.get(f"{name}_low"), row.get(f"{name}_high"))


def _spread(pair: tuple[float, float] | None) -> str:
    return NONE if pair is None else f"{pair[0]:z.4f} ± {pair[1]:.4f}"


def _model(row: SummaryRow, behind: Pair | None) -> list[str]:
    remarks = [*_warnings(row)]
    if row.get("kept_phase") == "head":
        remarks.append("an epoch of the head was kept: settings of later epochs had no effect")
    if needs_pairs(row["model"]) and row["fellow_eye_images"] < row["images"]:
        remarks.append(f"fellow eye of {row['fellow_eye_images'] / row['images']:.0%} of the images")
    return [
        str(row["rank"]),
        row["model"],
        *(_interval_of(row, name) for name in SUMMARISED),
        "" if behind is None else _difference(behind),
        "; ".join(remarks),
    ]


def _warnings(row: SummaryRow) -> Iterator[str]:
    """Remarks on a model that is no better than a constant prediction, or whose operating point decides nothing."""
    # The constant prediction has a kappa of 0. Accuracy would compare models by the frequency of the first grade.
    least = row.get("quadratic_weighted_kappa_low")
    least = row["quadratic_weighted_kappa"] if least is None else least
    if least is None or least <= 0:
        yield f"**no better than always {row['baseline_grade_name']}**"
    for name in ("sensitivity", "specificity"):
        value = row[f"operating_point_{name}"]
        if value is not None and value < DEGENERATE:
            yield f"**operating point of no use: {name} {value:.3f}**"


def _single_folds(model: str, metrics: Mapping[str, tuple[float, float] | None]) -> list[str]:
    values = [metrics[name] for name in SUMMARISED]
    return [
        "",
        f"{model}, single folds",
        *map(_spread, values),
        "",
        "",
    ]


def _baselines(row: SummaryRow) -> list[list[str]]:
    """Cells of a constant prediction, and of the grade of the fellow eye. They have no probabilities, so no AUC."""
    always = ["", f"always {row['baseline_grade_name']}", _metric(0.0), NONE, _metric(row["baseline_accuracy"])]
    fellow_eye = [
        "",
        f"the fellow eye's label ({row['fellow_eye_images']:,} images)",
        _metric(row["fellow_eye_quadratic_weighted_kappa"]),
        NONE,
        _metric(row["fellow_eye_accuracy"]),
    ]
    # The first grade refers nobody.
    referral = [_metric(0.0), _metric(1.0)] if row["referable_grade_name"] else [NONE, NONE]
    return [[*always, NONE, NONE, *referral, "", ""], [*fellow_eye, NONE, NONE, NONE, NONE, "", ""]]


def _steps(rows: Sequence[SummaryRow]) -> list[tuple[str, str]]:
    """Pairs of a model with a further step and the model without it.

    The name of a model with a further step is that of the model without it, ``+``, and the step. The ensemble is
    compared with the best network. A network with test-time augmentation is compared with its ``+no_tta``, and a
    linear model of both eyes with its ``+one_eye``.
    """
    names = [row["model"] for row in rows]
    # Linear models have no phase of a training.
    trained = [row["model"] for row in rows if row.get("kept_phase")] or names
    networks = [name for name in trained if "+" not in name and name != ENSEMBLE]
    bases = {name: name.rpartition("+")[0] for name in names if "+" in name}
    if ENSEMBLE in names and networks:
        bases[ENSEMBLE] = networks[0]
    steps = [(name, bases[name]) for name in names if bases.get(name) in names]
    return [(base, name) if name.endswith(("+no_tta", f"+{ONE_EYE}")) else (name, base) for name, base in steps]


def _both_ways(pairs: Iterable[Pair]) -> list[Pair]:
    return [either for pair in pairs for either in (pair, pair.reversed())]


def _metric(value: float | None, low: float | None = None, high: float | None = None) -> str:
    if value is None:
        return NONE
    return f"{value:z.4f}" + ("" if low is None else f" [{low:z.3f}, {high:z.3f}]")


def _difference(pair: Pair | None) -> str:
    if pair is None or pair.difference is None:
        return NONE
    drawn = "" if pair.share is None else f" [{pair.low:+z.3f}, {pair.high:+z.3f}] {100 * pair.share:.1f} %"
    return f"{pair.difference:+z.4f}{drawn}"
