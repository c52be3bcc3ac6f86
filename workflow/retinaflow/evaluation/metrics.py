"""Metrics of graded photographs: agreement, discrimination, calibration, intervals, and what is to be had for free."""

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

import numpy as np
from sklearn.metrics import log_loss, precision_recall_fscore_support, roc_auc_score

from retinaflow.errors import RetinaflowError
from retinaflow.evaluation.bootstrap import CONFIDENCE, interval, kappa, replicate_figures
from retinaflow.evaluation.calibration import BINS, Reliability, reliability
from retinaflow.evaluation.grades import Grades

# Rounding to float16 moves a sum by 0.0005 at most; what is no softmax is off by more.
SUM_TOLERANCE = 1e-3
# Shares of the photographs, in per cent, that a referral curve keeps.
KEPT = (100, 90, 80, 70, 60, 50)
THIRDS = ("lowest", "middle", "highest")


def evaluate(
    actual: np.ndarray,
    grades: Grades,
    classes: Sequence[str],
    referable_grade: int,
    patients: Sequence[str],
    eyes: Sequence[str],
    replicates: int,
    seed: int,
    uncalibrated: np.ndarray | None = None,
    quality: np.ndarray | None = None,
) -> dict[str, Any]:
    """Every metric of one system on one set of photographs, as plain JSON values; None is a metric that is undefined.

    ``actual``: int (n,), class indices 0 to k - 1. ``classes``: the k names in order of severity. ``referable_grade``:
    1 to k - 1, lowest class index that counts as referable. ``patients``, ``eyes``: names (n,), an unknown eye is "".
    ``replicates`` of the bootstrap, 0 for none, are drawn by ``seed``. ``uncalibrated``: probabilities float (n, k)
    before temperature scaling. ``quality``: float (n,), higher is better.

    The result, all shares, areas and probabilities from 0 to 1, the answers ``grades.level`` unless said otherwise:

    - ``images``: n. ``patients``: how many. ``accuracy``. ``log_loss``: mean over the photographs, in nats,
      probabilities clipped to the float64 epsilon.
    - ``quadratic_weighted_kappa``: -1 to 1; Cohen, J. (1968), Weighted kappa, Psychological Bulletin 70(4), 213-220.
      None where labels and answers are all one class: chance then explains all agreement, the formula is 0 / 0.
    - ``per_class``: class, precision, recall, f1, support. Precision is None for a class never answered, recall for
      one without photographs, F1 for one with neither.
    - ``confusion_matrix``: k lists of k counts, rows actual, columns answered.
    - ``macro_auc``: unweighted mean over ``auc_classes``, those with photographs both in and outside them, of the area
      under the ROC curve of each class against the rest; Fawcett, T. (2006), An introduction to ROC analysis, Pattern
      Recognition Letters 27(8), 861-874. None if all photographs are of one class.
    - ``referable``: level, images (that are referable), auc of the summed probability of the classes from the level up,
      sensitivity and specificity of answering a class from the level up, and under ``operating_point`` those of
      ``grades.referable``. Sensitivity is None without referable photographs, specificity without others, auc without
      either.
    - ``plain``: accuracy, quadratic_weighted_kappa, sensitivity, specificity, per_class and confusion_matrix of the
      answers ``grades.plain``.
    - ``intervals``: confidence, replicates and, as [low, high], the percentile interval over patients that are drawn
      with replacement (module ``bootstrap``) of quadratic_weighted_kappa, accuracy, argmax_quadratic_weighted_kappa,
      macro_auc, referable_auc, operating_point_sensitivity and operating_point_specificity. One is None where the
      figure is undefined in more than 1 of 20 replicates; all of ``intervals`` is without replicates or with one
      patient only.
    - ``baseline``: class (the first), accuracy and quadratic_weighted_kappa of answering it for every photograph. That
      kappa is 0: a constant answer agrees as chance would.
    - ``other_eye``: accuracy and quadratic_weighted_kappa of answering the true class of the patient's other eye, over
      the ``images`` of patients with one photograph of each of two eyes; None where there are none.
    - ``calibration``: expected_calibration_error of the most probable class in ``bins`` bins (module ``calibration``);
      under ``uncalibrated`` that and log_loss before temperature scaling, or None; ``reliability``: low, high (of the
      top probability), images, confidence and accuracy of each bin, None in one without images.
    - ``referral``: what is gained where people grade the rest. For each share of ``KEPT``: ``images`` kept, the most
      certain by their top probability, and any as certain as the last of them; the least ``certainty`` among them, and
      their accuracy and quadratic_weighted_kappa.
    - ``by_quality``: None without ``quality``; else for each third, cut at the terciles, equal values in the lower:
      ``third``, images, accuracy, quadratic_weighted_kappa, and the sensitivity and specificity of
      ``grades.referable``.

    Raises ``RetinaflowError`` if shapes, types, ranges or labels are others than these.
    """
    _check(actual, grades, classes, referable_grade)
    _check_companions(len(actual), len(classes), patients, eyes, uncalibrated, quality)
    actual = actual.astype(np.int64)
    grades = grades._replace(probabilities=_normalised(grades.probabilities))
    positive = actual >= referable_grade
    aucs = {
        name: auc
        for level, name in enumerate(classes)
        if (auc := _auc(actual == level, grades.probabilities[:, level])) is not None
    }
    answered = _answers(actual, grades.level, classes, referable_grade)
    return {
        "images": len(actual),
        "patients": len(set(patients)),
        "accuracy": answered["accuracy"],
        "quadratic_weighted_kappa": answered["quadratic_weighted_kappa"],
        "intervals": _intervals(actual, grades, len(classes), referable_grade, patients, replicates, seed),
        "log_loss": float(log_loss(actual, grades.probabilities, labels=np.arange(len(classes)))),
        "macro_auc": sum(aucs.values()) / len(aucs) if aucs else None,
        "auc_classes": list(aucs),
        "referable": {
            "grade": referable_grade,
            "images": int(positive.sum()),
            "auc": _auc(positive, grades.probabilities[:, referable_grade:].sum(axis=1)),
            "sensitivity": answered["sensitivity"],
            "specificity": answered["specificity"],
            "operating_point": _sensitivity_specificity(positive, grades.referable),
        },
        "argmax": _answers(actual, grades.plain, classes, referable_grade),
        "baseline": {
            "grade_name": classes[0],
            "accuracy": float(np.mean(actual == 0)),
            "quadratic_weighted_kappa": 0.0,
        },
        "fellow_eye": _other_eye(actual, len(classes), patients, eyes),
        "calibration": _calibration(actual, grades.probabilities, uncalibrated),
        "referral": _referral(actual, grades, len(classes)),
        "by_quality": None if quality is None else _by_quality(actual, grades, len(classes), referable_grade, quality),
        "per_class": answered["per_class"],
        "confusion_matrix": answered["confusion_matrix"],
    }


def _answers(actual: np.ndarray, answers: np.ndarray, classes: Sequence[str], referable_grade: int) -> dict[str, Any]:
    """What follows from one level a photograph."""
    return {
        **_agreement(actual, answers, len(classes)),
        **_sensitivity_specificity(actual >= referable_grade, answers >= referable_grade),
        "per_class": _per_class(actual, answers, classes),
        "confusion_matrix": _confusion(actual, answers, len(classes)).tolist(),
    }


def _agreement(actual: np.ndarray, answers: np.ndarray, classes: int) -> dict[str, float | None]:
    """Accuracy and kappa; None of no photograph."""
    if len(actual) == 0:
        return {"accuracy": None, "quadratic_weighted_kappa": None}
    agreement = float(kappa(_confusion(actual, answers, classes)))
    return {
        "accuracy": float(np.mean(actual == answers)),
        "quadratic_weighted_kappa": agreement if np.isfinite(agreement) else None,
    }


def _confusion(actual: np.ndarray, answers: np.ndarray, classes: int) -> np.ndarray:
    """Counts int64 (classes, classes), rows actual."""
    # scikit-learn's looks at its input for longer than all the rest here takes.
    return np.bincount(actual * classes + answers, minlength=classes**2).reshape(classes, classes)


def _auc(positive: np.ndarray, scores: np.ndarray) -> float | None:
    """Area under the ROC curve; None unless there are both positives and negatives."""
    return float(roc_auc_score(positive, scores)) if 0 < positive.sum() < len(positive) else None


def _sensitivity_specificity(positive: np.ndarray, flagged: np.ndarray) -> dict[str, float | None]:
    return {
        "sensitivity": float(flagged[positive].mean()) if positive.any() else None,
        "specificity": float(np.mean(~flagged[~positive])) if not positive.all() else None,
    }


def _intervals(
    actual: np.ndarray,
    grades: Grades,
    classes: int,
    referable_grade: int,
    patients: Sequence[str],
    replicates: int,
    seed: int,
) -> dict[str, Any] | None:
    # One patient drawn with replacement is always the same one.
    if replicates == 0 or len(set(patients)) == 1:
        return None
    figures = replicate_figures(actual, grades, classes, referable_grade, patients, replicates, seed)
    return {
        "confidence": CONFIDENCE,
        "replicates": replicates,
        **{name: interval(values) for name, values in figures.items()},
    }


def _other_eye(actual: np.ndarray, classes: int, patients: Sequence[str], eyes: Sequence[str]) -> dict[str, Any]:
    photographs = defaultdict(list)
    for number, (patient, eye) in enumerate(zip(patients, eyes, strict=True)):
        photographs[patient].append((eye, number))
    # Of several photographs of an eye, none is the one to ask.
    pairs = [
        (first, second)
        for (one, first), (other, second) in (both for both in photographs.values() if len(both) == 2)
        if one and other and one != other
    ]
    own = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    return {"images": own.size, **_agreement(actual[own.ravel()], actual[own[:, ::-1].ravel()], classes)}


def _calibration(actual: np.ndarray, probabilities: np.ndarray, uncalibrated: np.ndarray | None) -> dict[str, Any]:
    found = reliability(actual, probabilities)
    before = None
    if uncalibrated is not None:
        raw = _normalised(uncalibrated)
        before = {
            "expected_calibration_error": reliability(actual, raw).expected_calibration_error,
            "log_loss": float(log_loss(actual, raw, labels=np.arange(raw.shape[1]))),
        }
    return {
        "bins": BINS,
        "expected_calibration_error": found.expected_calibration_error,
        "uncalibrated": before,
        "reliability": _reliability_rows(found),
    }


def _reliability_rows(found: Reliability) -> list[dict[str, Any]]:
    return [
        {
            "low": number / BINS,
            "high": (number + 1) / BINS,
            "images": int(images),
            "confidence": float(confidence) if images else None,
            "accuracy": float(accuracy) if images else None,
        }
        for number, (images, confidence, accuracy) in enumerate(zip(*found, strict=True))
    ]


def _referral(actual: np.ndarray, grades: Grades, classes: int) -> list[dict[str, Any]]:
    certainty = grades.probabilities.max(axis=1)
    descending = np.sort(certainty)[::-1]
    curve = []
    for percent in KEPT:
        # Whole numbers: 0.7 * 10 is more than 7. Rounded up, so that at least one photograph is left.
        least = descending[(percent * len(actual) + 99) // 100 - 1]
        kept = certainty >= least
        curve.append(
            {
                "share": percent / 100,
                "images": int(kept.sum()),
                "certainty": float(least),
                **_agreement(actual[kept], grades.level[kept], classes),
            }
        )
    return curve


def _by_quality(
    actual: np.ndarray, grades: Grades, classes: int, referable_grade: int, quality: np.ndarray
) -> list[dict[str, Any]]:
    third_of = np.searchsorted(np.quantile(quality, [1 / 3, 2 / 3]), quality, side="left")
    rows = []
    for number, name in enumerate(THIRDS):
        chosen = third_of == number
        rows.append(
            {
                "third": name,
                "images": int(chosen.sum()),
                **_agreement(actual[chosen], grades.level[chosen], classes),
                **_sensitivity_specificity(actual[chosen] >= referable_grade, grades.referable[chosen]),
            }
        )
    return rows


def _normalised(probabilities: np.ndarray) -> np.ndarray:
    """In float64, rows that sum to 1 but for float64 rounding."""
    exact = probabilities.astype(np.float64)
    return exact / exact.sum(axis=1, keepdims=True)


def _per_class(actual: np.ndarray, predicted: np.ndarray, classes: Sequence[str]) -> list[dict[str, Any]]:
    columns = precision_recall_fscore_support(
        actual, predicted, labels=np.arange(len(classes)), average=None, zero_division=np.nan
    )
    return [
        {
            "grade_name": name,
            **{
                figure: float(value) if np.isfinite(value) else None
                for figure, value in zip(("precision", "recall", "f1"), figures, strict=True)
            },
            "support": int(support),
        }
        for name, *figures, support in zip(classes, *columns, strict=True)
    ]


def _check(actual: np.ndarray, grades: Grades, classes: Sequence[str], referable_grade: int) -> None:
    k = len(classes)
    if k < 2:
        raise RetinaflowError(
            f"classes: found {list(classes)}, expected at least 2. Name all classes, least severe first."
        )
    if not 1 <= referable_grade < k:
        raise RetinaflowError(
            f"referable_grade: found {referable_grade}, expected 1 to {k - 1} for {k} classes. "
            "Set it to the lowest level that is referable."
        )
    if actual.ndim != 1 or actual.dtype.kind not in "iu" or len(actual) == 0:
        raise RetinaflowError(
            f"actual classes: found {actual.dtype} of shape {actual.shape}, expected at least one integer in one "
            "dimension. Give a class index for each photograph."
        )
    for name, values, kinds in (
        ("plain answers", grades.plain, "iu"),
        ("answers", grades.level, "iu"),
        ("referable", grades.referable, "b"),
    ):
        if values.shape != actual.shape or values.dtype.kind not in kinds:
            expected = "bool" if kinds == "b" else "integer"
            raise RetinaflowError(
                f"{name}: found {values.dtype} of shape {values.shape}, expected {expected} of shape {actual.shape}: "
                "one for each actual class. Check that both are of the same photographs."
            )
    for name, values in (("actual classes", actual), ("plain answers", grades.plain), ("answers", grades.level)):
        outside = np.flatnonzero((values < 0) | (values >= k))
        if len(outside):
            raise RetinaflowError(
                f"{name}: row {outside[0]} is {values[outside[0]]}, expected 0 to {k - 1}. "
                "Check the labels against the list of classes."
            )
    _check_probabilities("probabilities", grades.probabilities, len(actual), k)


def _check_probabilities(name: str, probabilities: np.ndarray, images: int, k: int) -> None:
    if probabilities.shape != (images, k) or probabilities.dtype.kind != "f":
        raise RetinaflowError(
            f"{name}: found {probabilities.dtype} of shape {probabilities.shape}, expected float of shape "
            f"{(images, k)}: a row for each of {images} actual classes, a column for each of {k} classes. "
            "Check that both come from the same model and photographs."
        )
    # NaN fails both comparisons.
    sums = probabilities.sum(axis=1, dtype=np.float64)
    bad = np.flatnonzero(~((probabilities >= 0).all(axis=1) & (np.abs(sums - 1) <= SUM_TOLERANCE)))
    if len(bad):
        raise RetinaflowError(
            f"{name}: row {bad[0]} is {probabilities[bad[0]].tolist()}, expected 0 to 1 and a sum of 1. "
            "Check that the model did not diverge."
        )


def _check_companions(
    images: int,
    k: int,
    patients: Sequence[str],
    eyes: Sequence[str],
    uncalibrated: np.ndarray | None,
    quality: np.ndarray | None,
) -> None:
    for name, values in (("patients", patients), ("eyes", eyes)):
        if len(values) != images:
            raise RetinaflowError(
                f"{name}: found {len(values)} for {images} photographs, expected one for each. Check that both are of "
                "the same photographs."
            )
    if uncalibrated is not None:
        _check_probabilities("uncalibrated probabilities", uncalibrated, images, k)
    if quality is not None and (quality.shape != (images,) or not np.isfinite(quality).all()):
        raise RetinaflowError(
            f"quality: found shape {quality.shape}, {np.isfinite(quality).sum()} of the values finite, expected a "
            f"finite number for each of {images} photographs. Score their quality again."
        )
