"""Metrics: cases computed by hand, undefined values, and invariants."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from common import grades_of
from retinaflow.errors import RetinaflowError
from retinaflow.evaluation.bootstrap import bootstrap_metrics, interval
from retinaflow.evaluation.metrics import evaluate

FIVE = ["class0", "class1", "class2", "class3", "class4"]


def sure(predicted: list[int], k: int) -> np.ndarray:
    """Return probabilities of 1 for the predicted grades."""
    return np.eye(k)[predicted]


def metrics_of(
    actual: np.ndarray, probabilities: np.ndarray, classes: list[str], grade: int, **options: Any
) -> dict[str, Any]:
    """Return the metrics of the most probable grades, with one patient an image and without bootstrap."""
    names = [str(number) for number in range(len(actual))]
    usual = {"patients": names, "eyes": [""] * len(actual), "bootstrap_samples": 0, "seed": 0}
    return evaluate(
        actual,
        grades_of(probabilities, grade),
        **{"grade_names": classes, "referable_grade": grade, **usual, **options},
    )


def graded(actual: list[int], predicted: list[int], k: int, referable_grade: int = 1, **options: Any) -> dict[str, Any]:
    return metrics_of(np.array(actual), sure(predicted, k), [f"class{i}" for i in range(k)], referable_grade, **options)


@pytest.mark.parametrize(
    ("actual", "predicted", "k", "kappa"),
    [
        # Kappa is 1 - observed / expected, observed the sum of (i - j)^2 over the images, expected the sum of
        # (i - j)^2 * (images of grade i) * (predictions of grade j) / n.
        #
        # Observed: one at distance 1 = 1. Grades 2, 2; predictions 1, 3. Expected (2 * 3 + 2 * 1) / 4 = 2. 1 - 1/2.
        ([0, 0, 1, 1], [0, 1, 1, 1], 2, 1 / 2),
        # Observed: two at distance 1 = 2. Grades 2, 1, 1; predictions 1, 3, 0.
        # Expected: 0 for 1: 2 * 3 = 6; 1 for 0: 1 * 1 = 1; 2 for 0: 4 * 1 * 1 = 4; 2 for 1: 1 * 3 = 3; 14 / 4.
        # 1 - 8/14.
        ([0, 0, 1, 2], [0, 1, 1, 1], 3, 3 / 7),
        # Observed: two at distance 1 = 2. Grades 1 each; predictions 2, 0, 1, 0, 2.
        # Expected: for 0: 2 * (1 + 4 + 9 + 16) = 60; for 2: 4 + 1 + 1 + 4 = 10; for 4: 60; 130 / 5 = 26. 1 - 2/26.
        ([0, 1, 2, 3, 4], [0, 0, 2, 4, 4], 5, 12 / 13),
        # A distance of 2 counts four times one of 1. Observed: 4. Grades 2, 0, 1; predictions 1, 0, 2.
        # Expected: 0 for 2: 4 * 2 * 2 = 16; 2 for 0: 4 * 1 * 1 = 4; 20 / 3. 1 - 12/20.
        ([0, 0, 2], [0, 2, 2], 3, 2 / 5),
        # Perfect.
        ([0, 1, 2, 3, 4, 0], [0, 1, 2, 3, 4, 0], 5, 1),
        # Always 0: each column of chance but the first is empty, so that observed = expected.
        ([0, 0, 0, 2, 4], [0, 0, 0, 0, 0], 5, 0),
        # Inverted. Observed: 16 + 4 + 0 + 4 + 16 = 40. Expected: 30 + 15 + 10 + 15 + 30 = 100; 100 / 5 = 20. 1 - 40/20.
        ([0, 1, 2, 3, 4], [4, 3, 2, 1, 0], 5, -1),
        # All images have one grade and another prediction: this is chance, not undefined. Observed 4 * 2 = 8.
        # Expected 4 * 2 * 2 / 2 = 8. 1 - 8/8.
        ([0, 0], [2, 2], 3, 0),
    ],
)
def test_kappa_by_hand(actual: list[int], predicted: list[int], k: int, kappa: float) -> None:
    assert graded(actual, predicted, k)["quadratic_weighted_kappa"] == pytest.approx(kappa, abs=1e-12)


@pytest.mark.parametrize("grade", [0, 1])
def test_kappa_of_one_grade_is_null(grade: int) -> None:
    result = graded([grade] * 3, [grade] * 3, 2)
    assert result["quadratic_weighted_kappa"] is None
    assert result["accuracy"] == 1


def test_confusion_matrix_has_actual_rows_and_all_grades() -> None:
    result = graded([0, 0, 3], [0, 2, 0], 5)
    assert result["confusion_matrix"] == [
        [1, 0, 1, 0, 0],
        [0, 0, 0, 0, 0],
        [0, 0, 0, 0, 0],
        [1, 0, 0, 0, 0],
        [0, 0, 0, 0, 0],
    ]


def test_per_class_by_hand() -> None:
    # class0: 2 of 3 found, 2 of 4 predictions right; class1: never found, 0 of 1; class2: never predicted;
    # class3: neither. F1 of class0 is 2 * 2 / (3 + 4).
    result = graded([0, 0, 0, 1, 2], [0, 0, 1, 0, 0], 4)
    third, seventh = pytest.approx(2 / 3), pytest.approx(4 / 7)
    assert result["per_class"] == [
        {"grade_name": "class0", "precision": 2 / 4, "recall": third, "f1": seventh, "support": 3},
        {"grade_name": "class1", "precision": 0, "recall": 0, "f1": 0, "support": 1},
        {"grade_name": "class2", "precision": None, "recall": 0, "f1": 0, "support": 1},
        {"grade_name": "class3", "precision": None, "recall": None, "f1": None, "support": 0},
    ]
    assert result["images"] == 5
    assert result["accuracy"] == 2 / 5


def test_log_loss_by_hand() -> None:
    probabilities = np.array([[0.5, 0.5, 0], [0.25, 0.25, 0.5]])
    # Probability of the true grade: 1/2 and 1/4.
    assert metrics_of(np.array([0, 1]), probabilities, ["a", "b", "c"], 1)["log_loss"] == pytest.approx(1.5 * np.log(2))


def test_log_loss_of_probability_zero_is_clipped() -> None:
    assert graded([0, 1], [1, 1], 2)["log_loss"] == pytest.approx(-np.log(np.finfo(float).eps) / 2)


def test_referable_by_hand() -> None:
    # Grades from 2 up: their summed probability, and whether the most probable grade is one of them.
    probabilities = np.array(
        [
            [0.90, 0.05, 0.05, 0.00],  # grade 0: 0.05, not flagged
            [0.10, 0.40, 0.30, 0.20],  # grade 1: 0.50, not flagged, as grade 1 is the most probable
            [0.30, 0.10, 0.10, 0.50],  # grade 1: 0.60, flagged
            [0.05, 0.35, 0.30, 0.30],  # grade 2: 0.60, not flagged
            [0.00, 0.20, 0.10, 0.70],  # grade 2: 0.80, flagged: the wrong grade, but referable
            [0.40, 0.30, 0.20, 0.10],  # grade 3: 0.30, not flagged
        ]
    )
    referable = metrics_of(np.array([0, 1, 1, 2, 2, 3]), probabilities, ["a", "b", "c", "d"], 2)["referable"]
    # 0.60 against 0.05, 0.50, 0.60: 2.5 pairs of 3; 0.80: 3 of 3; 0.30: 1 of 3.
    assert referable["auc"] == pytest.approx(6.5 / 9)
    assert referable == {
        "grade": 2,
        "images": 3,
        "auc": referable["auc"],
        "sensitivity": pytest.approx(1 / 3),
        "specificity": pytest.approx(2 / 3),
        "operating_point": {"sensitivity": pytest.approx(1 / 3), "specificity": pytest.approx(2 / 3)},
    }


@pytest.mark.parametrize(
    ("actual", "sensitivity", "specificity"), [([0, 1], None, 0.5), ([2, 3], 0.5, None), ([1, 2], 0, 0)]
)
def test_referable_is_null_where_undefined(actual: list[int], sensitivity: float, specificity: float) -> None:
    predicted = {(0, 1): [0, 2], (2, 3): [0, 2], (1, 2): [2, 1]}[tuple(actual)]
    referable = graded(actual, predicted, 5, referable_grade=2)["referable"]
    assert (referable["sensitivity"], referable["specificity"]) == (sensitivity, specificity)
    assert (referable["auc"] is None) == (sensitivity is None or specificity is None)


def test_macro_auc_leaves_out_absent_grades() -> None:
    probabilities = np.array(
        [
            [0.6, 0.1, 0.3],
            [0.3, 0.3, 0.4],
            [0.4, 0.2, 0.4],
            [0.2, 0.3, 0.5],
        ]
    )
    # a: 0.6 and 0.3 against 0.4 and 0.2: 3 of 4 pairs. c: 0.4 and 0.5 against 0.3 and 0.4: 1.5 + 2 of 4. b is absent.
    result = metrics_of(np.array([0, 0, 2, 2]), probabilities, ["a", "b", "c"], 1)
    assert result["auc_classes"] == ["a", "c"]
    assert result["macro_auc"] == pytest.approx((3 / 4 + 3.5 / 4) / 2)


def test_macro_auc_of_one_grade_is_null() -> None:
    result = graded([2, 2], [0, 2], 3)
    assert result["macro_auc"] is None
    assert result["auc_classes"] == []


def test_baseline_predicts_the_first_grade_though_another_is_larger() -> None:
    result = graded([0, 1, 1, 1], [1, 1, 1, 1], 2)
    assert result["baseline"] == {"grade_name": "class0", "accuracy": 0.25, "quadratic_weighted_kappa": 0.0}


def test_equal_probabilities_predict_the_lower_grade() -> None:
    result = metrics_of(np.array([0, 1]), np.full((2, 2), 0.5), ["a", "b"], 1)
    assert result["confusion_matrix"] == [[1, 0], [1, 0]]


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_rounded_probabilities_are_accepted(dtype: type) -> None:
    logits = np.random.default_rng(1).normal(size=(200, 5))
    probabilities = (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)).astype(dtype)
    assert metrics_of(np.arange(200) % 5, probabilities, FIVE, 2)["images"] == 200


OK = np.array([[0.5, 0.5], [0.25, 0.75]])


@pytest.mark.parametrize(
    ("actual", "probabilities", "classes", "grade", "message"),
    [
        (np.array([0, 1]), OK, ["a"], 1, "grade_names: found .* at least 2"),
        (np.array([0, 1]), OK, ["a", "b"], 0, "referable_grade: found 0, expected 1 to 1"),
        (np.array([0, 1]), OK, ["a", "b"], 2, "referable_grade: found 2"),
        (np.array([], dtype=int), OK[:0], ["a", "b"], 1, "at least one integer"),
        (np.array([0.0, 1.0]), OK, ["a", "b"], 1, "found float64"),
        (np.array([[0], [1]]), OK, ["a", "b"], 1, r"shape \(2, 1\)"),
        (np.array([0, 1, 1]), OK, ["a", "b"], 1, r"argmax grades: found int64 of shape \(2,\), .* of shape \(3,\)"),
        (np.array([0, 1]), OK, ["a", "b", "c"], 1, r"expected float of shape \(2, 3\)"),
        (np.array([0, 1]), np.eye(2, dtype=int), ["a", "b"], 1, "found int64"),
        (np.array([0, 2]), OK, ["a", "b"], 1, "row 1 is 2, expected 0 to 1"),
        (np.array([-1, 1]), OK, ["a", "b"], 1, "row 0 is -1"),
        (np.array([0, 1]), np.array([[0.5, 0.5], [np.nan, 0.5]]), ["a", "b"], 1, "row 1 is .*nan"),
        (np.array([0, 1]), np.array([[0.5, 0.5], [0.5, np.inf]]), ["a", "b"], 1, "row 1 is .*inf"),
        (np.array([0, 1]), np.array([[1.5, -0.5], [0.5, 0.5]]), ["a", "b"], 1, "row 0 is"),
        (np.array([0, 1]), np.array([[0.5, 0.5], [0.9, 0.9]]), ["a", "b"], 1, "row 1 is .* sum of 1"),
    ],
)
def test_error_names_invalid_input(
    actual: np.ndarray, probabilities: np.ndarray, classes: list[str], grade: int, message: str
) -> None:
    with pytest.raises(RetinaflowError, match=message):
        metrics_of(actual, probabilities, classes, grade)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("probabilities", OK[:1], r"probabilities: found float64 of shape \(1, 2\), expected float of shape \(2, 2\)"),
        ("argmax", np.array([0, 2]), "argmax grades: row 1 is 2, expected 0 to 1"),
        ("predicted", np.array([-1, 0]), "predicted grades: row 0 is -1, expected 0 to 1"),
        ("predicted", np.array([0.0, 1.0]), "predicted grades: found float64 .* expected integer"),
        ("referable", np.array([0, 1]), "referable: found int64 .* expected bool"),
        ("referable", np.array([True]), r"referable: found bool of shape \(1,\)"),
    ],
)
def test_error_names_invalid_grades(field: str, value: np.ndarray, message: str) -> None:
    grades = grades_of(OK, 1)._replace(**{field: value})
    with pytest.raises(RetinaflowError, match=f"^{message}"):
        evaluate(
            np.array([0, 1]),
            grades,
            grade_names=["a", "b"],
            referable_grade=1,
            patients=["p", "q"],
            eyes=["", ""],
            bootstrap_samples=0,
            seed=0,
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"patients": ["p"]}, "patients: found 1 for 2 images"),
        ({"eyes": ["left"] * 3}, "eyes: found 3 for 2 images"),
        ({"uncalibrated": OK * 2}, "uncalibrated probabilities: row 0 is .* a sum of 1"),
        ({"uncalibrated": OK[:1]}, r"uncalibrated probabilities: found float64 of shape \(1, 2\)"),
        ({"quality": np.array([1.0])}, r"quality: found shape \(1,\)"),
        ({"quality": np.array([1.0, np.nan])}, "quality: .* 1 of the values finite"),
    ],
)
def test_error_names_invalid_companions(options: dict[str, Any], message: str) -> None:
    with pytest.raises(RetinaflowError, match=f"^{message}"):
        metrics_of(np.array([0, 1]), OK, ["a", "b"], 1, **options)


def test_input_is_not_changed() -> None:
    actual, probabilities = np.array([0, 1]), np.array([[0.9995, 0.0], [0.5, 0.5]])
    metrics_of(actual, probabilities, ["a", "b"], 1)
    assert probabilities.tolist() == [[0.9995, 0.0], [0.5, 0.5]]


def test_predicted_and_argmax_grades_have_own_metrics() -> None:
    # Thresholds find both severe images, which the most probable grade misses, and a healthy one.
    actual, grade = np.array([0, 0, 1, 2, 2]), np.array([0, 1, 1, 2, 2])
    probabilities = np.array([[0.6, 0.3, 0.1], [0.6, 0.3, 0.1], [0.2, 0.5, 0.3], [0.4, 0.3, 0.3], [0.4, 0.3, 0.3]])
    grades = grades_of(probabilities, 2)._replace(predicted=grade, referable=np.array([False, True, False, True, True]))
    names = ["a", "b", "c"]
    result = evaluate(
        actual,
        grades,
        grade_names=names,
        referable_grade=2,
        patients=list("pqrst"),
        eyes=[""] * 5,
        bootstrap_samples=0,
        seed=0,
    )
    alone = metrics_of(actual, np.eye(3)[grade], names, 2)
    plain = metrics_of(actual, probabilities, names, 2)
    assert alone["quadratic_weighted_kappa"] != plain["quadratic_weighted_kappa"]
    for figure in ("accuracy", "quadratic_weighted_kappa", "per_class", "confusion_matrix"):
        assert result[figure] == alone[figure]
        assert result["argmax"][figure] == plain[figure]
    for figure in ("log_loss", "macro_auc", "calibration"):
        assert result[figure] == plain[figure], "they go by probabilities"
    assert (result["referable"]["sensitivity"], result["referable"]["specificity"]) == (1, 1)
    assert (result["argmax"]["sensitivity"], result["argmax"]["specificity"]) == (0, 1)
    assert result["referable"]["operating_point"] == {"sensitivity": 1, "specificity": pytest.approx(2 / 3)}


def test_fellow_eye_by_hand() -> None:
    # a: 0 and 1; b: 2 and 2; f: two images of the left eye, 0 and 2, and one of the right, 2. The rest has no fellow
    # eye: one eye, an eye twice, and an unknown eye.
    images = [
        ("a", "left", 0),
        ("b", "right", 2),
        ("a", "right", 1),
        ("b", "left", 2),
        ("c", "left", 2),
        ("d", "left", 0),
        ("d", "left", 2),
        ("e", "", 0),
        ("e", "left", 2),
        ("f", "left", 0),
        ("f", "left", 2),
        ("f", "right", 2),
    ]
    patients, eyes, actual = (list(values) for values in zip(*images, strict=True))
    other = graded(actual, actual, 3, patients=patients, eyes=eyes)["fellow_eye"]
    # Grades 0, 1, 2, 2, 0, 2, 2. Predictions 1, 0, 2, 2, 2, 2, 2, since an eye has the grade of its worst image.
    # Observed 1 + 1 + 4 = 6. Expected (2 * (1 + 4 * 5) + 1 * (1 + 5) + 4 * (4 + 1)) / 7 = 68 / 7.
    assert other == {
        "images": 7,
        "accuracy": pytest.approx(4 / 7),
        "quadratic_weighted_kappa": pytest.approx(1 - 6 * 7 / 68),
    }


def test_two_images_of_each_eye_have_a_fellow_eye() -> None:
    patients, eyes = ["a"] * 4 + ["b"] * 4, ["left", "left", "right", "right"] * 2
    actual = [0, 0, 1, 1, 2, 2, 2, 2]
    other = graded(actual, actual, 3, patients=patients, eyes=eyes)["fellow_eye"]
    assert (other["images"], other["accuracy"]) == (8, 0.5)


def test_fellow_eye_is_null_without_pairs() -> None:
    expected = {"images": 0, "accuracy": None, "quadratic_weighted_kappa": None}
    assert graded([0, 1], [0, 1], 2)["fellow_eye"] == expected


def test_referral_retains_the_most_certain_and_their_equals() -> None:
    # Ten images; the least certain ones are wrong, and three are equally certain.
    certainty = np.array([0.55, 0.6, 0.7, 0.7, 0.7, 0.8, 0.85, 0.9, 0.95, 0.99])
    actual = np.array([1, 1, 1, 0, 0, 0, 1, 0, 1, 0])
    answers = np.array([0, 0, 1, 0, 0, 0, 1, 0, 1, 0])
    probabilities = np.where(answers[:, np.newaxis] == [0, 1], certainty[:, np.newaxis], 1 - certainty[:, np.newaxis])
    curve = metrics_of(actual, probabilities, ["a", "b"], 1)["referral"]
    assert [(row["share"], row["images"], row["certainty"]) for row in curve] == [
        (1.0, 10, 0.55),
        (0.9, 9, 0.6),
        (0.8, 8, 0.7),
        (0.7, 8, 0.7),
        (0.6, 8, 0.7),
        (0.5, 5, 0.8),
    ]
    assert [row["accuracy"] for row in curve] == [0.8, pytest.approx(8 / 9), 1, 1, 1, 1]
    assert (
        curve[0]["quadratic_weighted_kappa"]
        == metrics_of(actual, probabilities, ["a", "b"], 1)["quadratic_weighted_kappa"]
    )
    assert curve[-1]["quadratic_weighted_kappa"] == 1


def test_calibration_before_and_after() -> None:
    actual = np.array([0, 1, 0, 1])
    before, after = np.tile([0.99, 0.01], (4, 1)), np.tile([0.5, 0.5], (4, 1))
    calibration = metrics_of(actual, after, ["a", "b"], 1, uncalibrated=before)["calibration"]
    assert calibration["expected_calibration_error"] == pytest.approx(0)
    assert calibration["uncalibrated"] == {
        "expected_calibration_error": pytest.approx(0.49),
        "log_loss": pytest.approx(-(np.log(0.99) + np.log(0.01)) / 2),
    }
    filled = [row for row in calibration["reliability"] if row["images"]]
    assert filled == [{"low": 7 / 15, "high": 8 / 15, "images": 4, "confidence": 0.5, "accuracy": 0.5}]
    assert len(calibration["reliability"]) == calibration["bins"] == 15
    assert metrics_of(actual, after, ["a", "b"], 1)["calibration"]["uncalibrated"] is None


def test_thirds_by_quality() -> None:
    # Worst, best, middle, ... : only the images of the lowest third have a wrong prediction.
    quality = np.array([0.1, 0.9, 0.5, 0.2, 0.8, 0.6])
    result = graded([0, 1, 0, 1, 0, 1], [1, 1, 0, 0, 0, 1], 2, quality=quality)
    assert [(row["third"], row["images"], row["accuracy"]) for row in result["by_quality"]] == [
        ("lowest", 2, 0),
        ("middle", 2, 1),
        ("highest", 2, 1),
    ]
    lowest, middle, _ = result["by_quality"]
    assert (lowest["quadratic_weighted_kappa"], middle["quadratic_weighted_kappa"]) == (-1, 1)
    assert (lowest["sensitivity"], lowest["specificity"]) == (0, 0)
    assert graded([0, 1], [0, 1], 2)["by_quality"] is None


def test_images_of_one_quality_are_in_one_third() -> None:
    rows = graded([0, 1, 1], [0, 1, 0], 2, quality=np.full(3, 0.5))["by_quality"]
    assert [row["images"] for row in rows] == [3, 0, 0]
    assert rows[2] == {
        "third": "highest",
        "images": 0,
        "accuracy": None,
        "quadratic_weighted_kappa": None,
        "sensitivity": None,
        "specificity": None,
    }


def test_intervals_are_percentiles_of_the_samples() -> None:
    rng = np.random.default_rng(1)
    actual = rng.integers(0, 3, 60)
    probabilities = 0.8 * rng.dirichlet(np.ones(3), 60) + 0.2 * np.eye(3)[actual]
    patients = [str(number // 2) for number in range(60)]
    options: dict[str, Any] = {"patients": patients, "bootstrap_samples": 100, "seed": 3}
    intervals = metrics_of(actual, probabilities, ["a", "b", "c"], 1, **options)["intervals"]
    figures = bootstrap_metrics(
        actual, grades_of(probabilities, 1), referable_grade=1, patients=patients, samples=100, seed=3
    )
    assert intervals == {
        "confidence": 0.95,
        "bootstrap_samples": 100,
        **{name: pytest.approx(interval(values)) for name, values in figures.items()},
    }
    low, high = intervals["quadratic_weighted_kappa"]
    assert low < metrics_of(actual, probabilities, ["a", "b", "c"], 1)["quadratic_weighted_kappa"] < high
    assert (
        metrics_of(actual, probabilities, ["a", "b", "c"], 1, **{**options, "bootstrap_samples": 0})["intervals"]
        is None
    )
    one = {**options, "patients": ["a"] * 60}
    assert metrics_of(actual, probabilities, ["a", "b", "c"], 1, **one)["intervals"] is None


@st.composite
def scored(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, int]:
    """Draw true grades, probabilities with many equal ones, and the referable grade."""
    k, n = draw(st.integers(2, 6)), draw(st.integers(1, 12))
    actual = draw(st.lists(st.integers(0, k - 1), min_size=n, max_size=n))
    weights = draw(st.lists(st.lists(st.integers(0, 4), min_size=k, max_size=k).filter(any), min_size=n, max_size=n))
    counts = np.array(weights, dtype=float)
    return np.array(actual), counts / counts.sum(axis=1, keepdims=True), draw(st.integers(1, k - 1))


def numbers(value: Any) -> list[float]:
    """Return every number in a result, None as -9."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [number for item in value for number in numbers(item)]
    return [] if isinstance(value, str) else [-9.0 if value is None else value]


@settings(max_examples=40, deadline=None)
@given(scored())
def test_results_are_json_in_range_with_a_baseline(case: tuple[np.ndarray, np.ndarray, int]) -> None:
    actual, probabilities, grade = case
    classes = FIVE[: probabilities.shape[1]] + ["class5"] * (probabilities.shape[1] - 5)
    result = metrics_of(actual, probabilities, classes, grade, bootstrap_samples=5, quality=probabilities[:, 0])
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    kappa = result["quadratic_weighted_kappa"]
    assert kappa is None or -1 - 1e-9 <= kappa <= 1 + 1e-9
    assert np.sum(result["confusion_matrix"]) == result["images"] == len(actual)
    assert np.trace(result["confusion_matrix"]) / len(actual) == pytest.approx(result["accuracy"])
    assert np.sum(result["confusion_matrix"], axis=1).tolist() == [row["support"] for row in result["per_class"]]
    assert result["baseline"]["grade_name"] == "class0"
    assert result["baseline"]["accuracy"] == pytest.approx(np.sum(result["confusion_matrix"][0]) / len(actual))
    for name in ("macro_auc", "accuracy"):
        assert result[name] is None or 0 <= result[name] <= 1


@settings(max_examples=40, deadline=None)
@given(scored(), st.randoms(use_true_random=False))
def test_order_of_images_changes_nothing(case: tuple[np.ndarray, np.ndarray, int], random: Any) -> None:
    actual, probabilities, grade = case
    classes = [f"class{i}" for i in range(probabilities.shape[1])]
    order = list(range(len(actual)))
    random.shuffle(order)
    before = metrics_of(actual, probabilities, classes, grade)
    after = metrics_of(actual[order], probabilities[order], classes, grade)
    assert after["auc_classes"] == before["auc_classes"]
    np.testing.assert_allclose(numbers(after), numbers(before), rtol=1e-12, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(scored())
def test_reversing_the_grades_keeps_kappa(case: tuple[np.ndarray, np.ndarray, int]) -> None:
    actual, probabilities, grade = case
    k = probabilities.shape[1]
    probabilities = np.eye(k)[probabilities.argmax(axis=1)]
    classes = [f"class{i}" for i in range(k)]
    kappas = [
        metrics_of(*graded_so, classes, grade)["quadratic_weighted_kappa"]
        for graded_so in ((actual, probabilities), (k - 1 - actual, probabilities[:, ::-1]))
    ]
    assert kappas[0] == kappas[1] or kappas[0] == pytest.approx(kappas[1], abs=1e-12)


@pytest.mark.real
def test_fellow_eye_of_the_kaggle_test_set(real_data: Path) -> None:
    table = real_data / "testLabels15.csv"
    if not table.is_file():
        pytest.skip(f"no label table {table}")
    with open(table, newline="", encoding="utf-8") as file:
        grades = {row["image"]: int(row["level"]) for row in csv.DictReader(file)}
    actual = np.array(list(grades.values()))
    patients, eyes = zip(*(name.split("_") for name in grades), strict=True)
    result = metrics_of(actual, np.eye(5)[actual], FIVE, 2, patients=patients, eyes=eyes)
    # Counted from the label file without this library: grades, and agreement between the eyes.
    assert result["images"] == 53_576
    assert result["baseline"]["accuracy"] == 39_533 / 53_576
    assert [row["support"] for row in result["per_class"]] == [39_533, 3_762, 7_861, 1_214, 1_206]
    assert result["patients"] == 26_788
    assert result["fellow_eye"]["images"] == 53_576
    assert result["fellow_eye"]["quadratic_weighted_kappa"] == pytest.approx(0.859, abs=5e-4)
