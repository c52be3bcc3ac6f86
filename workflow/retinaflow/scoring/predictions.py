"""What a system is graded as on each photograph of a part, as a table, and the metrics over all of them."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from retinaflow.evaluation.grades import Grades
from retinaflow.evaluation.metrics import evaluate
from retinaflow.networks import objectives
from retinaflow.reporting.figures import confusion_matrix_figure
from retinaflow.scoring.decision_rules import Decision, Labelled, cross_fitted, fit, grade, write_decision
from retinaflow.scoring.raw_outputs import Outputs, read_outputs
from retinaflow.storage.files import write_json
from retinaflow.storage.tables import stream_table, write_table

log = logging.getLogger(__name__)

PREDICTION_COLUMNS = ("filename", "grade_name", "grade", "predicted_grade_name", "predicted_grade")
GRADE_COLUMNS = ("patient", "eye", "severity", "argmax_grade_name", "argmax_grade", "referable")


def write_predictions(path: Path, said: Outputs, grades: Grades, classes: Sequence[str]) -> None:
    """Write a row a photograph: ``PREDICTION_COLUMNS``, ``probability_CLASS`` for each class, ``GRADE_COLUMNS``.

    The predicted class is that by thresholds, ``argmax_grade_name`` what the outputs name by themselves; ``referable``
    is 0
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
                "grade_name": classes[true],
                "grade": true,
                "predicted_grade_name": classes[level],
                "predicted_grade": level,
                **{column: f"{value:.9g}" for column, value in zip(columns, probabilities, strict=True)},
                "patient": patient,
                "eye": eye,
                "severity": f"{severity:.9g}",
                "argmax_grade_name": classes[plain],
                "argmax_grade": plain,
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
    inventories: Sequence[Path],
    classes: Sequence[str],
    referable_grade: int,
    referable_sensitivity: float,
    replicates: int,
    seed: int,
    decision: Path,
    written: Mapping[str, tuple[Path, Path, Path]],
    kind: str = "output",
) -> None:
    """Fit the decision of a system, grade its parts by it, and judge the grades with ``replicates`` of the bootstrap.

    ``outputs`` are tables of its parts. The first is what it did not train on and is fitted on; each of its photographs
    is graded by what was fitted on other patients. ``written`` are predictions, metrics and figure of each part.
    ``inventories``, where there are any, tell how good the photographs are. ``kind`` is as for ``read_outputs``.
    """
    said = {part: read_outputs(path, objective, len(classes), kind) for part, path in outputs.items()}
    held_out = next(iter(said))
    known = said[held_out]
    options = Labelled(objective, classes, known.outputs, known.levels, known.patients), referable_grade
    fitted = fit(*options, referable_sensitivity, seed)
    for part, its in said.items():
        crossed = part == held_out
        grades = cross_fitted(*options, referable_sensitivity, seed) if crossed else grade(fitted, its.outputs)
        quality = read_quality(inventories, its.images) if inventories else None
        _write_scores(system, part, its, grades, fitted, quality, replicates, seed, written[part])
    write_decision(decision, fitted)


def _write_scores(
    system: str,
    part: str,
    said: Outputs,
    grades: Grades,
    fitted: Decision,
    quality: np.ndarray | None,
    replicates: int,
    seed: int,
    written: tuple[Path, Path, Path],
) -> None:
    predictions, metrics, figure = written
    classes, level = fitted.grade_names, fitted.referable_grade
    uncalibrated = None
    # What a regression puts out is no probability before the spread around it is known.
    if fitted.objective != "regression":
        uncalibrated = objectives.grade_probabilities(fitted.objective, said.outputs, len(classes), 1.0)
    result: dict[str, Any] = evaluate(
        said.levels, grades, classes, level, said.patients, said.eyes, replicates, seed, uncalibrated, quality
    )
    write_predictions(predictions, said, grades, classes)
    backbone = system.split("/")[0]
    write_json(metrics, {"model": system, "network": backbone, "split": part, "grade_names": list(classes), **result})
    confusion_matrix_figure(figure, np.array(result["confusion_matrix"]), classes, f"{system} on {part}")
    log.info(
        "%s on %s: %d images, accuracy %.4f (always %s: %.4f), quadratic weighted kappa %s (without thresholds: %s)",
        system,
        part,
        result["images"],
        result["accuracy"],
        result["baseline"]["grade_name"],
        result["baseline"]["accuracy"],
        result["quadratic_weighted_kappa"],
        result["argmax"]["quadratic_weighted_kappa"],
    )


def read_quality(inventories: Iterable[Path], images: Sequence[str]) -> np.ndarray:
    """Quality float64 (n,), 0 to 1, of ``images`` by the tables ``inventories``; NaN where it is not known."""
    known = {
        row["image"]: float(row["quality"])
        for inventory in inventories
        for row in stream_table(inventory, ("image", "quality", "problem"))
        if not row["problem"]
    }
    return np.array([known.get(image, np.nan) for image in images], np.float64)
