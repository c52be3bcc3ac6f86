"""How far exported models are from those they were made of: the tables. Imports nothing heavy."""

from collections.abc import Sequence
from pathlib import Path

from retinaflow.storage.files import whole_file
from retinaflow.storage.markdown import table
from retinaflow.storage.tables import read_table, write_table

COLUMNS = (
    *("training_run", "format", "file", "bytes", "photographs", "quadratic_weighted_kappa", "kappa_difference"),
    *("levels_changed", "mean_probability_difference", "largest_probability_difference"),
)


def summarise(differences: Sequence[Path], summary: Path, page: Path) -> None:
    """Join the tables of several runs, and set them as Markdown."""
    rows = [row for path in differences for row in read_table(path, COLUMNS)]
    write_table(summary, COLUMNS, rows)
    header = [
        "training_run",
        "format",
        "MB",
        "kappa",
        "difference",
        "levels changed",
        "probabilities: mean difference",
        "largest",
    ]
    lines = [
        "# Exported models",
        "",
        "Of the photographs that each was validated with, graded by the thresholds of Keras's model, which were fitted "
        "on these: kappa is here to be compared, not to say how well the model grades. Differences are from Keras's "
        "answers.",
        "",
        *table(
            header,
            (
                [
                    row["training_run"],
                    row["format"],
                    f"{int(row['bytes']) / 1e6:.1f}",
                    _rounded(row["quadratic_weighted_kappa"], ".3f"),
                    _rounded(row["kappa_difference"], "+.3f"),
                    f"{row['levels_changed']} of {row['photographs']}",
                    _rounded(row["mean_probability_difference"], ".2g"),
                    _rounded(row["largest_probability_difference"], ".2g"),
                ]
                for row in rows
            ),
        ),
    ]
    with whole_file(page) as part:
        part.write_text("\n".join(lines) + "\n", encoding="utf-8")


def _rounded(value: str, form: str) -> str:
    return format(float(value), form) if value else "undefined"
