"""Agreement of human readers with each other, of a model with each, and of a model with their majority."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np

from retinaflow.evaluation.accuracy import Estimate
from retinaflow.evaluation.bootstrap import bootstrap_kappas, interval, kappa

# Grade of an image that a reader has not graded.
NOT_GRADED = -1
MAJORITY = "majority of readers"


class Agreement(NamedTuple):
    """Quadratic weighted kappa of two readers on the images that both have graded.

    Attributes:
        reader: Name of a reader.
        other_reader: Name of the other reader, or of the model.
        images: Number of images that both have graded.
        patients: Number of their patients.
        kappa: The kappa.
    """

    reader: str
    other_reader: str
    images: int
    patients: int
    kappa: Estimate


def compare_readers(
    readers: Mapping[str, np.ndarray],
    model: tuple[str, np.ndarray],
    *,
    grade_count: int,
    patients: Sequence[str],
    samples: int,
    seed: int,
) -> list[Agreement]:
    """Compare each reader with each other, and the model with each reader and with their majority.

    Args:
        readers: Grades of each reader, int (n,), ``NOT_GRADED`` where there is none.
        model: Name and grades of the model, likewise.
        grade_count: Number of grades.
        patients: Names of the patients (n,).
        samples: Number of bootstrap samples of the patients.
        seed: Seed of the bootstrap.
    """
    pairs = [((one, readers[one]), (other, readers[other])) for one, other in combinations(readers, 2)]
    references = {**readers, MAJORITY: majority(list(readers.values()), grade_count)} if len(readers) > 1 else readers
    pairs += [((name, grades), model) for name, grades in references.items()]
    return [
        _agreement(one, other, grade_count=grade_count, patients=patients, sampling=(samples, seed))
        for one, other in pairs
    ]


def majority(grades: Sequence[np.ndarray], grade_count: int) -> np.ndarray:
    """Return the grade that most readers give; of several such grades, the highest: int64 (n,)."""
    votes = np.stack(
        [sum((of_reader == grade).astype(np.int64) for of_reader in grades) for grade in range(grade_count)]
    )
    highest = grade_count - 1 - votes[::-1].argmax(axis=0)
    return np.where(votes.sum(axis=0) > 0, highest, NOT_GRADED)


def _agreement(
    one: tuple[str, np.ndarray],
    other: tuple[str, np.ndarray],
    *,
    grade_count: int,
    patients: Sequence[str],
    sampling: tuple[int, int],
) -> Agreement:
    both = np.flatnonzero((one[1] != NOT_GRADED) & (other[1] != NOT_GRADED))
    people = [patients[place] for place in both]
    number = len(set(people))
    if not number:
        return Agreement(one[0], other[0], 0, 0, Estimate(None))
    first, second = one[1][both], other[1][both]
    counts = np.bincount(first * grade_count + second, minlength=grade_count**2).reshape(grade_count, grade_count)
    value = float(kappa(counts))
    samples, seed = sampling
    drawn = bootstrap_kappas(
        first,
        [second],
        grade_count=grade_count,
        patients=people,
        samples=samples if number > 1 else 0,
        seed=seed,
    )[0]
    low, high = interval(drawn) or (None, None)
    found = Estimate(value, low, high) if np.isfinite(value) else Estimate(None)
    return Agreement(one[0], other[0], len(both), number, found)
