"""Problem policy: which problems of a data set are errors, and how many excluded images are too many."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import pandas as pd

from retinaflow.data.frames import read_frame
from retinaflow.data.inventory import INVENTORY_COLUMNS, PROBLEM_COLUMNS, InventoryReport, report_of
from retinaflow.data.labels import UNGRADED
from retinaflow.data.policies import DataSetPolicy
from retinaflow.errors import RetinaflowError
from retinaflow.settings.data import ProblemSettings, set_key

# Kinds that are listed, but never a reason to stop.
NOTES = {
    **{"excluded": "excluded", UNGRADED: "excluded"},
    **{"repeated_label": "ignored", "no_end_marker": "ignored", "other_file": "ignored"},
}
UNCOUNTED = ("excluded", UNGRADED)
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


def check_data_set(
    inventory: Path,
    problems: Path,
    *,
    on_problem: ProblemSettings,
    exclude_limit: float,
    data_set: str = "",
    own: Mapping[str, DataSetPolicy] | None = None,
) -> Check:
    """Apply the problem policy to the tables of an inventory.

    Reasons against a data set are: a problem that is an error, no usable image, too many excluded images, and too many
    labels without an image. Images that ``exclude`` names, and ungradable ones, do not count as excluded.

    Args:
        inventory: Table of images.
        problems: Table of problems.
        on_problem: Policy for each kind of problem.
        exclude_limit: Largest share of images that may be excluded, and of labels without an image, 0 to 1.
        data_set: Name of the data set. ``train`` may be joined of ``train-NAME``.
        own: Policies of data sets that have one of their own.
    """
    default, own = DataSetPolicy(on_problem, exclude_limit), own or {}
    table = read_frame(problems, PROBLEM_COLUMNS)
    rows = zip(table["data_set"], table["problem"], strict=True)
    table["action"] = [
        NOTES.get(kind) or ACTIONS[getattr(own.get(name, default).on_problem, kind)] for name, kind in rows
    ]
    images = read_frame(inventory, INVENTORY_COLUMNS)
    report = report_of(images, table)

    errors = table[table["action"] == "error"]
    reasons = []
    if len(errors):
        reasons.append(Reason(f"{len(errors)} problem{'s' if len(errors) > 1 else ''} to be solved first", errors))
    if not report.usable:
        reasons.append(Reason(f"none of the {report.images} images is usable", table))
    counts = _image_counts(images, data_set, own)
    for name, count in counts.items():
        part = table[table["data_set"] == name] if name else table[~table["data_set"].isin(counts)]
        limit = own[name].exclude_limit if name else exclude_limit
        reasons += _limit_reasons(part, count, limit, name=name, checked=report.usable > 0)
    return Check(report, table, reasons)


def _image_counts(images: pd.DataFrame, data_set: str, own: Mapping[str, DataSetPolicy]) -> dict[str, int]:
    """Number of images of each data set in ``own``, and of all others by the name ``""``."""
    if data_set in own:
        return {data_set: len(images)}
    prefixes = {name: f"{name.partition('-')[2]}/" for name in own if name.startswith(f"{data_set}-")}
    counts = {name: int(images["image"].str.startswith(prefix).sum()) for name, prefix in prefixes.items()}
    return {"": len(images) - sum(counts.values()), **counts}


def _limit_reasons(table: pd.DataFrame, images: int, limit: float, *, name: str, checked: bool) -> list[Reason]:
    """Reasons against a data set of ``images`` images that are shares above a limit."""
    is_excluded = (table["action"] == "excluded") & ~table["problem"].isin(UNCOUNTED)
    excluded = table[is_excluded & (table["path"] != "")]
    no_image = table[is_excluded & (table["problem"] == "no_image")]
    key = set_key(name) if name else "data"
    text = f"more than the share of {limit} that {key}.exclude_limit allows"
    reasons = []
    if checked and len(excluded) > limit * images:
        reasons.append(Reason(f"{len(excluded)} of {images} images are excluded, {text}", excluded))
    if len(no_image) > limit * (images + len(no_image)):
        reasons.append(Reason(f"{len(no_image)} labels have no image, {text}", no_image))
    return reasons


def require_usable(
    data_set: str,
    inventory: Path,
    *,
    problems: Path,
    on_problem: ProblemSettings,
    exclude_limit: float,
    own: Mapping[str, DataSetPolicy] | None = None,
) -> None:
    """Raise an error unless the problem policy allows the use of a data set.

    Raises:
        RetinaflowError: ``check_data_set`` has a reason against it.
    """
    check = check_data_set(
        inventory, problems, on_problem=on_problem, exclude_limit=exclude_limit, data_set=data_set, own=own
    )
    if check.reasons:
        raise RetinaflowError(
            f"{data_set}: {'; '.join(reason.text for reason in check.reasons)}. `snakemake preflight` lists them and "
            "says what to do."
        )
