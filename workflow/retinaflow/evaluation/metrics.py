"""Metrics of predicted grades: agreement, discrimination, calibration, intervals and baselines.

``evaluate`` returns plain JSON values. Shares, areas and probabilities are 0 to 1; None is an undefined metric.

- ``images``, ``patients``: numbers of them. ``log_loss``: mean over the images, in nats, with probabilities clipped to
  the float64 epsilon.
- ``accuracy``, ``quadratic_weighted_kappa``: of the predicted grades. Kappa is -1 to 1; Cohen, J. (1968), Weighted
  kappa, Psychological Bulletin 70(4), 213-220. It is None if true and predicted grades are all the same grade: the
  formula is 0 / 0 then.
- ``per_class``: grade_name, precision, recall, f1 and support of each grade. Precision is None for a grade that is
  never predicted, recall for one without images, F1 for one with neither.
- ``confusion_matrix``: k lists of k counts, rows actual, columns predicted.
- ``macro_auc``: unweighted mean over ``auc_classes`` of the area under the ROC curve of each grade against the rest.
  These grades have images both in and outside them. Fawcett, T. (2006), An introduction to ROC analysis, Pattern
  Recognition Letters 27(8), 861-874. None if all images have the same grade.
- ``referable``: grade; images with this grade or a worse one; auc of the summed probability of these grades. Their
  sensitivity and specificity are those of the predicted grades, and under ``operating_point`` of ``grades.referable``.
  Sensitivity is None without referable images, specificity without others, auc without either. All of it is None if
  no grade of the labels starts at the lowest referable one (``without_referable``).
- ``argmax``: accuracy, quadratic_weighted_kappa, sensitivity, specificity, per_class and confusion_matrix of
  ``grades.argmax``.
- ``intervals``: confidence, bootstrap_samples and, as [low, high], the percentile intervals over patients that are
  drawn with replacement (module ``bootstrap``). An interval is None if its metric is undefined in more than 1 of 20
  samples. All of ``intervals`` is None without samples or with a single patient.
- ``baseline``: grade_name (the first), accuracy and quadratic_weighted_kappa of this prediction for every image. The
  kappa is 0: a constant prediction agrees as expected by chance.
- ``fellow_eye``: accuracy and quadratic_weighted_kappa of the true grade of the fellow eye as prediction, over the
  ``images`` of patients with one image of each of two eyes. None if there are none.
- ``calibration``: expected_calibration_error of the most probable grade in ``bins`` bins (module ``calibration``).
  Its ``uncalibrated`` is this error and log_loss before temperature scaling, or None. Its ``reliability`` has low and
  high (of the top probability), images, confidence and accuracy of each bin; None in a bin without images.
- ``referral``: the gain if people grade the least certain images. For each share of ``RETAINED``: ``images`` that are
  retained, the least ``certainty`` (top probability) among them, their accuracy and quadratic_weighted_kappa. Images
  as certain as the last one are retained too.
- ``by_quality``: None without ``quality``; otherwise for each third, cut at the terciles, with equal values in the
  lower third: ``third``, images, accuracy, quadratic_weighted_kappa, and sensitivity and specificity of
  ``grades.referable``.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from sklearn.metrics import log_loss, precision_recall_fscore_support, roc_auc_score

from retinaflow.errors import RetinaflowError
from retinaflow.evaluation.bootstrap import CONFIDENCE, bootstrap_metrics, interval, kappa, weighted_auc
from retinaflow.evaluation.calibration import BINS, Reliability, reliability
from retinaflow.evaluation.grades import Grades, Ranking

# Rounding to float16 moves a sum by 0.0005 at most; other faults move it by more.
SUM_TOLERANCE = 1e-3
# Shares of the images, in per cent, that a referral curve retains.
RETAINED = (100, 90, 80, 70, 60, 50)
THIRDS = ("lowest", "middle", "highest")


def evaluate(
    actual: np.ndarray,
    grades: Grades,
    *,
    grade_names: Sequence[str],
    referable_grade: int,
    patients: Sequence[str],
    eyes: Sequence[str],
    bootstrap_samples: int,
    seed: int,
    uncalibrated: np.ndarray | None = None,
    quality: np.ndarray | None = None,
    ranking: Ranking | None = None,
) -> dict[str, Any]:
    """Compute every metric of one model on one split.

    Args:
        actual: True grades, int (n,), 0 to k - 1.
        grades: Predictions for the same images.
        grade_names: Names of the k grades, in order of severity.
        referable_grade: Lowest referable grade, 1 to k - 1.
        patients: Names of the patients (n,).
        eyes: Names of the eyes (n,), "" for an unknown eye.
        bootstrap_samples: Number of bootstrap samples, 0 for no intervals.
        seed: Seed of the bootstrap.
        uncalibrated: Probabilities before temperature scaling, float (n, k).
        quality: Image quality, float (n,), higher is better.
        ranking: Scores for areas, if the probabilities are of several decision rules or networks.

    Returns:
        The metrics, as described above in this module.

    Raises:
        RetinaflowError: Shapes, types, ranges or grades differ from these.
    """
    _check(actual, grades, grade_names, referable_grade)
    _check_companions(_Companions(patients, eyes, uncalibrated, quality), len(actual), len(grade_names))
    actual = actual.astype(np.int64)
    grades = grades._replace(probabilities=_normalised(grades.probabilities))
    ranking, sampling = ranking or Ranking(grades.probabilities), _Sampling(patients, bootstrap_samples, seed)
    k = len(grade_names)
    predicted = _of_predictions(actual, grades.predicted, grade_names, referable_grade)
    return {
        "images": len(actual),
        "patients": len(set(patients)),
        "accuracy": predicted["accuracy"],
        "quadratic_weighted_kappa": predicted["quadratic_weighted_kappa"],
        "intervals": _intervals(actual, grades, ranking, referable_grade=referable_grade, sampling=sampling),
        "log_loss": float(log_loss(actual, grades.probabilities, labels=np.arange(k))),
        **_macro_auc(actual, ranking, grade_names),
        "referable": _referable(actual, grades, ranking, referable_grade, predicted=predicted),
        "argmax": _of_predictions(actual, grades.argmax, grade_names, referable_grade),
        "baseline": _baseline(actual, grade_names),
        "fellow_eye": _fellow_eye(actual, k, patients, eyes),
        "calibration": _calibration(actual, grades.probabilities, uncalibrated),
        "referral": _referral(actual, grades, k),
        "by_quality": None if quality is None else _by_quality(actual, grades, referable_grade, quality),
        "per_class": predicted["per_class"],
        "confusion_matrix": predicted["confusion_matrix"],
    }


def without_referable(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return ``metrics`` for images of unknown referability: all that depends on it is None."""
    unknown = {"sensitivity": None, "specificity": None}
    intervals = metrics["intervals"] and {
        name: None if name.startswith(("referable", "operating_point")) else values
        for name, values in metrics["intervals"].items()
    }
    return {
        **metrics,
        "intervals": intervals,
        "referable": {"grade": None, "images": None, "auc": None, **unknown, "operating_point": unknown},
        "argmax": {**metrics["argmax"], **unknown},
        "by_quality": metrics["by_quality"] and [{**third, **unknown} for third in metrics["by_quality"]],
    }


def _macro_auc(actual: np.ndarray, ranking: Ranking, grade_names: Sequence[str]) -> dict[str, Any]:
    aucs = {
        name: auc
        for grade, name in enumerate(grade_names)
        if (auc := _auc(actual == grade, ranking.probabilities[:, grade], ranking.strata)) is not None
    }
    return {"macro_auc": sum(aucs.values()) / len(aucs) if aucs else None, "auc_classes": list(aucs)}


def _referable(
    actual: np.ndarray, grades: Grades, ranking: Ranking, referable_grade: int, *, predicted: Mapping[str, Any]
) -> dict[str, Any]:
    positive = actual >= referable_grade
    return {
        "grade": referable_grade,
        "images": int(positive.sum()),
        "auc": _auc(positive, ranking.probabilities[:, referable_grade:].sum(axis=1), ranking.strata),
        "sensitivity": predicted["sensitivity"],
        "specificity": predicted["specificity"],
        "operating_point": _sensitivity_specificity(positive, grades.referable),
    }


def _of_predictions(
    actual: np.ndarray, predicted: np.ndarray, grade_names: Sequence[str], referable_grade: int
) -> dict[str, Any]:
    """Metrics that need one predicted grade an image."""
    return {
        **_agreement(actual, predicted, len(grade_names)),
        **_sensitivity_specificity(actual >= referable_grade, predicted >= referable_grade),
        "per_class": _per_grade(actual, predicted, grade_names),
        "confusion_matrix": _confusion(actual, predicted, len(grade_names)).tolist(),
    }


def _agreement(actual: np.ndarray, predicted: np.ndarray, k: int) -> dict[str, float | None]:
    """Accuracy and kappa; None without images."""
    if len(actual) == 0:
        return {"accuracy": None, "quadratic_weighted_kappa": None}
    agreement = float(kappa(_confusion(actual, predicted, k)))
    return {
        "accuracy": float(np.mean(actual == predicted)),
        "quadratic_weighted_kappa": agreement if np.isfinite(agreement) else None,
    }


def _confusion(actual: np.ndarray, predicted: np.ndarray, k: int) -> np.ndarray:
    """Counts int64 (k, k), rows actual."""
    # Checks of its input make the function of scikit-learn slower than all other metrics together.
    return np.bincount(actual * k + predicted, minlength=k**2).reshape(k, k)


def _auc(positive: np.ndarray, scores: np.ndarray, strata: np.ndarray | None) -> float | None:
    """Area under the ROC curve; None unless there are pairs of a positive and a negative."""
    if not 0 < positive.sum() < len(positive):
        return None
    if strata is None:
        return float(roc_auc_score(positive, scores))
    area = float(weighted_auc(positive, scores, strata)(np.ones((1, len(positive))))[0])
    return area if np.isfinite(area) else None


def _sensitivity_specificity(positive: np.ndarray, flagged: np.ndarray) -> dict[str, float | None]:
    return {
        "sensitivity": float(flagged[positive].mean()) if positive.any() else None,
        "specificity": float(np.mean(~flagged[~positive])) if not positive.all() else None,
    }


class _Sampling(NamedTuple):
    """Patient of each image, and number and seed of the bootstrap samples."""

    patients: Sequence[str]
    samples: int
    seed: int


def _intervals(
    actual: np.ndarray, grades: Grades, ranking: Ranking, *, referable_grade: int, sampling: _Sampling
) -> dict[str, Any] | None:
    # With a single patient, all bootstrap samples are the same.
    if not sampling.samples or len(set(sampling.patients)) < 2:
        return None
    drawn = bootstrap_metrics(actual, grades, ranking, referable_grade=referable_grade, **sampling._asdict())
    return {
        "confidence": CONFIDENCE,
        "bootstrap_samples": sampling.samples,
        **{name: interval(values) for name, values in drawn.items()},
    }


def _baseline(actual: np.ndarray, grade_names: Sequence[str]) -> dict[str, Any]:
    return {
        "grade_name": grade_names[0],
        "accuracy": float(np.mean(actual == 0)),
        "quadratic_weighted_kappa": 0.0,
    }


def _fellow_eye(actual: np.ndarray, k: int, patients: Sequence[str], eyes: Sequence[str]) -> dict[str, Any]:
    images = defaultdict(list)
    for number, (patient, eye) in enumerate(zip(patients, eyes, strict=True)):
        if eye:
            images[patient].append((eye, number))
    own, fellow_grades = [], []
    for members in images.values():
        if len({eye for eye, _ in members}) != 2:
            continue
        for eye, number in members:
            own.append(number)
            # The grade of an eye is that of its worst image.
            fellow_grades.append(max(actual[other] for other_eye, other in members if other_eye != eye))
    compared = actual[np.array(own, dtype=np.int64)], np.array(fellow_grades, dtype=actual.dtype)
    return {"images": len(own), **_agreement(*compared, k)}


def _calibration(actual: np.ndarray, probabilities: np.ndarray, uncalibrated: np.ndarray | None) -> dict[str, Any]:
    diagram = reliability(actual, probabilities)
    before = None
    if uncalibrated is not None:
        raw = _normalised(uncalibrated)
        before = {
            "expected_calibration_error": reliability(actual, raw).expected_calibration_error,
            "log_loss": float(log_loss(actual, raw, labels=np.arange(raw.shape[1]))),
        }
    return {
        "bins": BINS,
        "expected_calibration_error": diagram.expected_calibration_error,
        "uncalibrated": before,
        "reliability": _reliability_rows(diagram),
    }


def _reliability_rows(diagram: Reliability) -> list[dict[str, Any]]:
    return [
        {
            "low": number / BINS,
            "high": (number + 1) / BINS,
            "images": int(images),
            "confidence": float(confidence) if images else None,
            "accuracy": float(accuracy) if images else None,
        }
        for number, (images, confidence, accuracy) in enumerate(zip(*diagram, strict=True))
    ]


def _referral(actual: np.ndarray, grades: Grades, k: int) -> list[dict[str, Any]]:
    certainty = grades.probabilities.max(axis=1)
    descending = np.sort(certainty)[::-1]
    curve = []
    for percent in RETAINED:
        # Integers, since 0.7 * 10 is more than 7. Rounded up, so that at least one image is left.
        least = descending[(percent * len(actual) + 99) // 100 - 1]
        retained = certainty >= least
        curve.append(
            {
                "share": percent / 100,
                "images": int(retained.sum()),
                "certainty": float(least),
                **_agreement(actual[retained], grades.predicted[retained], k),
            }
        )
    return curve


def _by_quality(actual: np.ndarray, grades: Grades, referable_grade: int, quality: np.ndarray) -> list[dict[str, Any]]:
    third_of = np.searchsorted(np.quantile(quality, [1 / 3, 2 / 3]), quality, side="left")
    rows = []
    for number, name in enumerate(THIRDS):
        chosen = third_of == number
        rows.append(
            {
                "third": name,
                "images": int(chosen.sum()),
                **_agreement(actual[chosen], grades.predicted[chosen], grades.probabilities.shape[1]),
                **_sensitivity_specificity(actual[chosen] >= referable_grade, grades.referable[chosen]),
            }
        )
    return rows


def _normalised(probabilities: np.ndarray) -> np.ndarray:
    """Convert to float64, with rows that sum to 1 except for float64 rounding."""
    exact = probabilities.astype(np.float64)
    return exact / exact.sum(axis=1, keepdims=True)


def _per_grade(actual: np.ndarray, predicted: np.ndarray, grade_names: Sequence[str]) -> list[dict[str, Any]]:
    columns = precision_recall_fscore_support(
        actual, predicted, labels=np.arange(len(grade_names)), average=None, zero_division=np.nan
    )
    return [
        {
            "grade_name": name,
            **{
                metric: float(value) if np.isfinite(value) else None
                for metric, value in zip(("precision", "recall", "f1"), values, strict=True)
            },
            "support": int(support),
        }
        for name, *values, support in zip(grade_names, *columns, strict=True)
    ]


def _check(actual: np.ndarray, grades: Grades, grade_names: Sequence[str], referable_grade: int) -> None:
    k = len(grade_names)
    if k < 2:
        raise RetinaflowError(
            f"grade_names: found {list(grade_names)}, expected at least 2. Name all grades, least severe first."
        )
    if not 1 <= referable_grade < k:
        raise RetinaflowError(
            f"referable_grade: found {referable_grade}, expected 1 to {k - 1} for {k} grades. "
            "Set it to the lowest grade that is referable."
        )
    if actual.ndim != 1 or actual.dtype.kind not in "iu" or len(actual) == 0:
        raise RetinaflowError(
            f"actual grades: found {actual.dtype} of shape {actual.shape}, expected at least one integer in one "
            "dimension. Give a grade for each image."
        )
    _check_types(len(actual), grades)
    for name, values in (
        ("actual grades", actual),
        ("argmax grades", grades.argmax),
        ("predicted grades", grades.predicted),
    ):
        outside = np.flatnonzero((values < 0) | (values >= k))
        if len(outside):
            raise RetinaflowError(
                f"{name}: row {outside[0]} is {values[outside[0]]}, expected 0 to {k - 1}. "
                "Check the labels against the list of grade names."
            )
    _check_probabilities("probabilities", grades.probabilities, len(actual), k)


def _check_types(images: int, grades: Grades) -> None:
    for name, values, kinds in (
        ("argmax grades", grades.argmax, "iu"),
        ("predicted grades", grades.predicted, "iu"),
        ("referable", grades.referable, "b"),
    ):
        if values.shape != (images,) or values.dtype.kind not in kinds:
            expected = "bool" if kinds == "b" else "integer"
            raise RetinaflowError(
                f"{name}: found {values.dtype} of shape {values.shape}, expected {expected} of shape {(images,)}: "
                "one for each actual grade. Check that both belong to the same images."
            )


def _check_probabilities(name: str, probabilities: np.ndarray, images: int, k: int) -> None:
    if probabilities.shape != (images, k) or probabilities.dtype.kind != "f":
        raise RetinaflowError(
            f"{name}: found {probabilities.dtype} of shape {probabilities.shape}, expected float of shape "
            f"{(images, k)}: a row for each of {images} actual grades, a column for each of {k} grades. "
            "Check that both are of the same model and images."
        )
    # NaN fails both comparisons.
    sums = probabilities.sum(axis=1, dtype=np.float64)
    bad = np.flatnonzero(~((probabilities >= 0).all(axis=1) & (np.abs(sums - 1) <= SUM_TOLERANCE)))
    if len(bad):
        raise RetinaflowError(
            f"{name}: row {bad[0]} is {probabilities[bad[0]].tolist()}, expected 0 to 1 and a sum of 1. "
            "Check that the model did not diverge."
        )


class _Companions(NamedTuple):
    """Arguments of ``evaluate`` that have a row for each true grade."""

    patients: Sequence[str]
    eyes: Sequence[str]
    uncalibrated: np.ndarray | None
    quality: np.ndarray | None


def _check_companions(companions: _Companions, images: int, k: int) -> None:
    patients, eyes, uncalibrated, quality = companions
    for name, values in (("patients", patients), ("eyes", eyes)):
        if len(values) != images:
            raise RetinaflowError(
                f"{name}: found {len(values)} for {images} images, expected one for each. Check that both belong to "
                "the same images."
            )
    if uncalibrated is not None:
        _check_probabilities("uncalibrated probabilities", uncalibrated, images, k)
    if quality is not None and (quality.shape != (images,) or not np.isfinite(quality).all()):
        raise RetinaflowError(
            f"quality: found shape {quality.shape}, {np.isfinite(quality).sum()} of the values finite, expected a "
            f"finite number for each of {images} images. Compute the image quality again."
        )
