"""The ranking that a run ends with, from the table of the comparison."""

import csv
from pathlib import Path

_MODEL = ("model", "run", "system")
_SPLIT = ("split", "part")
_KAPPA = "quadratic_weighted_kappa"
_CORRECTED = "selection_corrected_kappa"
_MOST = 10  # models


def lines(table: str | Path) -> list[str]:
    """The ranked models of a ``comparison.csv``, with the kappa of each split. Empty if it cannot be read."""
    try:
        with open(table, encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        model, split = (next(name for name in names if name in rows[0]) for names in (_MODEL, _SPLIT))
        ranks = {row[model]: int(row["rank"]) for row in rows if row["rank"]}
        kappas = {(row[model], row[split]): _kappa(row) for row in rows}
    except (OSError, ValueError, KeyError, IndexError, StopIteration, UnicodeDecodeError, csv.Error):
        return []
    ranked = sorted(ranks, key=lambda name: ranks[name])
    splits = list(dict.fromkeys(row[split] for row in rows if row[model] in ranks))
    shown = [["rank", "model", *splits]]
    for name in ranked[:_MOST]:
        shown.append([f"{ranks[name]}", name, *(kappas.get((name, one), "") for one in splits)])
    widths = [max(map(len, column)) for column in zip(*shown, strict=True)]
    text = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in shown]
    if len(ranked) > _MOST:
        text.append(f"and {len(ranked) - _MOST} more")
    text += [
        f"{row[model]} on {row[split]}, corrected for the choice among {len(ranked)} models: {_kappa(row, _CORRECTED)}"
        for row in rows
        if row.get(_CORRECTED)
    ]
    return ["Quadratic weighted kappa and its 95 % confidence interval:", *text]


def _kappa(row: dict[str, str], column: str = _KAPPA) -> str:
    value = row[column]
    if not value:
        return row.get("remark") or "undefined"
    ends = [row.get(f"{column}_{end}") for end in ("low", "high")]
    interval = f" ({float(ends[0]):.2f} to {float(ends[1]):.2f})" if ends[0] and ends[1] else ""
    return f"{float(value):.3f}{interval}"
