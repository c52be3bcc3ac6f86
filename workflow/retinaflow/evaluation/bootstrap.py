"""How far figures would differ on other patients: resampling of patients, all photographs of a patient together.

Field, C. A. and Welsh, A. H. (2007), Bootstrapping clustered data, Journal of the Royal Statistical Society B 69(3),
369-390. The eyes of a patient are graded alike, so that n photographs tell less than n patients would: photographs
that are resampled one by one give intervals that are too narrow.
"""

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from scipy.sparse import csr_array

from retinaflow.evaluation.grades import Grades

CONFIDENCE = 0.95
# Where fewer replicates define a figure, their percentiles are those of another figure: of samples that suit it.
LEAST_DEFINED = 0.95
# Numbers in memory at a time: 32 MB of float64.
BLOCK = 2**22


def replicate_figures(
    actual: np.ndarray,
    grades: Grades,
    classes: int,
    referable_grade: int,
    patients: Sequence[str],
    replicates: int,
    seed: int,
) -> dict[str, np.ndarray]:
    """Figures of ``metrics.evaluate`` in each replicate: float64 (``replicates``,), NaN where one is undefined.

    ``actual``: int (n,), 0 to ``classes`` - 1; ``patients``: names (n,). Each replicate draws as many patients as there
    are, with replacement, by ``seed``; the order of the photographs changes nothing. ``macro_auc`` is the mean over the
    classes that have photographs both in and outside them in that replicate.
    """
    members = _patient_indices(patients)
    positive = actual >= referable_grade
    confusion = _per_patient(members, actual, grades.level, classes)
    plain = _per_patient(members, actual, grades.plain, classes)
    operating = _per_patient(members, positive, grades.referable, 2)
    one_against_rest = [_weighted_auc(actual == level, grades.probabilities[:, level]) for level in range(classes)]
    referable_auc = _weighted_auc(positive, grades.probabilities[:, referable_grade:].sum(axis=1))
    blocks = []
    for draws in _draws(members, replicates, seed, len(actual)):
        counts, flagged = _counted(draws, confusion), _counted(draws, operating)
        with np.errstate(invalid="ignore"):  # 0 / 0 is NaN, as meant
            rates = np.diagonal(flagged, axis1=1, axis2=2) / flagged.sum(axis=2)
        weights = draws[:, members]
        blocks.append(
            {
                "quadratic_weighted_kappa": kappa(counts),
                "accuracy": np.trace(counts, axis1=1, axis2=2) / counts.sum(axis=(1, 2)),
                "argmax_quadratic_weighted_kappa": kappa(_counted(draws, plain)),
                "macro_auc": _mean_of_defined(np.stack([auc(weights) for auc in one_against_rest])),
                "referable_auc": referable_auc(weights),
                "operating_point_sensitivity": rates[:, 1],
                "operating_point_specificity": rates[:, 0],
            }
        )
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def replicate_kappas(
    actual: np.ndarray, answers: Sequence[np.ndarray], classes: int, patients: Sequence[str], replicates: int, seed: int
) -> np.ndarray:
    """Quadratic weighted kappa of several ``answers`` to the same photographs: float64 (answers, ``replicates``).

    ``actual`` and each of ``answers``: int (n,). All are judged on the same replicates, so that differences between
    them lose what they share: the luck of the draw.
    """
    members = _patient_indices(patients)
    tables = [_per_patient(members, actual, answer, classes) for answer in answers]
    blocks = [
        np.stack([kappa(_counted(draws, table)) for table in tables])
        for draws in _draws(members, replicates, seed, members.max() + 1)
    ]
    return np.concatenate([np.empty((len(answers), 0)), *blocks], axis=1)


def interval(values: np.ndarray) -> list[float] | None:
    """Percentile interval [low, high] that holds ``CONFIDENCE`` of the ``values`` of replicates, float (replicates,).

    Efron, B. and Tibshirani, R. J. (1993), An Introduction to the Bootstrap, chapter 13. None where fewer than
    ``LEAST_DEFINED`` of the values are finite, and where there are none.
    """
    finite = values[np.isfinite(values)]
    if len(finite) == 0 or len(finite) < LEAST_DEFINED * len(values):
        return None
    return np.quantile(finite, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]).tolist()


def kappa(confusion: np.ndarray) -> np.ndarray:
    """Quadratic weighted kappa of each of many confusion matrices (..., k, k), rows actual: float64 (...).

    Cohen, J. (1968), Weighted kappa, Psychological Bulletin 70(4), 213-220. NaN where labels and answers are all of one
    class. scikit-learn has the same for one list of photographs: a thousand of them would take minutes.
    """
    levels = np.arange(confusion.shape[-1])
    penalty = (levels[:, np.newaxis] - levels) ** 2
    total = confusion.sum(axis=(-2, -1))
    chance = confusion.sum(axis=-1)[..., np.newaxis] * confusion.sum(axis=-2)[..., np.newaxis, :]
    with np.errstate(invalid="ignore"):
        return 1 - (penalty * confusion).sum(axis=(-2, -1)) * total / (penalty * chance).sum(axis=(-2, -1))


def _patient_indices(patients: Sequence[str]) -> np.ndarray:
    """Number of each photograph's patient in the sorted list of patients: int64 (n,)."""
    number = {name: index for index, name in enumerate(sorted(set(patients)))}
    return np.array([number[name] for name in patients], dtype=np.int64)


def _draws(members: np.ndarray, replicates: int, seed: int, width: int) -> Iterator[np.ndarray]:
    """How often each patient is drawn in each replicate: float64 (some replicates, patients), until there are enough.

    As many at a time as keep an array of ``width`` numbers a replicate within ``BLOCK``.
    """
    rng = np.random.default_rng(seed)
    patients = int(members.max()) + 1
    size = max(1, BLOCK // width)
    for first in range(0, replicates, size):
        yield np.stack(
            [
                np.bincount(rng.integers(patients, size=patients), minlength=patients).astype(np.float64)
                for _ in range(min(size, replicates - first))
            ]
        )


def _per_patient(members: np.ndarray, actual: np.ndarray, answers: np.ndarray, classes: int) -> csr_array:
    """Each patient's own confusion matrix: float64 (patients, classes * classes), by rows, which are actual."""
    shape = (int(members.max()) + 1, classes * classes)
    return csr_array((np.ones(len(members)), (members, actual * classes + answers)), shape=shape)


def _counted(draws: np.ndarray, tables: csr_array) -> np.ndarray:
    """Confusion matrix of each replicate: float64 (replicates, classes, classes)."""
    classes = math.isqrt(tables.shape[1])
    return (draws @ tables).reshape(len(draws), classes, classes)


def _weighted_auc(positive: np.ndarray, scores: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """A function from weights float64 (r, n) of photographs to areas under the ROC curve float64 (r,), NaN undefined.

    The share of pairs of a positive and a negative photograph that ``scores`` put in order, ties half: Hanley, J. A.
    and McNeil, B. J. (1982), The meaning and use of the area under a receiver operating characteristic (ROC) curve,
    Radiology 143(1), 29-36. Sorted once for all weights; scikit-learn sorts for each.
    """
    positives, negatives = np.flatnonzero(positive), np.flatnonzero(~positive)
    negatives = negatives[np.argsort(scores[negatives], kind="stable")]
    places = [np.searchsorted(scores[negatives], scores[positives], side) for side in ("left", "right")]

    def auc(weights: np.ndarray) -> np.ndarray:
        below = np.zeros((len(weights), len(negatives) + 1))
        np.cumsum(weights[:, negatives], axis=1, out=below[:, 1:])
        chosen = weights[:, positives]
        ordered = np.einsum("rp,rp->r", chosen, below[:, places[0]] + below[:, places[1]]) / 2
        with np.errstate(invalid="ignore"):
            return ordered / (chosen.sum(axis=1) * below[:, -1])

    return auc


def _mean_of_defined(values: np.ndarray) -> np.ndarray:
    """Mean of each column of ``values`` float64 (m, r) over what is no NaN: float64 (r,), NaN without any."""
    defined = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.where(defined, values, 0).sum(axis=0) / defined.sum(axis=0)
