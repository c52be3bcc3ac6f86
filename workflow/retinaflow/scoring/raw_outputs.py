"""Raw outputs of models for the images of a split: their tables, pooled over folds or averaged over models."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd

from retinaflow.data.frames import read_frame, write_frame
from retinaflow.errors import RetinaflowError
from retinaflow.evaluation.grades import parse_grades
from retinaflow.networks import objectives
from retinaflow.storage.tables import REBUILD

OUTPUT_COLUMNS = ("image", "filename", "patient", "eye", "grade")
OUTPUT_SUM_TOLERANCE = 1e-6


class RawOutputs(NamedTuple):
    """Raw outputs of a model for n images.

    Attributes:
        images: Names of the images (n,).
        filenames: Names of their files (n,).
        patients: Names of the patients (n,).
        eyes: Names of the eyes (n,), "" for an unknown eye.
        grades: True grades, int64 (n,), 0 to k - 1.
        outputs: float (n, width), as the objective of the model defines them (module ``objectives``).
    """

    images: Sequence[str]
    filenames: Sequence[str]
    patients: Sequence[str]
    eyes: Sequence[str]
    grades: np.ndarray
    outputs: np.ndarray


def write_raw_outputs(path: Path, raw_outputs: RawOutputs, no_tta: np.ndarray | None = None) -> None:
    """Write a table with one row an image.

    The columns are ``OUTPUT_COLUMNS`` and ``output_0``, ``output_1`` and so on. Numbers have nine digits.

    Args:
        path: Table to write.
        raw_outputs: Raw outputs of the images. They are means over the TTA views if there are several.
        no_tta: Raw outputs without test-time augmentation, float (n, width), for the columns ``no_tta_0`` and so on.
    """
    columns: dict[str, Sequence[object]] = {
        "image": raw_outputs.images,
        "filename": raw_outputs.filenames,
        "patient": raw_outputs.patients,
        "eye": raw_outputs.eyes,
        "grade": raw_outputs.grades.tolist(),
    }
    for kind, outputs in (("output", raw_outputs.outputs), ("no_tta", no_tta)):
        for number, values in enumerate([] if outputs is None else outputs.T.tolist()):
            columns[f"{kind}_{number}"] = [f"{value:.9g}" for value in values]
    write_frame(path, pd.DataFrame(columns, dtype=object))


def read_raw_outputs(path: Path, objective: str, *, grade_count: int, kind: str = "output") -> RawOutputs:
    """Read a table that ``write_raw_outputs`` wrote. Other columns are ignored.

    Args:
        path: The table.
        objective: Objective of the model.
        grade_count: Number k of grades.
        kind: Columns to read: ``output``, or ``no_tta`` for the raw outputs without test-time augmentation.

    Raises:
        RetinaflowError: The table cannot be read, has no row, lacks a column, or has values that no model of this
            objective gives.
    """
    columns = [f"{kind}_{number}" for number in range(objectives.width(objective, grade_count))]
    frame = read_frame(path, (*OUTPUT_COLUMNS, *columns), types=dict.fromkeys(columns, float))
    if frame.empty:
        raise RetinaflowError(f"{path}: found no image, expected at least one. {REBUILD}")
    grades = parse_grades(path, frame["grade"], grade_count)
    # Rows in one piece, as networks return them: sums over a row then round in the same way.
    outputs = np.ascontiguousarray(frame[columns].to_numpy(np.float64))
    wrong = objectives.impossible_rows(objective, outputs)
    if objective == "softmax":
        wrong |= np.abs(outputs.sum(axis=1) - 1) > OUTPUT_SUM_TOLERANCE
    if wrong.any():
        first = wrong.argmax()
        raise RetinaflowError(
            f"{path}: the raw outputs of row {first + 1} are {outputs[first].tolist()}, which is impossible for "
            f"objective {objective}. {REBUILD}"
        )
    images, filenames, patients, eyes = (frame[column].tolist() for column in OUTPUT_COLUMNS[:-1])
    return RawOutputs(images, filenames, patients, eyes, grades, outputs)


def raw_rows(table: RawOutputs, chosen: np.ndarray) -> RawOutputs:
    """Return the rows that ``chosen``, bool (n,), selects."""
    if chosen.all():
        return table
    places = np.flatnonzero(chosen)
    images, filenames, patients, eyes = ([table[column][place] for place in places] for column in range(4))
    return RawOutputs(images, filenames, patients, eyes, table.grades[places], table.outputs[places])


def concatenated(tables: Sequence[RawOutputs]) -> RawOutputs:
    """Return the rows of all ``tables``, at least one, in their order."""
    images, filenames, patients, eyes = ([name for table in tables for name in table[place]] for place in range(4))
    grades, outputs = (np.concatenate([table[place] for table in tables]) for place in (4, 5))
    return RawOutputs(images, filenames, patients, eyes, grades, outputs)


def pool(tables: Sequence[Path], pooled: Path, *, objective: str, grade_count: int, kind: str = "output") -> None:
    """Write one table of the raw outputs for the images that each fold holds out: the ``out-of-fold`` split.

    Args:
        tables: Raw outputs of the validation split of each fold.
        pooled: Table to write.
        objective: Objective of the network.
        grade_count: Number k of grades.
        kind: Columns to read, as for ``read_raw_outputs``.

    Raises:
        RetinaflowError: An image is in two tables.
    """
    together = concatenated([read_raw_outputs(path, objective, grade_count=grade_count, kind=kind) for path in tables])
    images = pd.Series(together.images, dtype=object)
    if (repeated := images.duplicated(keep=False)).any():
        raise RetinaflowError(
            f"{', '.join(map(str, tables))}: image {images[repeated.idxmax()]!r} is in two of them; expected each "
            f"image in one fold. {REBUILD}"
        )
    write_raw_outputs(pooled, together)


def average(
    tables: Sequence[tuple[Path, str]], averaged: Path, *, objective: str, grade_count: int, kind: str = "output"
) -> None:
    """Write the mean of the raw outputs of several models for the same images.

    Args:
        tables: Raw outputs of each model, and its objective.
        averaged: Table to write.
        objective: Objective of the mean: that of all models, or ``regression`` if their objectives differ. The mean
            is that of their severities then.
        grade_count: Number k of grades.
        kind: Columns to read, as for ``read_raw_outputs``.

    Raises:
        RetinaflowError: The tables have different images or true grades.
    """
    read = [read_raw_outputs(path, own, grade_count=grade_count, kind=kind) for path, own in tables]
    for (path, _), table in zip(tables, read, strict=True):
        if (table.images, table.grades.tolist()) != (read[0].images, read[0].grades.tolist()):
            raise RetinaflowError(
                f"{path}: its images or grades differ from those of {tables[0][0]}; expected the same in the same "
                f"order. {REBUILD}"
            )
    outputs = [(own, table.outputs) for (_, own), table in zip(tables, read, strict=True)]
    write_raw_outputs(averaged, read[0]._replace(outputs=objectives.mean_outputs(outputs, objective, grade_count)))


def fold_strata(indices: Sequence[Path], images: Sequence[str]) -> np.ndarray:
    """Return the fold of each image by the index tables of the folds: int64 (n,), 0 if it is in none."""
    fold_of = {
        image: number for number, path in enumerate(indices, start=1) for image in read_frame(path, ("image",))["image"]
    }
    return np.array([fold_of.get(image, 0) for image in images], dtype=np.int64)
