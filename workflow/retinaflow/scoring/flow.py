"""Flow of images and patients through a study, for a STARD diagram: found, excluded, without a result, with a result.

Bossuyt, P. M. et al. (2015), STARD 2015: an updated list of essential items for reporting diagnostic accuracy studies,
BMJ 351, h5527, items 19 and 23.
"""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from retinaflow.data.frames import read_frame
from retinaflow.data.labels import UNGRADED
from retinaflow.evaluation.units import StudyUnits
from retinaflow.scoring.study_images import UNGRADABLE

# Reason of the images of a new site that refit the model.
REFITS = "refit the model"
FLOW_COLUMNS = ("data_set", "step", "reason", "images", "patients")


class FlowCount(NamedTuple):
    """Images and patients at a step; patients are None if they are not known.

    Attributes:
        step: ``labels without an image``, ``images found``, ``excluded``, ``eligible``, the name of a split, ``no
            result``, ``index test positive`` or ``index test negative``.
        reason: Kind of the problem of excluded images; target condition of those with a result; else empty.
        images: Number of images; 0 if the step counts patients alone.
        patients: Number of patients.
    """

    step: str
    reason: str
    images: int
    patients: int | None


def inventory_flow(inventory: Path, problems: Path, *, is_test: bool, local: Collection[str] = ()) -> list[FlowCount]:
    """Count images of a data set from the files that were found to the eligible ones.

    Unreadable images of a test set stay in the study: they have no result of the index test. So do images that people
    could not grade: they have no result of the reference standard either.

    Args:
        inventory: Table of the images.
        problems: Table of the problems.
        is_test: Whether the data set is a test set.
        local: Patients that refit the model. Their images are excluded.
    """
    frame = read_frame(inventory, ("image", "patient", "grade", "problem"))
    listed = read_frame(problems, ("image", "problem"))
    kept = frame["problem"] == ""
    if is_test:
        kept |= frame["problem"].isin(UNGRADABLE) & (frame["grade"] != "")
        kept |= frame["problem"] == UNGRADED
    is_local = kept & frame["patient"].isin(sorted(local))
    kept &= ~is_local
    rows = [
        FlowCount("labels without an image", "", int((listed["problem"] == "no_image").sum()), None),
        _count("images found", "", frame),
    ]
    # Before the choice of rows: pandas takes all rows of a column that is assigned to a frame without rows.
    left_out = frame.assign(problem=frame["problem"].where(~is_local, REFITS))[~kept]
    rows += [
        _count("excluded", kind, left_out[left_out["problem"] == kind])
        for kind, _ in Counter(left_out["problem"]).most_common()
    ]
    return [*rows, _count("eligible", "", frame[kept])]


def split_flow(indices: Mapping[str, Sequence[Path]]) -> list[FlowCount]:
    """Count images and patients of each split, by its index tables."""
    return [
        _count(split, "", pd.concat([read_frame(path, ("image", "patient")) for path in paths]))
        for split, paths in indices.items()
    ]


def result_flow(units: StudyUnits, flagged: np.ndarray) -> list[FlowCount]:
    """Count patients by result and truth.

    Args:
        units: Patients of the study.
        flagged: Result of each patient, bool (u,); without a meaning where the patient has no gradable image.
    """
    steps = {
        "index test positive": units.gradable & flagged,
        "index test negative": units.gradable & ~flagged,
        "no result": ~units.gradable,
    }
    truths = {"condition present": units.positive, "condition absent": ~units.positive & ~units.unknown}
    if units.unknown.any():
        truths["condition unknown"] = units.unknown
    return [
        FlowCount(step, truth, 0, int((chosen & of_truth).sum()))
        for step, chosen in steps.items()
        for truth, of_truth in truths.items()
    ]


def _count(step: str, reason: str, frame: pd.DataFrame) -> FlowCount:
    return FlowCount(step, reason, len(frame), frame["patient"].nunique())
