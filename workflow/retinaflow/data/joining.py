"""Join the inventories of several training sets to one."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from retinaflow.data.frames import read_frame, write_frame
from retinaflow.data.inventory import INVENTORY_COLUMNS, PROBLEM_COLUMNS, find_copies, usable


@dataclass(frozen=True)
class JoinJob:
    """Inventories to join.

    Args:
        data_sets: Inventory and table of problems of each data set, by its name.
        inventory: Output table of all images (``INVENTORY_COLUMNS``).
        problems: Output table of all problems (``PROBLEM_COLUMNS``).
    """

    data_sets: Mapping[str, tuple[Path, Path]]
    inventory: Path
    problems: Path


def join_inventories(job: JoinJob) -> None:
    """Write one inventory of all images, and one table of their problems.

    The name of an image has the name of its data set first: ``eyepacs/17_left``. Images with the same bytes as one of
    another data set are problems like those within a data set.
    """
    inventories, problems = [], []
    for name, (inventory, table) in job.data_sets.items():
        images = read_frame(inventory, INVENTORY_COLUMNS)
        images["image"] = pd.Series([f"{name}/{image}" for image in images["image"]], dtype=object)
        inventories.append(images)
        problems.append(read_frame(table, PROBLEM_COLUMNS))
    # A data set may lack a column of subgroups.
    images = pd.concat(inventories, ignore_index=True).fillna("")
    copies = find_copies(usable(images))
    is_copy = images["path"].isin(copies.keys())
    found = [copies[path] for path in images.loc[is_copy, "path"]]
    images.loc[is_copy, "problem"] = [kind for kind, _ in found]
    names = [image.partition("/") for image in images.loc[is_copy, "image"]]
    rows = [
        (f"train-{data_set}", image, path, *problem)
        for (data_set, _, image), path, problem in zip(names, images.loc[is_copy, "path"], found, strict=True)
    ]
    problems.append(pd.DataFrame(rows, columns=PROBLEM_COLUMNS, dtype=object))
    write_frame(job.problems, pd.concat(problems, ignore_index=True))
    write_frame(job.inventory, images)
