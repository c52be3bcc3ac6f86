"""The comparison of systems as Markdown: a table a part, and what each step gains."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from retinaflow.evaluation.pairs import Pair
from retinaflow.storage.markdown import table

# Figures of the table, each with its heading.
SUMMARISED = {
    "quadratic_weighted_kappa": "kappa",
    "argmax_quadratic_weighted_kappa": "plain kappa",
    "accuracy": "accuracy",
    "referable_auc": "referable AUC",
    "macro_auc": "macro AUC",
}
HEADER = ("rank", "model", *SUMMARISED.values(), "best minus this", "remark")
NONE = "–"
# The system that is the mean of all backbones.
ENSEMBLE = "ensemble"

Row = Mapping[str, Any]
Folds = Mapping[str, Mapping[str, tuple[float, float] | None]]


def summarise(
    by_part: Mapping[str, Sequence[Row]], pairs: Mapping[str, Sequence[Pair]], folds: Folds, bootstrap_samples: int
) -> str:
    """Markdown of the ranked rows of each part (``compare.COLUMNS``), the part that they are ranked on first.

    ``pairs``: of the systems of each part. ``folds``: mean and deviation over the folds of a system on test, of each
    figure in ``SUMMARISED``. ``bootstrap_samples`` of the bootstrap.
    """
    ranked_on = next(iter(by_part))
    best = by_part[ranked_on][0]
    lines = [_introduction(ranked_on, best, bootstrap_samples, bool(folds))]
    for part, rows in by_part.items():
        lines += ["", f"## {part}: {rows[0]['images']:,} photographs of {rows[0]['patients']:,} patients", ""]
        shown = []
        behind = {pair.other_model: pair for pair in _both_ways(pairs[part]) if pair.model == best["model"]}
        for row in rows:
            shown.append(_system(row, behind.get(row["model"])))
            if part == "test" and row["model"] in folds:
                shown.append(_single_folds(row["model"], folds[row["model"]]))
        lines += table(HEADER, [*shown, *_baselines(rows[0])])
    steps = _steps(by_part[ranked_on])
    if steps:
        lines += ["", "## What each step gains in kappa", ""]
        header = ["model", "over", *by_part]
        gains = []
        for step in steps:
            found = [{(pair.model, pair.other_model): pair for pair in _both_ways(pairs[part])} for part in by_part]
            gains.append([*step, *(_difference(of_part.get(step)) for of_part in found)])
        lines += table(header, gains)
    return "\n".join(lines) + "\n"


def _introduction(ranked_on: str, row: Row, bootstrap_samples: int, over_folds: bool) -> str:
    text = [
        f"Ranked by quadratic weighted kappa on {ranked_on}, never on test.",
        "Plain kappa is that of what networks answer by themselves, without fitted thresholds.",
        f"Referable is {row['referable_grade_name']} or worse.",
    ]
    if bootstrap_samples:
        text.append(
            f"In brackets, 95 % intervals over {bootstrap_samples:,} draws of the patients. After a difference stands "
            "the share of draws that are in its favour."
        )
    if over_folds:
        text.append("Single folds: mean ± standard deviation over the folds.")
    return " ".join(text)


def _system(row: Row, behind: Pair | None) -> list[str]:
    below = row["accuracy"] < row["baseline_accuracy"]
    return [
        str(row["rank"]),
        row["model"],
        *(_figure(row[name], row.get(f"{name}_low"), row.get(f"{name}_high")) for name in SUMMARISED),
        "" if behind is None else _difference(behind),
        f"**below always {row['baseline_grade_name']}**" if below else "",
    ]


def _single_folds(system: str, figures: Mapping[str, tuple[float, float] | None]) -> list[str]:
    values = [figures[name] for name in SUMMARISED]
    return [
        "",
        f"{system}, single folds",
        *(NONE if pair is None else "{:.4f} ± {:.4f}".format(*pair) for pair in values),
        "",
        "",
    ]


def _baselines(row: Row) -> list[list[str]]:
    """What a constant answer, and the label of the patient's other eye, are worth; no probabilities, so no AUC."""
    always = ["", f"always {row['baseline_grade_name']}", _figure(0.0), NONE, _figure(row["baseline_accuracy"])]
    fellow = [
        "",
        f"the other eye's label ({row['fellow_eye_images']:,} photographs)",
        _figure(row["fellow_eye_quadratic_weighted_kappa"]),
        NONE,
        _figure(row["fellow_eye_accuracy"]),
    ]
    return [[*cells, NONE, NONE, "", ""] for cells in (always, fellow)]


def _steps(rows: Sequence[Row]) -> list[tuple[str, str]]:
    """Systems made of another, named after it with a `+`, or of all backbones, and what they are made of (the best).

    A system by views is more than the same without, ``+no_tta``.
    """
    names = [row["model"] for row in rows]
    single = [name for name in names if "+" not in name and name != ENSEMBLE]
    bases = {name: name.rpartition("+")[0] for name in names if "+" in name}
    if ENSEMBLE in names and single:
        bases[ENSEMBLE] = single[0]
    steps = [(name, bases[name]) for name in names if bases.get(name) in names]
    return [(base, name) if name.endswith("+no_tta") else (name, base) for name, base in steps]


def _both_ways(pairs: Iterable[Pair]) -> list[Pair]:
    return [one for pair in pairs for one in (pair, pair.reversed())]


def _figure(value: float | None, low: float | None = None, high: float | None = None) -> str:
    if value is None:
        return NONE
    return f"{value:.4f}" + ("" if low is None else f" [{low:.3f}, {high:.3f}]")


def _difference(pair: Pair | None) -> str:
    if pair is None or pair.difference is None:
        return NONE
    drawn = "" if pair.share is None else f" [{pair.low:+.3f}, {pair.high:+.3f}] {100 * pair.share:.1f} %"
    return f"{pair.difference:+.4f}{drawn}"
