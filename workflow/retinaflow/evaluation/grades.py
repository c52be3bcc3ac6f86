"""Predictions for images, made from the raw outputs of a model; and grades as tables have them."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from retinaflow.errors import RetinaflowError
from retinaflow.storage.tables import REBUILD


class Grades(NamedTuple):
    """Predictions for n images and k grades.

    Attributes:
        severity: float64 (n,), 0 to k - 1.
        probabilities: float64 (n, k), calibrated; rows sum to 1.
        argmax: int64 (n,), the grade that the raw outputs give without fitted thresholds.
        predicted: int64 (n,), the grade by fitted thresholds on the severity.
        referable: bool (n,), by a fitted operating point.
    """

    severity: np.ndarray
    probabilities: np.ndarray
    argmax: np.ndarray
    predicted: np.ndarray
    referable: np.ndarray


class Ranking(NamedTuple):
    """Scores of n images for areas under the ROC curve. They have one scale, unlike cross-fitted probabilities.

    Attributes:
        probabilities: float64 (n, k), by one decision rule for all images.
        strata: Stratum of each image, int64 (n,), such as the fold whose network scored it; None for a single stratum.
            Only pairs of images of a stratum count.
    """

    probabilities: np.ndarray
    strata: np.ndarray | None = None


@dataclass(frozen=True)
class GradeScale:
    """Grades of a test set, each of which joins grades of the models that follow each other.

    Attributes:
        names: Names of the m grades, in order of severity.
        of_grade: Grade of the scale, 0 to m - 1, for each of the k grades of the models; ascending.
    """

    names: Sequence[str]
    of_grade: Sequence[int]

    def merge(self, grades: Grades, referable_grade: int) -> Grades:
        """Return the predictions in grades of the scale. Severity and referral stay as they are.

        Of two grades that separate referable images, the predicted one is the screening decision.

        Args:
            grades: Predictions in grades of the models.
            referable_grade: Lowest referable grade of the models.
        """
        of_grade = np.array(self.of_grade, np.int64)
        is_decision = len(self.names) == 2 and self.referable_grade(referable_grade) == 1
        return grades._replace(
            probabilities=self.merge_probabilities(grades.probabilities),
            argmax=of_grade[grades.argmax],
            predicted=grades.referable.astype(np.int64) if is_decision else of_grade[grades.predicted],
        )

    def merge_probabilities(self, probabilities: np.ndarray) -> np.ndarray:
        """Return the sums of probabilities, float (n, k), over the joined grades: float64 (n, m)."""
        member = np.arange(len(self.names)) == np.array(self.of_grade)[:, np.newaxis]
        return probabilities.astype(np.float64) @ member

    def referable_grade(self, grade: int) -> int | None:
        """Return the grade of the scale that starts at a grade of the models, or None if none does."""
        found = self.of_grade[grade]
        return None if self.of_grade[grade - 1] == found else found


def parse_grades(path: str | os.PathLike[str], texts: Iterable[str], grade_count: int) -> np.ndarray:
    """Convert a column of grades to int64 (n,).

    Args:
        path: The table, for the message.
        texts: The grades as the table has them (n,).
        grade_count: Number k of grades.

    Raises:
        RetinaflowError: A text is not one of 0 to k - 1.
    """
    numbers = {str(grade): grade for grade in range(grade_count)}
    texts = list(texts)
    grades = [numbers.get(text, -1) for text in texts]
    if -1 in grades:
        row = grades.index(-1)
        found = repr(texts[row])[:100]
        raise RetinaflowError(f"{path}: row {row + 1} has grade {found}, expected 0 to {grade_count - 1}. {REBUILD}")
    return np.array(grades, np.int64)
