"""The ranking that a run ends with, from the table of the comparison."""

import csv
import statistics
from pathlib import Path

_MODEL = ("model", "run", "system")
_SPLIT = ("split", "part")
_KAPPA = "quadratic_weighted_kappa"
_CORRECTED = "selection_corrected_kappa"
_MOST = 10  # models

_Row = dict[str, str]


def lines(table: str | Path) -> list[str]:
    """The ranked models of a ``comparison.csv``, with the kappa of each split. Empty if it cannot be read.

    The repeats of a model are one line. Its place is that of their mean on the split of the ranking.
    """
    try:
        with open(table, encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        model, split = (next(name for name in names if name in rows[0]) for names in (_MODEL, _SPLIT))
        ranks = {row[model]: int(row["rank"]) for row in rows if row["rank"]}
        ranked = sorted((row for row in rows if row[model] in ranks), key=lambda row: ranks[row[model]])
        splits = list(dict.fromkeys(row[split] for row in ranked))
        families: dict[str, dict[str, list[_Row]]] = {}
        for row in ranked:
            families.setdefault(row.get("repeat_of") or row[model], {}).setdefault(row[split], []).append(row)
        names = sorted(families, key=lambda name: -_mean(families[name][splits[0]]))
        cells = [[_kappas(families[name].get(one, [])) for one in splits] for name in names[:_MOST]]
    except (OSError, ValueError, KeyError, IndexError, StopIteration, UnicodeDecodeError, csv.Error):
        return []
    titles = {row[model]: row.get("title") or row[model] for row in ranked}
    shown = [["rank", "model", *splits]]
    for place, (name, of_splits) in enumerate(zip(names, cells, strict=False), start=1):
        shown.append([f"{place}", titles.get(name, name), *of_splits])
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in shown]
    if len(names) > _MOST:
        text.append(f"and {len(names) - _MOST} more")
    text += [
        f"{row[model]} on {row[split]}, corrected for the choice among {len(ranks)} models: {_kappa(row, _CORRECTED)}"
        for row in rows
        if row.get(_CORRECTED)
    ]
    repeats = ", or mean ± standard deviation of repeats" if any(row.get("repeat_of") for row in ranked) else ""
    return [f"Quadratic weighted kappa and its 95 % confidence interval{repeats}:", *text]


def _mean(rows: list[_Row]) -> float:
    known = [float(row[_KAPPA]) for row in rows if row[_KAPPA]]
    return statistics.mean(known) if known else -2.0


def _kappas(rows: list[_Row]) -> str:
    known = [float(row[_KAPPA]) for row in rows if row[_KAPPA]]
    if len(rows) > 1 and len(known) == len(rows):
        return f"{statistics.mean(known):z.3f} ± {statistics.stdev(known):.3f}"
    return _kappa(rows[0]) if rows else ""


def _kappa(row: _Row, column: str = _KAPPA) -> str:
    value = row[column]
    if not value:
        return row.get("remark") or "undefined"
    ends = [row.get(f"{column}_{end}") for end in ("low", "high")]
    interval = f" ({float(ends[0]):z.2f} to {float(ends[1]):z.2f})" if ends[0] and ends[1] else ""
    return f"{float(value):z.3f}{interval}"
