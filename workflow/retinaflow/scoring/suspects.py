"""Table of labels that may be wrong, of one model on one split."""

import numpy as np

from retinaflow.evaluation.label_errors import find_suspect_labels
from retinaflow.scoring.evidence import EvidenceRow
from retinaflow.scoring.study_images import StudyImages

SUSPECT_COLUMNS = (
    *("split", "image", "patient", "path", "grade", "suggested_grade"),
    *("probability_of_grade", "probability_of_suggestion", "margin"),
)


def suspect_rows(study: StudyImages) -> list[EvidenceRow]:
    """Rows of ``SUSPECT_COLUMNS`` of a split, the most suspect first.

    The probabilities are of networks and decision rules that do not know the patient.
    """
    usable = np.flatnonzero(np.isfinite(study.calibrated[:, 0]))
    probabilities, grades = study.calibrated[usable], study.grades[usable]
    found = find_suspect_labels(grades, probabilities)
    rows = []
    for place, suggested, margin in zip(found.places, found.suggested, found.margin, strict=True):
        described = study.columns.iloc[usable[place]]
        rows.append(
            {
                "split": study.split,
                "image": described["image"],
                "patient": study.patients[usable[place]],
                "path": described.get("path", ""),
                "grade": int(grades[place]),
                "suggested_grade": int(suggested),
                "probability_of_grade": float(probabilities[place, grades[place]]),
                "probability_of_suggestion": float(probabilities[place, suggested]),
                "margin": float(margin),
            }
        )
    return rows
