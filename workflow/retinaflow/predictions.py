"""What a model said of each photograph of a part, as a table, and the metrics over all of them."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from retinaflow.errors import RetinaflowError
from retinaflow.figures import confusion_matrix_figure
from retinaflow.files import write_json
from retinaflow.grades import Grades
from retinaflow.metrics import evaluate
from retinaflow.tables import REBUILD, Row, read_table, write_table

log = logging.getLogger(__name__)

PREDICTION_COLUMNS = ("filename", "actual_class", "actual_class_index", "pred_class", "pred_class_index")
SUM_TOLERANCE = 1e-6


def write_predictions(
    path: Path, filenames: Sequence[str], actual: np.ndarray, probabilities: np.ndarray, classes: Sequence[str]
) -> None:
    """Write a row a photograph: ``PREDICTION_COLUMNS`` and a column ``probability_CLASS`` for each class."""
    columns = [f"probability_{name}" for name in classes]
    predicted = probabilities.argmax(axis=1)
    write_table(
        path,
        [*PREDICTION_COLUMNS, *columns],
        (
            {
                "filename": filename,
                "actual_class": classes[true],
                "actual_class_index": true,
                "pred_class": classes[guess],
                "pred_class_index": guess,
                **{column: f"{value:.9g}" for column, value in zip(columns, row, strict=True)},
            }
            for filename, true, guess, row in zip(
                filenames, actual.tolist(), predicted.tolist(), probabilities.tolist(), strict=True
            )
        ),
    )


def read_predictions(path: Path, classes: Sequence[str]) -> tuple[list[str], np.ndarray, np.ndarray]:
    """Filenames, actual class indices int64 (n,) and probabilities float64 (n, classes) of ``write_predictions``.

    Raises ``RetinaflowError`` if the table cannot be read, lacks a class or holds what is no class or probability.
    """
    columns = [f"probability_{name}" for name in classes]
    rows: list[Row] = read_table(path, (*PREDICTION_COLUMNS, *columns))
    indices = {str(level): level for level in range(len(classes))}
    actual = np.empty(len(rows), np.int64)
    probabilities = np.empty((len(rows), len(columns)))
    for number, row in enumerate(rows):
        try:
            actual[number] = indices[row["actual_class_index"]]
            probabilities[number] = [float(row[column]) for column in columns]
        except (KeyError, ValueError) as error:
            raise RetinaflowError(
                f"{path}: row {number + 1} has {str(error)[:100]}; expected a class 0 to {len(classes) - 1} and "
                f"probabilities. {REBUILD}"
            ) from error
    # Written with nine digits. NaN fails each comparison.
    right = (probabilities >= 0).all(axis=1) & (np.abs(probabilities.sum(axis=1) - 1) < SUM_TOLERANCE)
    if not right.all():
        raise RetinaflowError(
            f"{path}: the probabilities of row {right.argmin() + 1} are {probabilities[right.argmin()].tolist()}; "
            f"expected numbers from 0 to 1 that add up to 1. {REBUILD}"
        )
    return [row["filename"] for row in rows], actual, probabilities


def write_scores(
    run: str,
    backbone: str,
    part: str,
    filenames: Sequence[str],
    actual: np.ndarray,
    probabilities: np.ndarray,
    classes: Sequence[str],
    referable_level: int,
    predictions: Path,
    metrics: Path,
    figure: Path,
) -> None:
    """Write predictions, metrics and confusion matrix of one model on one part.

    ``actual``: int (n,); ``probabilities``: float (n, classes).
    """
    write_predictions(predictions, filenames, actual, probabilities, classes)
    level = probabilities.argmax(axis=1)
    severity = probabilities @ np.arange(len(classes))
    grades = Grades(severity, probabilities, level, level, level >= referable_level)
    # Who the patients are is not known here: no intervals rather than too narrow ones.
    unknown = [""] * len(actual)
    result: dict[str, Any] = evaluate(actual, grades, classes, referable_level, unknown, unknown, 0, 0)
    write_json(metrics, {"run": run, "backbone": backbone, "part": part, "classes": list(classes), **result})
    confusion_matrix_figure(figure, np.array(result["confusion_matrix"]), classes, f"{run} on {part}")
    log.info(
        "%s on %s: %d images, accuracy %.4f (always %s: %.4f), quadratic weighted kappa %s",
        run,
        part,
        result["images"],
        result["accuracy"],
        result["baseline"]["class"],
        result["baseline"]["accuracy"],
        result["quadratic_weighted_kappa"],
    )


def pool(
    backbone: str,
    folds: Sequence[Path],
    classes: Sequence[str],
    referable_level: int,
    predictions: Path,
    metrics: Path,
    figure: Path,
) -> None:
    """Score the held-out predictions of all folds together, as one set: the ``out-of-fold`` part.

    ``folds`` are the prediction tables of the folds' validation parts.
    """
    read = [read_predictions(path, classes) for path in folds]
    write_scores(
        backbone,
        backbone,
        "out-of-fold",
        [name for names, _, _ in read for name in names],
        np.concatenate([actual for _, actual, _ in read]),
        np.concatenate([probabilities for _, _, probabilities in read]),
        classes,
        referable_level,
        predictions,
        metrics,
        figure,
    )
