"""Both sides of the split of joined training sets, set by set, for trainings that leave out each set in turn."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from retinaflow.data.frames import write_frame
from retinaflow.data.inventory import read_usable
from retinaflow.data.split import SPLIT_COLUMNS
from retinaflow.errors import RetinaflowError

log = logging.getLogger(__name__)

Tables = Mapping[str, Path]


def divide_split(sides: Tables, outputs: Mapping[str, Tables], grade_names: Sequence[str]) -> None:
    """Write the images of each data set in each side of the split to a table of their own.

    The side of a patient depends on the images of its own data set alone. So one data set more or less moves no image
    of another one to the other side.

    Args:
        sides: Table of each side of the split, ``train`` and ``validation``.
        outputs: Output table of each side, by the name of the data set.
        grade_names: Names of the grades.

    Raises:
        RetinaflowError: An image is of no data set, a data set has no image on a side, or a side without a data set has
            no image of a grade. No table is written.
    """
    parts: dict[tuple[str, str], pd.DataFrame] = {}
    for side, path in sides.items():
        images = read_usable(path, SPLIT_COLUMNS)
        names = pd.Series([image.partition("/")[0] for image in images["image"]], images.index, dtype=object)
        if unknown := set(names) - set(outputs):
            raise RetinaflowError(
                f"{path}: an image is of {min(unknown)!r}, expected one of {', '.join(outputs)}. Delete the file and "
                "run again."
            )
        for data_set in outputs:
            parts[data_set, side] = images[names == data_set]
            if parts[data_set, side].empty:
                raise RetinaflowError(
                    f"{path}: {data_set} has no image in the {side} part, expected at least one for the trainings that "
                    "use it. Add patients to it, or join it with another data set."
                )
            _require_grades(path, images[names != data_set], grade_names, data_set=data_set, side=side)
    for (data_set, side), part in parts.items():
        log.info("%s, %s part: %d images of %d patients", data_set, side, len(part), part["patient"].nunique())
        write_frame(outputs[data_set][side], part)


def _require_grades(path: Path, others: pd.DataFrame, grade_names: Sequence[str], *, data_set: str, side: str) -> None:
    missing = [repr(name) for grade, name in enumerate(grade_names) if grade not in set(others["grade"])]
    if missing:
        raise RetinaflowError(
            f"{path}: without {data_set}, the {side} part has no image of grade {' or '.join(missing)}, expected some "
            "of each grade. Add images of that grade to another training set, or set split.leave_out to null."
        )
