"""Say whether a data set may be used as its inventory found it: which problems are errors, how many too many."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from retinaflow.data.inventory import INVENTORY_COLUMNS, PROBLEM_COLUMNS, InventoryReport, usable
from retinaflow.errors import RetinaflowError
from retinaflow.storage.tables import Row, read_table

# What to do about each kind of problem if nothing else is said: errors are those that could be a wrong label.
ON_PROBLEM = {
    "empty": "exclude",
    "not_an_image": "exclude",
    "unreadable": "exclude",
    "truncated": "exclude",
    "oversized": "exclude",
    "no_label": "exclude",
    "no_image": "exclude",
    "bad_grade": "error",
    "duplicate_image": "error",
    "duplicate_label": "error",
    "identical": "exclude",
    "identical_conflict": "error",
    "patient_in_both": "error",
}
# What is listed as well, and is no reason to stop.
NOTES = {"excluded": "excluded", "repeated_label": "ignored", "other_file": "ignored"}
ACTIONS = {"error": "error", "exclude": "excluded"}


class Verdict(NamedTuple):
    """Whether a data set may be used: its problems with what is done about them, and why not, empty if it may.

    ``problems`` are rows of the table of problems with one more column, ``action``: ``error``, ``excluded`` or
    ``ignored``. ``reasons`` are sentences, each with the problems that it is about.
    """

    report: InventoryReport
    problems: list[Row]
    reasons: list[tuple[str, list[Row]]]


def verdict(inventory: Path, problems: Path, on_problem: Mapping[str, str], exclude_limit: float) -> Verdict:
    """Judge the tables that ``take_inventory`` wrote.

    ``on_problem`` says for each kind of ``ON_PROBLEM`` whether it is an ``error`` or the photograph is to be left out
    (``exclude``). Reasons not to use the data set are errors; more than the share ``exclude_limit`` (0..1) of its
    photographs left out, those named in ``exclude`` not counted, or as many labels without a photograph; none usable.
    """
    actions = NOTES | {kind: ACTIONS[setting] for kind, setting in {**ON_PROBLEM, **on_problem}.items()}
    table = [{**row, "action": actions[row["problem"]]} for row in read_table(problems, PROBLEM_COLUMNS)]
    rows = read_table(inventory, INVENTORY_COLUMNS)
    good = usable(rows)
    counts = Counter(row["problem"] for row in table)
    report = InventoryReport(len(rows), len(good), len({row["patient"] for row in good}), dict(counts))

    errors = [row for row in table if row["action"] == "error"]
    left_out = [row for row in table if row["path"] and row["action"] == "excluded" and row["problem"] != "excluded"]
    reasons = [(f"{len(errors)} problem{'s' if len(errors) > 1 else ''} to be solved first", errors)] if errors else []
    if not good:
        reasons.append((f"none of the {len(rows)} photographs is usable", table))
    limit = f"more than the share of {exclude_limit} that data.exclude_limit allows"
    if good and len(left_out) > exclude_limit * len(rows):
        reasons.append((f"{len(left_out)} of {len(rows)} photographs are excluded, {limit}", left_out))
    absent = [row for row in table if row["problem"] == "no_image" and row["action"] == "excluded"]
    if len(absent) > exclude_limit * (len(rows) + len(absent)):
        reasons.append((f"{len(absent)} labels have no photograph, {limit}", absent))
    return Verdict(report, table, reasons)


def require_fit(
    dataset: str, inventory: Path, problems: Path, on_problem: Mapping[str, str], exclude_limit: float
) -> None:
    """Raise ``RetinaflowError`` unless the ``verdict`` of the data set called ``dataset`` is that it may be used."""
    reasons = verdict(inventory, problems, on_problem, exclude_limit).reasons
    if reasons:
        raise RetinaflowError(
            f"{dataset}: {'; '.join(reason for reason, _ in reasons)}. `snakemake preflight` lists them and says what "
            "to do."
        )
