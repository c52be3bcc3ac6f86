"""Patients and eyes that a list of new images names, in the optional columns ``patient`` and ``eye``."""

import re
from collections.abc import Mapping

from retinaflow.data.label_tables import Table, open_table
from retinaflow.data.labels import EYES
from retinaflow.errors import RetinaflowError

Eyes = Mapping[str, tuple[str, str]]  # patient and eye by the name of an image; empty if unknown
# The columns of a table, with the most information first.
_COLUMNS = (("image", "patient", "eye"), ("image", "patient"), ("image", "eye"))


def listed_eyes(source: str) -> dict[str, tuple[str, str]]:
    """Return patient and eye of the images of a ``.csv`` list; nothing for other sources and for lists without them.

    Raises:
        RetinaflowError: A value of the column ``eye`` is no eye, or two rows of an image differ.
    """
    columns, table = _opened(source)
    if not table:
        return {}
    found: dict[str, tuple[str, str]] = {}
    for number, cells in table.rows:
        texts = ["".join(cells[place : place + 1]).strip() for place in table.places]
        row = dict(zip(columns, texts, strict=True))
        if not row["image"]:
            continue
        # Programs write whole numbers as 12.0 if another row of the column is empty.
        patient = re.sub(r"^([0-9]+)[.]0$", r"\1", row.get("patient", ""))
        pair = patient, _eye(source, number, row.get("eye", ""))
        if found.setdefault(row["image"], pair) != pair:
            raise RetinaflowError(
                f"{source}: row {number} names {row['image']!r} again, with {pair} as patient and eye instead of "
                f"{found[row['image']]}. Correct one of the rows."
            )
    return found


def _opened(source: str) -> tuple[tuple[str, ...], Table | None]:
    if source.lower().endswith(".csv"):
        for columns in _COLUMNS:
            try:
                return columns, open_table(source, columns, cure="")
            except RetinaflowError:  # It lacks a column. ``sources`` reports all other errors.
                continue
    return (), None


def _eye(source: str, number: int, cell: str) -> str:
    text = cell.casefold().removesuffix(".0")
    if text and text not in EYES:
        raise RetinaflowError(
            f"{source}: row {number} has {cell[:80]!r} as the eye. Expected left or right, L or R, OS or OD, or 1 for "
            "right and 2 for left; empty if it is unknown. Correct the row."
        )
    return EYES.get(text, "")
