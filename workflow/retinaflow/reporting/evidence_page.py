"""Pages and tables of the evidence: HTML that can be pasted into a text document, LaTeX, and methods."""

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from retinaflow.evaluation.accuracy import DEGENERATE
from retinaflow.evaluation.units import LEFT_OUT
from retinaflow.reporting.checklists import ChecklistItem
from retinaflow.reporting.pages import html_table, write_page
from retinaflow.scoring.evidence import EvidenceRow
from retinaflow.scoring.summary import NONE
from retinaflow.storage.files import whole_file

# Characters of a cell that LaTeX breaks into lines.
LONG_TEXT = 40
# Smallest p value that has digits of its own.
LEAST_P_VALUE = 0.0001
# Note on tables by unit.
NO_EYES = "Eyes are not listed if each has one image."


class EvidenceTable(NamedTuple):
    """A table with its title and a sentence below it."""

    title: str
    note: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]


def with_interval(value: float | None, low: float | None = None, high: float | None = None, digits: int = 3) -> str:
    """Text of a value with its interval."""
    if value is None:
        return NONE
    return f"{value:.{digits}f}" + ("" if low is None or high is None else f" [{low:.{digits}f}, {high:.{digits}f}]")


def p_value_text(p_value: float | None) -> str:
    """Text of a p value, which is never 0."""
    return (
        f"< {LEAST_P_VALUE:g}" if p_value is not None and p_value < LEAST_P_VALUE else with_interval(p_value, digits=4)
    )


def accuracy_table(rows: Iterable[EvidenceRow]) -> EvidenceTable:
    """Sensitivity, specificity, predictive values and likelihood ratios at each operating point."""
    cells = []
    found = _by(rows, ("split", "endpoint", "unit", "operating_point"), counting=LEFT_OUT)
    for key, metrics in _without_same_eyes(found, "sensitivity"):
        one = metrics["sensitivity"]
        cells.append(
            [
                *key,
                with_interval(one["cut"]),
                f"{one['positive']:,} / {one['units']:,}",
                *(_wilson(metrics[name]) for name in ("sensitivity", "specificity", "ppv", "npv")),
                *(
                    _estimated(metrics[name], digits=2)
                    for name in ("positive_likelihood_ratio", "negative_likelihood_ratio")
                ),
                _remark(metrics),
            ]
        )
    header = ["split", "endpoint", "unit", "operating point", "cut", "positive / all", "sensitivity", "specificity"]
    return EvidenceTable(
        "Accuracy at the operating points",
        "Units without a result are left out. Cuts are fitted on the validation split. There, each patient has a cut "
        "of other patients. Brackets are 95 % intervals: Wilson with the design effect for proportions, bootstrap over "
        f"patients for ratios. {NO_EYES}",
        [*header, "PPV", "NPV", "LR+", "LR-", "remark"],
        cells,
    )


def _remark(metrics: Mapping[str, EvidenceRow]) -> str:
    for name in ("sensitivity", "specificity"):
        value = metrics[name]["value"]
        if value is not None and value < DEGENERATE:
            return f"degenerate: {name} is near 0"
    return ""


def target_table(rows: Iterable[EvidenceRow]) -> EvidenceTable:
    """Tests of sensitivity and specificity against the targets, of patients."""
    cells = []
    for key, metrics in _by(rows, ("split", "endpoint", "operating_point"), counting=LEFT_OUT, unit="patient").items():
        for name in ("sensitivity", "specificity"):
            row = metrics[name]
            p_values = [p_value_text(row[f"p_{kind}"]) for kind in ("superiority", "non_inferiority")]
            cells.append([*key, name, _wilson(row), with_interval(row["target"]), *p_values])
    return EvidenceTable(
        "Tests against the targets, by patient",
        "One-sided score tests with the effective number of patients; significant below 0.025. A study with both "
        "targets succeeds if both tests do, without a correction.",
        ["split", "endpoint", "operating point", "metric", "value", "target", "p superiority", "p non-inferiority"],
        cells,
    )


def discrimination_table(rows: Iterable[EvidenceRow]) -> EvidenceTable:
    """Areas, average precision and imageability."""
    cells = [
        [
            *key,
            f"{metrics['auc']['positive']:,} / {metrics['auc']['units']:,}",
            *(_estimated(metrics[name]) for name in ("auc", "average_precision")),
            _wilson(metrics["imageability"]),
        ]
        for key, metrics in _without_same_eyes(_by(rows, ("split", "endpoint", "unit"), counting=""), "auc")
    ]
    return EvidenceTable(
        "Discrimination and imageability",
        "With folds, the area counts pairs of images that one network scored. Imageability is the share of units with "
        f"a result. {NO_EYES}",
        ["split", "endpoint", "unit", "positive / all", "AUC", "average precision", "imageability"],
        cells,
    )


def counting_table(rows: Iterable[EvidenceRow]) -> EvidenceTable:
    """Sensitivity and specificity by the way to count ungradable images, of splits that have some."""
    keys = ("split", "endpoint", "unit", "operating_point", "counting")
    found = _by((row for row in rows if row.get("counting")), keys)
    several = {key[:4] for key in found if key[4] != LEFT_OUT}
    cells = [
        [*key, *(_wilson(metrics[name]) for name in ("sensitivity", "specificity"))]
        for key, metrics in found.items()
        if key[:4] in several
    ]
    return EvidenceTable(
        "Ungradable images",
        "Counted in three ways. All images are gradable in splits that are not listed.",
        ["split", "endpoint", "unit", "operating point", "ungradable", "sensitivity", "specificity"],
        cells,
    )


def prevalence_table(rows: Iterable[EvidenceRow], prevalences: Sequence[float]) -> EvidenceTable:
    """Predictive values of patients at stated prevalences."""
    cells = []
    names = [f"{kind}_{share:g}" for share in prevalences for kind in ("ppv", "npv")]
    for key, metrics in _by(rows, ("split", "endpoint", "operating_point"), counting=LEFT_OUT, unit="patient").items():
        cells.append([*key, *(_estimated(metrics[name]) for name in names)])
    header = [f"{kind} at {share:g}" for share in prevalences for kind in ("PPV", "NPV")]
    return EvidenceTable(
        "Predictive values of patients at other prevalences",
        "By Bayes' theorem from sensitivity and specificity, which are taken as the same at each prevalence.",
        ["split", "endpoint", "operating point", *header],
        cells,
    )


def calibration_table(rows: Iterable[EvidenceRow]) -> EvidenceTable:
    """Calibration line and Brier score with its parts."""
    lines = ("slope", "intercept", "in_the_large")
    parts = [f"brier_{name}" for name in ("score", "reliability", "resolution", "uncertainty", "skill")]
    cells = [
        [
            *key,
            *(_estimated(metrics[name], digits=2) for name in lines),
            *(with_interval(metrics[name]["value"], digits=4) for name in parts),
        ]
        for key, metrics in _without_same_eyes(_by(rows, ("split", "endpoint", "unit")), "slope")
    ]
    header = ["slope", "intercept", "in the large", "Brier", "reliability", "resolution", "uncertainty", "skill"]
    return EvidenceTable(
        "Calibration",
        "The probabilities are those of images. The risk of an eye or patient is the highest of its images, so that it "
        f"is too high on average. {NO_EYES}",
        ["split", "endpoint", "unit", *header],
        cells,
    )


def subgroup_table(rows: Iterable[EvidenceRow]) -> EvidenceTable:
    """Metrics of subgroups and their differences to all others."""
    cells = []
    for row in rows:
        value = "too few" if row["guarded"] else with_interval(row["value"], row["low"], row["high"])
        difference = with_interval(row["difference"], row["difference_low"], row["difference_high"])
        identity = [str(row[name]) for name in ("split", "endpoint", "unit", "column", "group")]
        counts = [f"{row['patients']:,}", f"{row['events']:,}"]
        cells.append([*identity, *counts, row["metric"], value, difference, p_value_text(row["corrected_p_value"])])
    header = ["split", "endpoint", "unit", "column", "group", "patients", "events", "metric", "value", "difference"]
    return EvidenceTable(
        "Subgroups",
        "Difference: the group minus all others, on the same bootstrap samples. P values are corrected by Holm's "
        "method for all comparisons of an endpoint on a split.",
        [*header, "corrected p"],
        cells,
    )


def size_tables(rows: Iterable[EvidenceRow]) -> list[EvidenceTable]:
    """Widths of intervals, and patients needed: one row for each metric at an operating point."""
    widths: dict[tuple[str, ...], dict[str, str]] = {}
    needs: dict[tuple[str, ...], dict[str, str]] = {}
    for row in rows:
        identity = [str(row[name]) for name in ("split", "endpoint", "operating_point", "metric")]
        key = (*identity, with_interval(row["value"]), with_interval(row["design_effect"], digits=2))
        patients = NONE if row["patients"] is None else f"{row['patients']:,}"
        # Each metric has its own target, and so a question of its own.
        question, _, target = row["question"].removeprefix("patients for a ").partition(" to exceed ")
        if question.startswith("width of the"):
            widths.setdefault(key, {})[f"{patients} patients"] = with_interval(row["answer"])
        else:
            needs.setdefault(key, {}).update({"target": target} if target else {}, **{question: patients})
    return [
        _wide_table(
            "Widths of intervals of a larger or smaller study",
            "Width of the 95 % interval, with patients of the same prevalence and design effect as here.",
            widths,
        ),
        _wide_table(
            "Patients that a study needs",
            "For a width of the 95 % interval, and for the power to show that the metric exceeds its target. No "
            "number: the target is not below the value.",
            needs,
        ),
    ]


def _wide_table(title: str, note: str, found: Mapping[tuple[str, ...], Mapping[str, str]]) -> EvidenceTable:
    """Table of metrics with a column for each answer."""
    columns = list(dict.fromkeys(name for answers in found.values() for name in answers))
    return EvidenceTable(
        title,
        note,
        ["split", "endpoint", "operating point", "metric", "value", "design effect", *columns],
        [[*key, *(answers.get(name, "") for name in columns)] for key, answers in found.items()],
    )


def agreement_table(rows: Iterable[EvidenceRow]) -> EvidenceTable:
    """Kappa between readers, and of the model with them."""
    cells = [
        [
            *(str(row[name]) for name in ("split", "reader", "other_reader")),
            f"{row['images']:,}",
            f"{row['patients']:,}",
            _estimated(row),
        ]
        for row in rows
    ]
    return EvidenceTable(
        "Agreement of readers and model",
        "Quadratic weighted kappa on the images that both have graded. Of several grades with the most readers, the "
        "majority is the highest.",
        ["split", "reader", "other", "images", "patients", "kappa"],
        cells,
    )


def recalibration_table(rows: Iterable[EvidenceRow]) -> EvidenceTable:
    """Metrics before and after recalibration at a new site."""
    names = ("split", "endpoint", "unit", "operating_point", "correction", "local_patients", "metric")
    cells = [[*(str(row.get(name) or "") for name in names), _estimated(row)] for row in rows]
    return EvidenceTable(
        "Recalibration at a new site",
        "All rows are of patients that refit nothing. Local operating point: mean over draws of local patients, with "
        "the range of 95 % of them.",
        ["split", "endpoint", "unit", "operating point", "correction", "local patients", "metric", "value"],
        cells,
    )


def checklist_tables(items: Iterable[ChecklistItem]) -> list[EvidenceTable]:
    """Checklist of each guideline."""
    rows: dict[str, list[list[str]]] = {}
    for item in items:
        rows.setdefault(item.guideline, []).append([item.item, item.topic, item.answer or NONE, item.who])
    note = "Topics in short; the published checklist has the binding words. Last column: who has to answer or complete."
    return [
        EvidenceTable(f"Checklist {guideline}", note, ["item", "topic", "answer of the run", "to do"], cells)
        for guideline, cells in rows.items()
    ]


def _estimated(row: EvidenceRow, digits: int = 3) -> str:
    return with_interval(row["value"], row["low"], row["high"], digits)


def _wilson(row: EvidenceRow) -> str:
    return with_interval(row["value"], row.get("wilson_low"), row.get("wilson_high"))


def _by(
    rows: Iterable[EvidenceRow], keys: Sequence[str], **chosen: str
) -> dict[tuple[str, ...], dict[str, EvidenceRow]]:
    """Rows by the values of ``keys`` and by metric, of rows that have the ``chosen`` values."""
    found: dict[tuple[str, ...], dict[str, EvidenceRow]] = {}
    for row in rows:
        if all((row.get(name) or "") == value for name, value in chosen.items()):
            found.setdefault(tuple(str(row[key]) for key in keys), {})[row["metric"]] = row
    return found


def _without_same_eyes(
    found: Mapping[tuple[str, ...], dict[str, EvidenceRow]], metric: str
) -> list[tuple[tuple[str, ...], dict[str, EvidenceRow]]]:
    """Rows by keys of ``_by`` whose third is the unit, without eyes that are the same as images.

    With one image an eye, the ``metric`` has the same value and number of units for both.
    """

    def size(row: EvidenceRow) -> tuple[object, object]:
        return row.get("units"), row["value"]

    def is_same(key: tuple[str, ...]) -> bool:
        images = found.get((*key[:2], "image", *key[3:]))
        return key[2] == "eye" and images is not None and size(images[metric]) == size(found[key][metric])

    return [(key, metrics) for key, metrics in found.items() if not is_same(key)]


def write_evidence_page(
    path: Path, title: str, *, paragraphs: Sequence[str], tables: Sequence[EvidenceTable], figures: Mapping[str, str]
) -> None:
    """Write a page of text, tables and figures.

    Args:
        path: The file.
        title: Its title.
        paragraphs: Text before the tables.
        tables: The tables.
        figures: Path of each figure, relative to the page, by its caption.
    """
    # Words of narrow columns stay whole, unlike those of other pages, which may have long names of files.
    body = [
        "<style>td { overflow-wrap: normal; }</style>",
        f"<h1>{escape(title)}</h1>",
        *(f"<p>{escape(text)}</p>" for text in paragraphs),
    ]
    for number, table in enumerate(tables, start=1):
        body.append(f"<h2>Table {number}. {escape(table.title)}</h2>")
        body.append(html_table(table.header, table.rows) if table.rows else "<p>None.</p>")
        body.append(f"<p>{escape(table.note)}</p>")
    for number, (caption, figure) in enumerate(figures.items(), start=1):
        body.append(f"<h2>Figure {number}. {escape(caption)}</h2>")
        body.append(f'<p><img src="{escape(figure)}" alt="{escape(caption)}" style="max-width: 100%"></p>')
    write_page(path, title, "\n".join(body) + "\n")


def write_latex(path: Path, tables: Sequence[EvidenceTable]) -> None:
    """Write tables for LaTeX with the packages booktabs and longtable."""
    parts = ["% Needs \\usepackage{booktabs,longtable}. Tables of many columns need a page in landscape: pdflscape."]
    for table in tables:
        if table.rows:
            frame = pd.DataFrame(list(table.rows), columns=list(table.header), dtype=object)
            # The caption is not escaped by pandas.
            caption = f"{table.title}. {table.note}".replace("%", r"\%")
            text = frame.to_latex(
                index=False, escape=True, longtable=True, caption=caption, column_format=_column_format(table)
            )
            parts.append("\n".join([r"{\scriptsize\setlength{\tabcolsep}{3pt}", text.replace(NONE, "--"), "}"]))
    with whole_file(path) as part:
        part.write_text("\n".join(parts), encoding="utf-8")


def _column_format(table: EvidenceTable) -> str:
    """Columns of a table for LaTeX: lines of long texts are broken."""
    longest = [max(len(row[place]) for row in table.rows) for place in range(len(table.header))]
    return "".join("p{4.5cm}" if length > LONG_TEXT else "l" for length in longest)
