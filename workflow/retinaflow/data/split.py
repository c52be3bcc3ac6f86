"""Split of the training set into training and validation, or into folds, so that no patient is on both sides."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import ROUND_HALF_UP, Decimal
from pathlib import Path

import pandas as pd

from retinaflow.data.folds import assign_folds, strata
from retinaflow.data.frames import write_frame
from retinaflow.data.inventory import read_usable, subgroup_columns
from retinaflow.data.matching import composed
from retinaflow.errors import RetinaflowError

log = logging.getLogger(__name__)

SPLIT_COLUMNS = ("image", "path", "grade", "patient", "eye", "bytes", "width", "height", "digest")

LISTED = 20  # Names of images in a message.

Sides = tuple[pd.DataFrame, pd.DataFrame]  # Training and validation.


def split_patients(
    images: pd.DataFrame, validation: float, *, unit: str, seed: int
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Split a table of images into training and validation.

    Units are grouped by their worst grade. Of each group, the share ``validation`` is chosen by a digest of seed and
    name. So one unit more or less moves at most one other unit of its grade.

    Args:
        images: Table with the columns ``unit`` and ``grade`` (int).
        validation: Share of the units to validate on, 0 < share < 1. It is rounded half up, to at least one unit and at
            most n - 1 of n > 1 units.
        unit: Column of the units that stay whole: ``patient``, or ``image`` to ignore patients.
        seed: Seed of the choice.

    Returns:
        Training and validation, both in the order of ``images``.
    """
    chosen: set[str] = set()
    for units in strata(list(images[unit]), images["grade"], seed, _data_sets(images, unit)).values():
        count = int((Decimal(str(validation)) * len(units)).to_integral_value(ROUND_HALF_UP))
        if len(units) > 1:
            count = min(max(count, 1), len(units) - 1)
        chosen.update(units[:count])
    validates = images[unit].isin(chosen)
    return images[~validates], images[validates]


@dataclass(frozen=True)
class SplitJob:
    """One split of the training set.

    Args:
        inventory: Inventory of the training set.
        grade_names: Names of the grades. Each side needs images of all of them.
        validation: Share of the units to validate on. Not used with folds.
        folds: Number of folds, 0 for a single split.
        unit: ``patient`` or ``image``, see ``split_patients``.
        seed: Seed of the split.
        given: Side of each image, see ``given_split``. Without it, sides are chosen.
        given_by: Setting that prescribes the sides, for messages.
        outputs: Output tables of training and validation, a pair for each fold, which is the validation side.
    """

    inventory: Path
    grade_names: Sequence[str]
    validation: float
    folds: int
    unit: str
    seed: int
    outputs: Sequence[tuple[Path, Path]]
    given: Mapping[str, str] | None = None
    given_by: str = "split.column"


def write_split(job: SplitJob) -> None:
    """Split the usable images of an inventory and write the tables of each side.

    Raises:
        RetinaflowError: A side has no image of a grade. No table is written.
    """
    images = read_usable(job.inventory)
    images = images[[*SPLIT_COLUMNS, *subgroup_columns(images)]]
    pairs = _pairs(images, job)
    _require_all_grades(job, "the inventory", images, images)
    for name, pair in pairs.items():
        for title, side in zip(("training", "validation"), pair, strict=True):
            _require_all_grades(job, f"the {title} part{name}", side, images)
            counts = side["grade"].value_counts()
            shown = ", ".join(f"{label} {counts.get(grade, 0)}" for grade, label in enumerate(job.grade_names))
            patients = side["patient"].nunique()
            log.info("%s%s: %d images of %d patients (%s)", title, name, len(side), patients, shown)
    for pair, paths in zip(pairs.values(), job.outputs, strict=True):
        for side, path in zip(pair, paths, strict=True):
            write_frame(path, side)


def _pairs(images: pd.DataFrame, job: SplitJob) -> dict[str, Sides]:
    """Training and validation of each fold, by the words that name it in messages."""
    if job.given is not None:
        return {"": _given_pair(images, job, job.given)}
    if not job.folds:
        return {"": split_patients(images, job.validation, unit=job.unit, seed=job.seed)}
    fold_of = assign_folds(
        list(images[job.unit]),
        list(images["grade"]),
        folds=job.folds,
        seed=job.seed,
        data_sets=_data_sets(images, job.unit),
    )
    return {f" of fold {fold}": (images[fold_of != fold], images[fold_of == fold]) for fold in range(1, job.folds + 1)}


def _data_sets(images: pd.DataFrame, unit: str) -> list[str]:
    """Data set of each image, which joined sets have before the names of images and patients; else ``""``."""
    rows = zip(images[unit], images["patient"], strict=True)
    return [name.partition("/")[0] if "/" in patient else "" for name, patient in rows]


def _given_pair(images: pd.DataFrame, job: SplitJob, given: Mapping[str, str]) -> Sides:
    """Training and validation as label tables or lists prescribe them."""
    sides = pd.Series([given.get(composed(image)) for image in images["image"]], images.index, dtype=object)
    train, validation = images[sides == "train"], images[sides == "validation"]
    left_out = images["image"][~sides.isin(["train", "validation"])]
    if len(left_out):
        shown = ", ".join(map(repr, left_out[:LISTED]))
        more = f" and {len(left_out) - LISTED} more" if len(left_out) > LISTED else ""
        unlisted = int(sides.isna().sum())
        log.warning(
            "%d images are not used, %d of them in the test set of %s and %d in no set of it: %s%s",
            *(len(left_out), len(left_out) - unlisted, job.given_by, unlisted, shown, more),
        )
    common = sorted(set(train[job.unit]) & set(validation[job.unit]))
    if common:
        raise RetinaflowError(
            f"{job.given_by}: {len(common)} {job.unit}s have images in training and validation, such as {common[0]!r}. "
            "Correct it, or set split.unit to image to use the split as it is."
        )
    return train, validation


def _require_all_grades(job: SplitJob, title: str, side: pd.DataFrame, images: pd.DataFrame) -> None:
    present = set(side["grade"])
    for grade, name in enumerate(job.grade_names):
        if grade in present:
            continue
        count = images.loc[images["grade"] == grade, job.unit].nunique()
        solution = (
            "Use fewer folds, another seed or another share of validation, or add images of that grade."
            if count
            else "Add images of that grade, or remove it from data.grade_names."
        )
        raise RetinaflowError(
            f"{job.inventory}: {title} has no image of grade {grade} ({name!r}), expected some of each grade; the "
            f"inventory has {count} {job.unit}s with one. {solution}"
        )
