"""What a system said of each photograph of a part, as tables: its outputs, and what they are graded as."""

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from retinaflow import objectives
from retinaflow.decision import Decision, Labelled, cross_fitted, fit, grade, write_decision
from retinaflow.errors import RetinaflowError
from retinaflow.figures import confusion_matrix_figure
from retinaflow.files import write_json
from retinaflow.grades import Grades
from retinaflow.metrics import evaluate
from retinaflow.tables import REBUILD, Row, read_table, write_table

log = logging.getLogger(__name__)

OUTPUT_COLUMNS = ("image", "filename", "patient", "eye", "class_index")
PREDICTION_COLUMNS = ("filename", "actual_class", "actual_class_index", "pred_class", "pred_class_index")
GRADE_COLUMNS = ("patient", "eye", "severity", "plain_class", "plain_class_index", "referable")
SUM_TOLERANCE = 1e-6


class Outputs(NamedTuple):
    """What a system put out for n photographs.

    n names each, int64 (n,) ``levels``, and float (n, width) ``outputs``, as its objective has them.
    """

    images: Sequence[str]
    filenames: Sequence[str]
    patients: Sequence[str]
    eyes: Sequence[str]
    levels: np.ndarray
    outputs: np.ndarray


def write_outputs(path: Path, said: Outputs) -> None:
    """Write a row a photograph: ``OUTPUT_COLUMNS``, and ``output_0`` and so on with nine digits."""
    columns = [f"output_{number}" for number in range(said.outputs.shape[1])]
    names = zip(said.images, said.filenames, said.patients, said.eyes, said.levels.tolist(), strict=True)
    write_table(
        path,
        [*OUTPUT_COLUMNS, *columns],
        (
            {
                **dict(zip(OUTPUT_COLUMNS, row, strict=True)),
                **{column: f"{value:.9g}" for column, value in zip(columns, values, strict=True)},
            }
            for row, values in zip(names, said.outputs.tolist(), strict=True)
        ),
    )


def read_outputs(path: Path, objective: str, classes: int) -> Outputs:
    """What ``write_outputs`` wrote of a system with this ``objective``. Further columns are passed over.

    Raises ``RetinaflowError`` if the table cannot be read, has no row, lacks a column or holds what is no class or no
    output of such a system.
    """
    columns = [f"output_{number}" for number in range(objectives.width(objective, classes))]
    rows: list[Row] = read_table(path, (*OUTPUT_COLUMNS, *columns))
    if not rows:
        raise RetinaflowError(f"{path}: found no photograph, expected at least one. {REBUILD}")
    indices = {str(level): level for level in range(classes)}
    levels, outputs = np.empty(len(rows), np.int64), np.empty((len(rows), len(columns)))
    for number, row in enumerate(rows):
        try:
            levels[number] = indices[row["class_index"]]
            outputs[number] = [float(row[column]) for column in columns]
        except (KeyError, ValueError) as error:
            raise RetinaflowError(
                f"{path}: row {number + 1} has {str(error)[:100]}; expected a class 0 to {classes - 1} and outputs. "
                f"{REBUILD}"
            ) from error
    wrong = objectives.impossible(objective, outputs)
    if objective == "softmax":
        wrong |= np.abs(outputs.sum(axis=1) - 1) > SUM_TOLERANCE
    if wrong.any():
        first = wrong.argmax()
        raise RetinaflowError(
            f"{path}: the outputs of row {first + 1} are {outputs[first].tolist()}, which are none of objective "
            f"{objective}. {REBUILD}"
        )
    images, filenames, patients, eyes = ([row[column] for row in rows] for column in OUTPUT_COLUMNS[:-1])
    return Outputs(images, filenames, patients, eyes, levels, outputs)


def write_predictions(path: Path, said: Outputs, grades: Grades, classes: Sequence[str]) -> None:
    """Write a row a photograph: ``PREDICTION_COLUMNS``, ``probability_CLASS`` for each class, ``GRADE_COLUMNS``.

    The predicted class is that by thresholds, ``plain_class`` what the outputs name by themselves; ``referable`` is 0
    or 1, by the operating point.
    """
    columns = [f"probability_{name}" for name in classes]
    answers = [
        said.levels.tolist(),
        *(values.tolist() for values in (grades.level, grades.plain, grades.severity, grades.referable)),
        grades.probabilities.tolist(),
    ]
    write_table(
        path,
        [*PREDICTION_COLUMNS, *columns, *GRADE_COLUMNS],
        (
            {
                "filename": filename,
                "actual_class": classes[true],
                "actual_class_index": true,
                "pred_class": classes[level],
                "pred_class_index": level,
                **{column: f"{value:.9g}" for column, value in zip(columns, probabilities, strict=True)},
                "patient": patient,
                "eye": eye,
                "severity": f"{severity:.9g}",
                "plain_class": classes[plain],
                "plain_class_index": plain,
                "referable": int(referable),
            }
            for filename, patient, eye, true, level, plain, severity, referable, probabilities in zip(
                said.filenames, said.patients, said.eyes, *answers, strict=True
            )
        ),
    )


def grade_system(
    system: str,
    objective: str,
    outputs: Mapping[str, Path],
    classes: Sequence[str],
    referable_level: int,
    referable_sensitivity: float,
    replicates: int,
    seed: int,
    decision: Path,
    written: Mapping[str, tuple[Path, Path, Path]],
) -> None:
    """Fit the decision of a system, grade its parts by it, and judge the grades with ``replicates`` of the bootstrap.

    ``outputs`` are tables of its parts. The first is what it did not train on and is fitted on; each of its photographs
    is graded by what was fitted on other patients. ``written`` are predictions, metrics and figure of each part.
    """
    said = {part: read_outputs(path, objective, len(classes)) for part, path in outputs.items()}
    held_out = next(iter(said))
    known = said[held_out]
    options = Labelled(objective, classes, known.outputs, known.levels, known.patients), referable_level
    fitted = fit(*options, referable_sensitivity, seed)
    for part, its in said.items():
        crossed = part == held_out
        grades = cross_fitted(*options, referable_sensitivity, seed) if crossed else grade(fitted, its.outputs)
        _write_scores(system, part, its, grades, fitted, replicates, seed, written[part])
    write_decision(decision, fitted)


def _write_scores(
    system: str,
    part: str,
    said: Outputs,
    grades: Grades,
    fitted: Decision,
    replicates: int,
    seed: int,
    written: tuple[Path, Path, Path],
) -> None:
    predictions, metrics, figure = written
    classes, level = fitted.classes, fitted.referable_level
    uncalibrated = None
    # What a regression puts out is no probability before the spread around it is known.
    if fitted.objective != "regression":
        uncalibrated = objectives.class_probabilities(fitted.objective, said.outputs, len(classes), 1.0)
    result: dict[str, Any] = evaluate(
        said.levels, grades, classes, level, said.patients, said.eyes, replicates, seed, uncalibrated
    )
    write_predictions(predictions, said, grades, classes)
    backbone = system.split("/")[0]
    write_json(metrics, {"run": system, "backbone": backbone, "part": part, "classes": list(classes), **result})
    confusion_matrix_figure(figure, np.array(result["confusion_matrix"]), classes, f"{system} on {part}")
    log.info(
        "%s on %s: %d images, accuracy %.4f (always %s: %.4f), quadratic weighted kappa %s (without thresholds: %s)",
        system,
        part,
        result["images"],
        result["accuracy"],
        result["baseline"]["class"],
        result["baseline"]["accuracy"],
        result["quadratic_weighted_kappa"],
        result["plain"]["quadratic_weighted_kappa"],
    )


def pool(tables: Sequence[Path], objective: str, classes: int, pooled: Path) -> None:
    """Write the outputs for what each fold held out as one table: the ``out-of-fold`` part.

    ``tables`` are those of the folds' validation parts. Raises ``RetinaflowError`` if a photograph is in two of them.
    """
    read = [read_outputs(path, objective, classes) for path in tables]
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


def average(tables: Sequence[tuple[Path, str]], objective: str, classes: int, averaged: Path) -> None:
    """Write the mean of what several systems put out for the same photographs.

    ``tables`` are each with the objective of their system. Where these differ, the result, with the ``objective``
    ``regression``, is the mean of their severities. Raises ``RetinaflowError`` if photographs or classes are not the
    same.
    """
    read = [(path, its, read_outputs(path, its, classes)) for path, its in tables]
    path, _, first = read[0]
    alike = all(its == objective for _, its in tables)
    outputs = []
    for other, its, said in read:
        if (said.images, said.levels.tolist()) != (first.images, first.levels.tolist()):
            raise RetinaflowError(
                f"{other}: other photographs or classes than in {path}; expected the same in the same order. {REBUILD}"
            )
        outputs.append(said.outputs if alike else objectives.severity(its, said.outputs, classes)[:, np.newaxis])
    write_outputs(averaged, first._replace(outputs=np.mean(outputs, axis=0)))
