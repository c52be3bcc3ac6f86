"""Patients and eyes that a list of new images names, in the optional columns ``patient`` and ``eye``."""

from collections.abc import Mapping

from retinaflow.data.label_tables import open_table
from retinaflow.data.labels import eye_of_cell, patient_of_cell
from retinaflow.errors import RetinaflowError

Eyes = Mapping[str, tuple[str, str]]  # patient and eye by the name of an image; empty if unknown


def listed_eyes(source: str) -> dict[str, tuple[str, str]]:
    """Return patient and eye of the images of a ``.csv`` list; nothing for other sources and for lists without them.

    Raises:
        RetinaflowError: The list cannot be read, or a column occurs twice. A value of the column ``eye`` is no eye, or
            two rows of an image differ.
    """
    if not source.lower().endswith(".csv"):
        return {}
    table = open_table(source, ("image",), cure="or add it if the table has none", optional=("patient", "eye"))
    if not table.optional:
        return {}
    places = {"image": table.places[0], **table.optional}
    found: dict[str, tuple[str, str]] = {}
    for number, cells in table.rows:
        row = {column: "".join(cells[place : place + 1]).strip() for column, place in places.items()}
        if not row["image"]:
            continue
        pair = patient_of_cell(row.get("patient", "")), eye_of_cell(source, number, row.get("eye", ""))
        if found.setdefault(row["image"], pair) != pair:
            raise RetinaflowError(
                f"{source}: row {number} names {row['image']!r} again, with {pair} as patient and eye instead of "
                f"{found[row['image']]}. Correct one of the rows."
            )
    return found
