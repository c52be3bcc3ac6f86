"""Images of a study with their truth, their probabilities and what the inventory knows about them."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from retinaflow.data.frames import read_frame
from retinaflow.data.inventory import SUBGROUP, subgroup_columns
from retinaflow.data.labels import UNGRADED
from retinaflow.errors import RetinaflowError
from retinaflow.evaluation.grades import GradeScale
from retinaflow.evaluation.units import UnitImages
from retinaflow.scoring.decision_rules import DecisionRule, apply_decision_rule
from retinaflow.scoring.raw_outputs import RawOutputs, fold_strata, raw_rows, read_raw_outputs
from retinaflow.storage.tables import REBUILD

# Problems of an inventory that leave an image without a result, although it belongs to the study.
UNGRADABLE = ("empty", "not_an_image", "unreadable", "truncated", "blank", "oversized")
# Grade of an image without truth.
NO_TRUTH = -1
NEGATIVE = ("", "0", "0.0", "no", "false")


@dataclass(frozen=True)
class StudyFiles:
    """Files of a model on a split.

    Attributes:
        split: Name of the split.
        raw_outputs: Table of raw outputs.
        predictions: Table of predictions.
        inventory: Inventory of the data set that the images are from.
        is_test: Whether the split is the whole data set. Ungradable images of the inventory belong to it then.
        folds: Index tables of the folds, if each was scored by its own network.
        scale: Scale of the labels, if they have other grades than the model.
        local: Patients that refit the model. They have raw outputs, and no predictions.
    """

    split: str
    raw_outputs: Path
    predictions: Path
    inventory: Path
    is_test: bool
    folds: Sequence[Path] = ()
    scale: GradeScale | None = None
    local: frozenset[str] = frozenset()


@dataclass(frozen=True)
class StudyImages:
    """Images of a model on a split.

    Attributes:
        split: Name of the split.
        grades: True grades, int64 (n,); ``NO_TRUTH`` of images that people could not grade.
        probabilities: Probabilities by one decision rule for all images, float64 (n, k); NaN of ungradable images. They
            have one scale, for areas and thresholds.
        calibrated: Probabilities by decision rules that do not know the patient, float64 (n, k); NaN likewise.
        predicted: Predicted grades, int64 (n,); -1 of ungradable images.
        patients: Names of the patients (n,).
        eyes: Names of the eyes (n,), "" for an unknown eye.
        strata: Fold of each image, int64 (n,); None if one network scored all.
        columns: Columns of the inventory, (n,) rows.
        raw: Raw outputs of the images that have some, the first rows of all.
        scale: Scale of the grades, if the split has others than the model.
        local: Images of the patients that refit the model. They are not among the others. None for no such patient.
    """

    split: str
    grades: np.ndarray
    probabilities: np.ndarray
    calibrated: np.ndarray
    predicted: np.ndarray
    patients: list[str]
    eyes: list[str]
    strata: np.ndarray | None
    columns: pd.DataFrame
    raw: RawOutputs = field(repr=False)
    scale: GradeScale | None = None
    local: "StudyImages | None" = None

    def own_grades(self, grades: Sequence[int]) -> list[int] | None:
        """Grades of this split that are together the ``grades`` of the model; None if there are none."""
        if self.scale is None:
            return list(grades)
        own = {self.scale.of_grade[grade] for grade in grades}
        joined = {grade for grade, number in enumerate(self.scale.of_grade) if number in own}
        return sorted(own) if joined == set(grades) else None

    def positive(self, grades: Sequence[int], columns: Sequence[str] = ()) -> np.ndarray:
        """Whether each image has one of the ``grades``, or a value in one of the ``columns``: bool (n,)."""
        found = np.isin(self.grades, list(grades))
        for column in columns:
            name = f"{SUBGROUP}{column}"
            if name not in self.columns:
                raise RetinaflowError(
                    f"evidence.also_positive: {self.split} has no column {column!r}; found "
                    f"{', '.join(group_columns(self.columns)) or 'none'}. Name it in `subgroups` of the data set."
                )
            found |= ~self.columns[name].str.strip().str.lower().isin(NEGATIVE).to_numpy()
        return found

    def units_of(self, positive: np.ndarray, grades: Sequence[int], *, calibrated: bool = False) -> UnitImages:
        """Images with their risk of the ``grades``, to be grouped; ``positive``: their truth, bool (n,)."""
        probabilities = self.calibrated if calibrated else self.probabilities
        unknown = (self.grades == NO_TRUTH) & ~positive
        return UnitImages(positive, probabilities[:, list(grades)].sum(axis=1), self.patients, self.eyes, unknown)


def group_columns(columns: pd.DataFrame) -> list[str]:
    """Names of the subgroup columns of an inventory, without their prefix."""
    return [name.removeprefix(SUBGROUP) for name in subgroup_columns(columns)]


def read_study(files: StudyFiles, rule: DecisionRule, *, kind: str, ungradable_quality: float) -> StudyImages:
    """Read the images of a split.

    Args:
        files: Files of the split.
        rule: Decision rule of the model.
        kind: Columns of the raw outputs: ``output`` or ``no_tta``.
        ungradable_quality: Quality below which an image is ungradable.

    Raises:
        RetinaflowError: A table cannot be read, or tables have different images.
    """
    names = files.scale.names if files.scale else rule.grade_names
    raw = read_raw_outputs(files.raw_outputs, rule.objective, grade_count=len(rule.grade_names), kind=kind)
    is_local = np.isin(raw.patients, sorted(files.local))
    tested = raw_rows(raw, ~is_local)
    columns = [f"probability_{name}" for name in names]
    types = {**dict.fromkeys(columns, float), "predicted_grade": int}
    graded = read_frame(files.predictions, ("image", "predicted_grade", *columns), types=types)
    if graded["image"].tolist() != list(tested.images):
        raise RetinaflowError(f"{files.predictions}: other images than in {files.raw_outputs}. {REBUILD}")
    inventory = read_frame(files.inventory, ("image", "grade", "patient", "eye", "quality", "problem"))
    predicted = graded["predicted_grade"].to_numpy(np.int64)
    study = _study(files, tested, inventory, rule, (graded[columns].to_numpy(np.float64), predicted))
    study = _without_poor(study, ungradable_quality)
    if not is_local.any():
        return study
    none = np.full((int(is_local.sum()), len(names)), np.nan), np.full(int(is_local.sum()), -1)
    local = _study(files, raw_rows(raw, is_local), inventory, rule, none)
    return replace(study, local=_without_poor(local, ungradable_quality))


def _study(
    files: StudyFiles, raw: RawOutputs, inventory: pd.DataFrame, rule: DecisionRule, graded: tuple[Any, Any]
) -> StudyImages:
    """The images of ``raw`` and those of the same patients, or other ones of the data set, without a result."""
    calibrated, predicted = graded
    known = inventory[inventory["problem"] == ""].set_index("image", drop=False)
    if missing := [image for image in raw.images if image not in known.index]:
        raise RetinaflowError(f"{files.inventory}: image {missing[0]!r} of {files.raw_outputs} is missing. {REBUILD}")
    lost = _without_result(files, inventory, calibrated.shape[1], local=not set(raw.patients) - files.local)
    by_rule = apply_decision_rule(rule, raw.outputs).probabilities
    by_rule = files.scale.merge_probabilities(by_rule) if files.scale else by_rule
    empty = np.full((len(lost), calibrated.shape[1]), np.nan)
    rows = pd.concat([known.loc[list(raw.images)], lost]).reset_index(drop=True)
    of_lost = [int(grade) if grade else NO_TRUTH for grade in lost["grade"]]
    return StudyImages(
        split=files.split,
        grades=np.concatenate([raw.grades, np.array(of_lost, dtype=np.int64)]),
        probabilities=np.vstack([by_rule, empty]),
        calibrated=np.vstack([calibrated, empty]),
        predicted=np.r_[predicted, [-1] * len(lost)].astype(np.int64),
        patients=[*raw.patients, *lost["patient"]],
        eyes=[*raw.eyes, *lost["eye"]],
        strata=fold_strata(files.folds, rows["image"].tolist()) if files.folds else None,
        columns=rows,
        raw=raw,
        scale=files.scale,
    )


def _without_result(files: StudyFiles, inventory: pd.DataFrame, grade_count: int, *, local: bool) -> pd.DataFrame:
    """Rows of the images of a test set that have no result, of the ``local`` patients or of all others."""
    if not files.is_test:
        return inventory.iloc[:0]
    # The grade of the first kind is known.
    lost = inventory["problem"].isin(UNGRADABLE) & inventory["grade"].isin(list(map(str, range(grade_count))))
    lost |= inventory["problem"] == UNGRADED
    return inventory[lost & (inventory["patient"].isin(sorted(files.local)) == local)]


def _without_poor(study: StudyImages, quality: float) -> StudyImages:
    """The images, those of a lower quality without a result."""
    poor = np.array([bool(text) and float(text) < quality for text in study.columns["quality"]])
    probabilities, calibrated = study.probabilities.copy(), study.calibrated.copy()
    probabilities[poor], calibrated[poor] = np.nan, np.nan
    return replace(
        study, probabilities=probabilities, calibrated=calibrated, predicted=np.where(poor, -1, study.predicted)
    )
