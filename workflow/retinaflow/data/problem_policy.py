"""Problem policy: which problems of a data set are errors, and how many excluded images are too many."""

from pathlib import Path
from typing import NamedTuple

import pandas as pd

from retinaflow.data.frames import read_frame
from retinaflow.data.inventory import INVENTORY_COLUMNS, PROBLEM_COLUMNS, InventoryReport, report_of
from retinaflow.errors import RetinaflowError
from retinaflow.settings.data import ProblemSettings

# Kinds that are listed, but never a reason to stop.
NOTES = {"excluded": "excluded", "repeated_label": "ignored", "no_end_marker": "ignored", "other_file": "ignored"}
ACTIONS = {"error": "error", "exclude": "excluded"}


class Reason(NamedTuple):
    """One reason against the use of a data set: a sentence, and the rows of the table of problems that it counts."""

    text: str
    problems: pd.DataFrame


class Check(NamedTuple):
    """Result of the problem policy for a data set.

    Attributes:
        report: Counts of the inventory.
        problems: Table of problems with one more column, ``action``: ``error``, ``excluded`` or ``ignored``.
        reasons: Reasons against the use of the data set. None means that it may be used.
    """

    report: InventoryReport
    problems: pd.DataFrame
    reasons: list[Reason]


def check_data_set(inventory: Path, problems: Path, *, on_problem: ProblemSettings, exclude_limit: float) -> Check:
    """Apply the problem policy to the tables of an inventory.

    Reasons against a data set are: a problem that is an error, no usable image, too many excluded images, and too many
    labels without an image. Images that ``exclude`` names do not count as excluded.

    Args:
        inventory: Table of images.
        problems: Table of problems.
        on_problem: Policy for each kind of problem.
        exclude_limit: Largest share of images that may be excluded, and of labels without an image, 0 to 1.
    """
    actions = NOTES | {kind: ACTIONS[policy] for kind, policy in on_problem}
    table = read_frame(problems, PROBLEM_COLUMNS)
    table["action"] = [actions[kind] for kind in table["problem"]]
    report = report_of(read_frame(inventory, INVENTORY_COLUMNS), table)

    errors = table[table["action"] == "error"]
    is_excluded = (table["action"] == "excluded") & (table["problem"] != "excluded")
    excluded = table[is_excluded & (table["path"] != "")]
    no_image = table[is_excluded & (table["problem"] == "no_image")]
    limit = f"more than the share of {exclude_limit} that data.exclude_limit allows"
    reasons = []
    if len(errors):
        reasons.append(Reason(f"{len(errors)} problem{'s' if len(errors) > 1 else ''} to be solved first", errors))
    if not report.usable:
        reasons.append(Reason(f"none of the {report.images} images is usable", table))
    elif len(excluded) > exclude_limit * report.images:
        reasons.append(Reason(f"{len(excluded)} of {report.images} images are excluded, {limit}", excluded))
    if len(no_image) > exclude_limit * (report.images + len(no_image)):
        reasons.append(Reason(f"{len(no_image)} labels have no image, {limit}", no_image))
    return Check(report, table, reasons)


def require_usable(
    data_set: str, inventory: Path, *, problems: Path, on_problem: ProblemSettings, exclude_limit: float
) -> None:
    """Raise an error unless the problem policy allows the use of a data set.

    Raises:
        RetinaflowError: ``check_data_set`` has a reason against it.
    """
    check = check_data_set(inventory, problems, on_problem=on_problem, exclude_limit=exclude_limit)
    if check.reasons:
        raise RetinaflowError(
            f"{data_set}: {'; '.join(reason.text for reason in check.reasons)}. `snakemake preflight` lists them and "
            "says what to do."
        )
