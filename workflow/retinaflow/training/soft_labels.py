"""Soft labels: the mean of the labels that several readers give an image."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from retinaflow.data.grade_texts import grade_parser
from retinaflow.errors import RetinaflowError
from retinaflow.networks.objectives import targets
from retinaflow.storage.tables import stream_table

NO_GRADE = -1  # of an image by a reader who has not graded it
_COLUMN = "subgroup_{}"  # of an index table, as the inventory names it


def read_readers(
    indices: Sequence[Path], images: Sequence[str], columns: Sequence[str], grade_names: Sequence[str]
) -> np.ndarray | None:
    """Read the grades of images by each reader.

    Args:
        indices: Index tables of the images.
        images: Names of the n images.
        columns: Column of each reader in the label tables.
        grade_names: Names of the grades.

    Returns:
        int64 (n, readers), ``NO_GRADE`` for an empty cell. None without ``columns``.

    Raises:
        RetinaflowError: An index table lacks a column, or a cell has no grade.
    """
    if not columns:
        return None
    parse, own = grade_parser(grade_names), [_COLUMN.format(column.strip()) for column in columns]
    grades: dict[str, list[int]] = {}
    for index in indices:
        for row in stream_table(index, ("image", *own)):
            grades[row["image"]] = [
                _grade(row[name], parse(row[name]), index=index, image=row["image"], column=column)
                for name, column in zip(own, columns, strict=True)
            ]
    return np.array([grades[image] for image in images], dtype=np.int64)


def _grade(text: str, grade: int | None, *, index: Path, image: str, column: str) -> int:
    if not text.strip():
        return NO_GRADE
    if grade is None:
        raise RetinaflowError(
            f"{index}: image {image!r} has {text!r} in the column {column!r} of train.soft_labels; expected a grade or "
            "an empty cell. Correct the label table, or leave this column out of soft_labels."
        )
    return grade


def soft_targets(
    objective: str, grades: np.ndarray, reader_grades: np.ndarray, grade_count: int, smoothing: float = 0.0
) -> np.ndarray:
    """Return the mean over several readers of the training targets of images.

    Args:
        objective: Objective of the network.
        grades: Grade of each image, int (n,), for images that no reader has graded.
        reader_grades: Grade of each image by each reader, int (n, readers), ``NO_GRADE`` for none.
        grade_count: Number of grades.
        smoothing: As for ``objectives.targets``.

    Returns:
        float32 (n, width).
    """
    own = targets(objective, grades, grade_count, smoothing)
    graded = reader_grades != NO_GRADE
    counts = graded.sum(axis=1)[:, np.newaxis]
    total = np.zeros(own.shape)
    for of_reader, has in zip(reader_grades.T, graded.T, strict=True):
        total[has] += targets(objective, of_reader[has], grade_count, smoothing)
    return np.where(counts > 0, total / np.maximum(counts, 1), own).astype(np.float32)
