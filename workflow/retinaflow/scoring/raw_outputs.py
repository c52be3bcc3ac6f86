"""What systems put out for each photograph of a part, as tables, and what is made of those of several."""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from retinaflow.errors import RetinaflowError
from retinaflow.networks import objectives
from retinaflow.storage.tables import REBUILD, Row, read_table, write_table

OUTPUT_COLUMNS = ("image", "filename", "patient", "eye", "grade")
SUM_TOLERANCE = 1e-6


class Outputs(NamedTuple):
    """What a system put out for n photographs.

    n names each, int64 (n,) ``grades``, and float (n, width) ``outputs``, as its objective has them.
    """

    images: Sequence[str]
    filenames: Sequence[str]
    patients: Sequence[str]
    eyes: Sequence[str]
    grades: np.ndarray
    outputs: np.ndarray


def write_outputs(path: Path, said: Outputs, single: np.ndarray | None = None) -> None:
    """Write a row a photograph: ``OUTPUT_COLUMNS``, and ``output_0`` and so on with nine digits.

    Where the outputs are means over views, ``single``, float (n, width), are those of the photographs as they are: then
    ``no_tta_0`` and so on follow.
    """
    width, values = said.outputs.shape[1], said.outputs
    columns = [f"output_{number}" for number in range(width)]
    if single is not None:
        columns += [f"no_tta_{number}" for number in range(width)]
        values = np.hstack([values, single])
    names = zip(said.images, said.filenames, said.patients, said.eyes, said.grades.tolist(), strict=True)
    write_table(
        path,
        [*OUTPUT_COLUMNS, *columns],
        (
            {
                **dict(zip(OUTPUT_COLUMNS, row, strict=True)),
                **{column: f"{value:.9g}" for column, value in zip(columns, numbers, strict=True)},
            }
            for row, numbers in zip(names, values.tolist(), strict=True)
        ),
    )


def read_outputs(path: Path, objective: str, classes: int, kind: str = "output") -> Outputs:
    """What ``write_outputs`` wrote of a system with this ``objective``. Further columns are passed over.

    ``kind`` is ``output``, or ``single`` for the outputs of the photographs as they are in place of means over views.

    Raises ``RetinaflowError`` if the table cannot be read, has no row, lacks a column or holds what is no class or no
    output of such a system.
    """
    columns = [f"{kind}_{number}" for number in range(objectives.width(objective, classes))]
    rows: list[Row] = read_table(path, (*OUTPUT_COLUMNS, *columns))
    if not rows:
        raise RetinaflowError(f"{path}: found no photograph, expected at least one. {REBUILD}")
    indices = {str(level): level for level in range(classes)}
    grades, outputs = np.empty(len(rows), np.int64), np.empty((len(rows), len(columns)))
    for number, row in enumerate(rows):
        try:
            grades[number] = indices[row["grade"]]
            outputs[number] = [float(row[column]) for column in columns]
        except (KeyError, ValueError) as error:
            raise RetinaflowError(
                f"{path}: row {number + 1} has {str(error)[:100]}; expected a class 0 to {classes - 1} and outputs. "
                f"{REBUILD}"
            ) from error
    wrong = objectives.impossible_rows(objective, outputs)
    if objective == "softmax":
        wrong |= np.abs(outputs.sum(axis=1) - 1) > SUM_TOLERANCE
    if wrong.any():
        first = wrong.argmax()
        raise RetinaflowError(
            f"{path}: the outputs of row {first + 1} are {outputs[first].tolist()}, which are none of objective "
            f"{objective}. {REBUILD}"
        )
    images, filenames, patients, eyes = ([row[column] for row in rows] for column in OUTPUT_COLUMNS[:-1])
    return Outputs(images, filenames, patients, eyes, grades, outputs)


def pool(tables: Sequence[Path], objective: str, classes: int, pooled: Path, kind: str = "output") -> None:
    """Write the outputs for what each fold held out as one table: the ``out-of-fold`` part.

    ``tables`` are those of the folds' validation parts, ``kind`` is as for ``read_outputs``. Raises ``RetinaflowError``
    if a photograph is in two of them.
    """
    read = [read_outputs(path, objective, classes, kind) for path in tables]
    images = [image for said in read for image in said.images]
    if len(set(images)) < len(images):
        twice = next(image for image in images if images.count(image) > 1)
        raise RetinaflowError(
            f"{', '.join(map(str, tables))}: {twice!r} is in two of them; expected each photograph in one fold. "
            f"{REBUILD}"
        )
    columns = [list(column) for column in zip(*read, strict=True)]
    filenames, patients, eyes = ([name for names in column for name in names] for column in columns[1:4])
    write_outputs(pooled, Outputs(images, filenames, patients, eyes, *map(np.concatenate, columns[4:])))


def average(
    tables: Sequence[tuple[Path, str]], objective: str, classes: int, averaged: Path, kind: str = "output"
) -> None:
    """Write the mean of what several systems put out for the same photographs.

    ``tables`` are each with the objective of their system. Where these differ, the result, with the ``objective``
    ``regression``, is the mean of their severities. ``kind`` is as for ``read_outputs``. Raises ``RetinaflowError`` if
    photographs or classes are not the same.
    """
    read = [(path, its, read_outputs(path, its, classes, kind)) for path, its in tables]
    path, _, first = read[0]
    outputs = []
    for other, its, said in read:
        if (said.images, said.grades.tolist()) != (first.images, first.grades.tolist()):
            raise RetinaflowError(
                f"{other}: other photographs or classes than in {path}; expected the same in the same order. {REBUILD}"
            )
        outputs.append((its, said.outputs))
    write_outputs(averaged, first._replace(outputs=mean_outputs(outputs, objective, classes)))


def mean_outputs(outputs: Sequence[tuple[str, np.ndarray]], objective: str, classes: int) -> np.ndarray:
    """Mean float64 (n, width) of what several systems, each with its objective, put out for the same photographs.

    Where these differ from ``objective``, which is ``regression`` then, it is the mean of their severities.
    """
    alike = all(its == objective for its, _ in outputs)
    return np.mean(
        [said if alike else objectives.severity(its, said, classes)[:, np.newaxis] for its, said in outputs], axis=0
    )
