"""Tables of the differences between exported models and Keras. Imports nothing heavy."""

from collections.abc import Sequence
from pathlib import Path

from retinaflow.storage.files import whole_file
from retinaflow.storage.markdown import table
from retinaflow.storage.tables import read_table, write_table

DIFFERENCE_COLUMNS = (
    *("training_run", "format", "file", "bytes", "images", "quadratic_weighted_kappa", "kappa_difference"),
    *("grades_changed", "mean_probability_difference", "largest_probability_difference"),
)


def summarise_differences(differences: Sequence[Path], summary: Path, page: Path) -> None:
    """Join the tables of several training runs to one table and one Markdown page."""
    rows = [row for path in differences for row in read_table(path, DIFFERENCE_COLUMNS)]
    write_table(summary, DIFFERENCE_COLUMNS, rows)
    header = [
        "training_run",
        "format",
        "MB",
        "kappa",
        "difference",
        "grades changed",
        "probabilities: mean difference",
        "largest",
    ]
    lines = [
        "# Exported models",
        "",
        "Each model grades its validation images with the decision rule of the Keras model. The rule was fitted on "
        "these images: compare the kappas with each other, do not read them as the quality of the model. "
        "Differences are from the answers of Keras.",
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
                    f"{row['grades_changed']} of {row['images']}",
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
