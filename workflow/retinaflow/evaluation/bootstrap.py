"""Bootstrap of metrics over patients: all images of a patient are drawn together.

Field, C. A. and Welsh, A. H. (2007), Bootstrapping clustered data, Journal of the Royal Statistical Society B 69(3),
369-390. The eyes of a patient have similar grades, so that n images have less information than n patients. Intervals
from a bootstrap over images are too narrow.
"""

import math
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from scipy.sparse import csr_array

from retinaflow.evaluation.grades import Grades, Ranking

CONFIDENCE = 0.95
# With fewer samples that define a metric, the percentiles describe only the samples that suit it.
LEAST_DEFINED = 0.95
# Numbers in memory at a time: 32 MB of float64.
BLOCK = 2**22


def bootstrap_metrics(
    actual: np.ndarray,
    grades: Grades,
    ranking: Ranking | None = None,
    *,
    referable_grade: int,
    patients: Sequence[str],
    samples: int,
    seed: int,
) -> dict[str, np.ndarray]:
    """Compute metrics of ``metrics.evaluate`` in each bootstrap sample.

    Each sample draws as many patients as there are, with replacement. The order of the images changes nothing.
    ``macro_auc`` is the mean over the grades that have images both in and outside them in the sample.

    Args:
        actual: True grades, int (n,), 0 to k - 1.
        grades: Predictions for the same images and k grades.
        ranking: Scores for areas; without them, the probabilities.
        referable_grade: Lowest referable grade, 1 to k - 1.
        patients: Names of the patients (n,).
        samples: Number of bootstrap samples.
        seed: Seed of the draws.

    Returns:
        Each metric, float64 (samples,), NaN if it is undefined in a sample.
    """
    k = grades.probabilities.shape[1]
    members = patient_indices(patients)
    positive = actual >= referable_grade
    predicted = confusion_by_patient(members, actual, grades.predicted, k)
    argmax = confusion_by_patient(members, actual, grades.argmax, k)
    operating = confusion_by_patient(members, positive, grades.referable, 2)
    probabilities, strata = ranking or Ranking(grades.probabilities)
    one_against_rest = [weighted_auc(actual == grade, probabilities[:, grade], strata) for grade in range(k)]
    referable_auc = weighted_auc(positive, probabilities[:, referable_grade:].sum(axis=1), strata)
    blocks = []
    for draws in draw_patients(members, samples, seed, len(actual)):
        counts, flagged = drawn_confusion(draws, predicted), drawn_confusion(draws, operating)
        with np.errstate(invalid="ignore"):  # 0 / 0 is NaN, as intended
            rates = np.diagonal(flagged, axis1=1, axis2=2) / flagged.sum(axis=2)
        weights = draws[:, members]
        blocks.append(
            {
                "quadratic_weighted_kappa": kappa(counts),
                "accuracy": np.trace(counts, axis1=1, axis2=2) / counts.sum(axis=(1, 2)),
                "argmax_quadratic_weighted_kappa": kappa(drawn_confusion(draws, argmax)),
                "macro_auc": _mean_of_defined(np.stack([auc(weights) for auc in one_against_rest])),
                "referable_auc": referable_auc(weights),
                "operating_point_sensitivity": rates[:, 1],
                "operating_point_specificity": rates[:, 0],
            }
        )
    return {name: np.concatenate([block[name] for block in blocks]) for name in blocks[0]}


def bootstrap_kappas(
    actual: np.ndarray,
    predictions: Sequence[np.ndarray],
    *,
    grade_count: int,
    patients: Sequence[str],
    samples: int,
    seed: int,
) -> np.ndarray:
    """Compute the quadratic weighted kappa of several ``predictions`` for the same images.

    All use the same bootstrap samples, so that the chance of the draw cancels in differences between them.

    Args:
        actual: True grades, int (n,), 0 to k - 1.
        predictions: Predicted grades, each int (n,).
        grade_count: Number k of grades.
        patients: Names of the patients (n,).
        samples: Number of bootstrap samples.
        seed: Seed of the draws.

    Returns:
        Kappas float64 (predictions, samples), NaN where undefined.
    """
    members = patient_indices(patients)
    tables = [confusion_by_patient(members, actual, predicted, grade_count) for predicted in predictions]
    blocks = [
        np.stack([kappa(drawn_confusion(draws, table)) for table in tables])
        for draws in draw_patients(members, samples, seed, members.max() + 1)
    ]
    return np.concatenate([np.empty((len(predictions), 0)), *blocks], axis=1)


def bootstrap_auc(
    positive: np.ndarray,
    ranking: tuple[np.ndarray, np.ndarray | None],
    *,
    patients: Sequence[str],
    samples: int,
    seed: int,
) -> np.ndarray:
    """Compute the area under the ROC curve in the bootstrap samples of ``bootstrap_metrics``.

    Args:
        positive: Truth of each image, bool (n,).
        ranking: Scores, float (n,), and strata, as of ``weighted_auc``.
        patients: Names of the patients (n,).
        samples: Number of bootstrap samples.
        seed: Seed of the draws.

    Returns:
        float64 (samples,), NaN where undefined.
    """
    members = patient_indices(patients)
    area = weighted_auc(positive, *ranking)
    blocks = [area(draws[:, members]) for draws in draw_patients(members, samples, seed, len(members))]
    return np.concatenate([np.empty(0), *blocks])


def interval(values: np.ndarray) -> list[float] | None:
    """Percentile interval [low, high] that contains ``CONFIDENCE`` of the ``values`` of bootstrap samples, float (m,).

    Efron, B. and Tibshirani, R. J. (1993), An Introduction to the Bootstrap, chapter 13. None if fewer than
    ``LEAST_DEFINED`` of the values are finite, or if there are none.
    """
    finite = values[np.isfinite(values)]
    if len(finite) == 0 or len(finite) < LEAST_DEFINED * len(values):
        return None
    return np.quantile(finite, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2]).tolist()


def kappa(confusion: np.ndarray) -> np.ndarray:
    """Quadratic weighted kappa of each of many confusion matrices (..., k, k), rows actual: float64 (...).

    Cohen, J. (1968), Weighted kappa, Psychological Bulletin 70(4), 213-220. NaN if true and predicted grades are all
    the same grade. The function of scikit-learn takes one list of images: a thousand samples would need minutes.
    """
    grades = np.arange(confusion.shape[-1])
    penalty = (grades[:, np.newaxis] - grades) ** 2
    total = confusion.sum(axis=(-2, -1))
    chance = confusion.sum(axis=-1)[..., np.newaxis] * confusion.sum(axis=-2)[..., np.newaxis, :]
    with np.errstate(invalid="ignore"):
        return 1 - (penalty * confusion).sum(axis=(-2, -1)) * total / (penalty * chance).sum(axis=(-2, -1))


def patient_indices(patients: Sequence[str]) -> np.ndarray:
    """Index of the patient of each image in the sorted list of patients: int64 (n,)."""
    number = {name: index for index, name in enumerate(sorted(set(patients)))}
    return np.array([number[name] for name in patients], dtype=np.int64)


def draw_patients(members: np.ndarray, samples: int, seed: int, width: int) -> Iterator[np.ndarray]:
    """Yield how often each patient is in each bootstrap sample: float64 (some samples, patients).

    An array of ``width`` numbers for each of these samples has at most ``BLOCK`` numbers.
    """
    rng = np.random.default_rng(seed)
    patients = int(members.max()) + 1
    size = max(1, BLOCK // width)
    for first in range(0, samples, size):
        yield np.stack(
            [
                np.bincount(rng.integers(patients, size=patients), minlength=patients).astype(np.float64)
                for _ in range(min(size, samples - first))
            ]
        )


def confusion_by_patient(members: np.ndarray, actual: np.ndarray, predicted: np.ndarray, k: int) -> csr_array:
    """Confusion matrix of each patient: float64 (patients, k * k), by rows, which are actual."""
    shape = (int(members.max()) + 1, k * k)
    return csr_array((np.ones(len(members)), (members, actual * k + predicted)), shape=shape)


def drawn_confusion(draws: np.ndarray, tables: csr_array) -> np.ndarray:
    """Confusion matrix of each bootstrap sample: float64 (samples, k, k)."""
    k = math.isqrt(tables.shape[1])
    return (draws @ tables).reshape(len(draws), k, k)


def weighted_auc(
    positive: np.ndarray, scores: np.ndarray, strata: np.ndarray | None = None
) -> Callable[[np.ndarray], np.ndarray]:
    """Return a function from weights of images, float64 (r, n), to areas under the ROC curve, float64 (r,).

    The area is the share of pairs of a positive and a negative image that ``scores`` put in order, ties half: Hanley,
    J. A. and McNeil, B. J. (1982), The meaning and use of the area under a receiver operating characteristic (ROC)
    curve, Radiology 143(1), 29-36. It is NaN where undefined. The scores are sorted once for all weights; scikit-learn
    sorts them for each.

    Args:
        positive: Truth of each image, bool (n,).
        scores: Score of each image, float (n,).
        strata: Stratum of each image, int (n,). Only pairs within a stratum count. Scores of different networks, such
            as those of folds, have no common scale: Forman, G. and Scholz, M. (2010), Apples-to-apples in
            cross-validation studies, ACM SIGKDD Explorations 12(1), 49-57.
    """
    numbers = (
        [np.arange(len(scores))] if strata is None else [np.flatnonzero(strata == one) for one in np.unique(strata)]
    )
    of_strata = [_ordered_pairs(positive, scores, of_stratum) for of_stratum in numbers]

    def auc(weights: np.ndarray) -> np.ndarray:
        ordered, pairs = np.sum([count(weights) for count in of_strata], axis=0)
        with np.errstate(invalid="ignore"):
            return ordered / pairs

    return auc


def _ordered_pairs(
    positive: np.ndarray, scores: np.ndarray, chosen: np.ndarray
) -> Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Return a function from weights of images to the ordered and all pairs of the ``chosen`` images, each (r,)."""
    positives, negatives = chosen[positive[chosen]], chosen[~positive[chosen]]
    negatives = negatives[np.argsort(scores[negatives], kind="stable")]
    places = [np.searchsorted(scores[negatives], scores[positives], side) for side in ("left", "right")]

    def count(weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        below = np.zeros((len(weights), len(negatives) + 1))
        np.cumsum(weights[:, negatives], axis=1, out=below[:, 1:])
        of_positives = weights[:, positives]
        ordered = np.einsum("rp,rp->r", of_positives, below[:, places[0]] + below[:, places[1]]) / 2
        return ordered, of_positives.sum(axis=1) * below[:, -1]

    return count


def _mean_of_defined(values: np.ndarray) -> np.ndarray:
    """Mean of each column of ``values``, float64 (m, r), without NaN: float64 (r,), NaN for a column of NaN."""
    defined = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.where(defined, values, 0).sum(axis=0) / defined.sum(axis=0)
