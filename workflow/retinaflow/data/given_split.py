"""A split that the label tables prescribe, as benchmarks publish it."""

from collections.abc import Mapping, Sequence

from retinaflow.data.labels import LabelRow
from retinaflow.data.matching import composed
from retinaflow.errors import RetinaflowError

SIDES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "valid", "val", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}


def given_sides(tables: Mapping[str, Sequence[LabelRow]]) -> dict[str, str]:
    """Return the side of each image: ``train``, ``validation`` or ``test``.

    Args:
        tables: Rows of each training set, by the name that its images have before their own (``""`` for none). The side
            of a row is the text of its grade.

    Returns:
        The sides by the name of the image, and by its folder and name.

    Raises:
        RetinaflowError: A side is unknown, or an image has two.
    """
    sides: dict[str, str] = {}
    for data_set, rows in tables.items():
        folders: dict[str, set[str]] = {}
        for row in rows:
            folders.setdefault(row.image, set()).add(row.folder)
        for row in rows:
            side = SIDES.get(row.grade_text.casefold())
            if side is None:
                raise RetinaflowError(
                    f"split.column: row {row.row}{f' of {row.table}' if row.table else ''} has {row.grade_text[:80]!r} "
                    f"for the image {row.image!r}, expected train, validation or test. Correct the row."
                )
            names = {row.relative_path} | ({row.image} if len(folders[row.image]) == 1 else set())
            for name in names:
                key = f"{data_set}/{composed(name)}" if data_set else composed(name)
                if sides.setdefault(key, side) != side:
                    raise RetinaflowError(
                        f"split.column: the image {row.image!r} is in {sides[key]} and {side}, expected one of them. "
                        f"Correct row {row.row}."
                    )
    return sides
