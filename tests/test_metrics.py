"""Metrics: hand-computed cases, what is undefined, and invariants."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retinaflow.errors import RetinaflowError
from retinaflow.metrics import evaluate

FIVE = ["class0", "class1", "class2", "class3", "class4"]


def sure(predicted: list[int], k: int) -> np.ndarray:
    """Probabilities that leave no doubt about the predicted class."""
    return np.eye(k)[predicted]


def graded(actual: list[int], predicted: list[int], k: int, referable_level: int = 1) -> dict[str, Any]:
    return evaluate(np.array(actual), sure(predicted, k), [f"class{i}" for i in range(k)], referable_level)


@pytest.mark.parametrize(
    ("actual", "predicted", "k", "kappa"),
    [
        # Kappa is 1 - observed / expected, observed the sum of (i - j)^2 over the photographs, expected the sum of
        # (i - j)^2 * (photographs of class i) * (predictions of class j) / n.
        #
        # Observed: one at distance 1 = 1. Classes 2, 2; predictions 1, 3. Expected (2 * 3 + 2 * 1) / 4 = 2. 1 - 1/2.
        ([0, 0, 1, 1], [0, 1, 1, 1], 2, 1 / 2),
        # Observed: two at distance 1 = 2. Classes 2, 1, 1; predictions 1, 3, 0.
        # Expected: 0 for 1: 2 * 3 = 6; 1 for 0: 1 * 1 = 1; 2 for 0: 4 * 1 * 1 = 4; 2 for 1: 1 * 3 = 3; 14 / 4.
        # 1 - 8/14.
        ([0, 0, 1, 2], [0, 1, 1, 1], 3, 3 / 7),
        # Observed: two at distance 1 = 2. Classes 1 each; predictions 2, 0, 1, 0, 2.
        # Expected: for 0: 2 * (1 + 4 + 9 + 16) = 60; for 2: 4 + 1 + 1 + 4 = 10; for 4: 60; 130 / 5 = 26. 1 - 2/26.
        ([0, 1, 2, 3, 4], [0, 0, 2, 4, 4], 5, 12 / 13),
        # A distance of 2 counts four times one of 1. Observed: 4. Classes 2, 0, 1; predictions 1, 0, 2.
        # Expected: 0 for 2: 4 * 2 * 2 = 16; 2 for 0: 4 * 1 * 1 = 4; 20 / 3. 1 - 12/20.
        ([0, 0, 2], [0, 2, 2], 3, 2 / 5),
        # Perfect.
        ([0, 1, 2, 3, 4, 0], [0, 1, 2, 3, 4, 0], 5, 1),
        # Always 0: each column of chance but the first is empty, so that observed = expected.
        ([0, 0, 0, 2, 4], [0, 0, 0, 0, 0], 5, 0),
        # Inverted. Observed: 16 + 4 + 0 + 4 + 16 = 40. Expected: 30 + 15 + 10 + 15 + 30 = 100; 100 / 5 = 20. 1 - 40/20.
        ([0, 1, 2, 3, 4], [4, 3, 2, 1, 0], 5, -1),
        # All of one class and all predicted as one other is chance, not undefined. Observed 4 * 2 = 8.
        # Expected 4 * 2 * 2 / 2 = 8. 1 - 8/8.
        ([0, 0], [2, 2], 3, 0),
    ],
)
def test_kappa_by_hand(actual: list[int], predicted: list[int], k: int, kappa: float) -> None:
    assert graded(actual, predicted, k)["quadratic_weighted_kappa"] == pytest.approx(kappa, abs=1e-12)


@pytest.mark.parametrize("level", [0, 1])
def test_kappa_of_one_class_in_labels_and_predictions_is_null(level: int) -> None:
    result = graded([level] * 3, [level] * 3, 2)
    assert result["quadratic_weighted_kappa"] is None
    assert result["accuracy"] == 1


def test_confusion_matrix_has_actual_rows_and_all_classes() -> None:
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
        {"class": "class0", "precision": 2 / 4, "recall": third, "f1": seventh, "support": 3},
        {"class": "class1", "precision": 0, "recall": 0, "f1": 0, "support": 1},
        {"class": "class2", "precision": None, "recall": 0, "f1": 0, "support": 1},
        {"class": "class3", "precision": None, "recall": None, "f1": None, "support": 0},
    ]
    assert result["images"] == 5
    assert result["accuracy"] == 2 / 5


def test_log_loss_by_hand() -> None:
    probabilities = np.array([[0.5, 0.5, 0], [0.25, 0.25, 0.5]])
    # Probability of the actual class: 1/2 and 1/4.
    assert evaluate(np.array([0, 1]), probabilities, ["a", "b", "c"], 1)["log_loss"] == pytest.approx(1.5 * np.log(2))


def test_log_loss_of_a_sure_mistake_is_clipped() -> None:
    assert graded([0, 1], [1, 1], 2)["log_loss"] == pytest.approx(-np.log(np.finfo(float).eps) / 2)


def test_referable_by_hand() -> None:
    # From class 2 up: summed probability and, by the most probable class, the decision.
    probabilities = np.array(
        [
            [0.90, 0.05, 0.05, 0.00],  # class 0: 0.05, not flagged
            [0.10, 0.40, 0.30, 0.20],  # class 1: 0.50, not flagged, as neither class alone is most probable
            [0.30, 0.10, 0.10, 0.50],  # class 1: 0.60, flagged
            [0.05, 0.35, 0.30, 0.30],  # class 2: 0.60, not flagged
            [0.00, 0.20, 0.10, 0.70],  # class 2: 0.80, flagged: the wrong class, but referable
            [0.40, 0.30, 0.20, 0.10],  # class 3: 0.30, not flagged
        ]
    )
    referable = evaluate(np.array([0, 1, 1, 2, 2, 3]), probabilities, ["a", "b", "c", "d"], 2)["referable"]
    # 0.60 against 0.05, 0.50, 0.60: 2.5 pairs of 3; 0.80: 3 of 3; 0.30: 1 of 3.
    assert referable["auc"] == pytest.approx(6.5 / 9)
    assert referable == {
        "level": 2,
        "images": 3,
        "auc": referable["auc"],
        "sensitivity": pytest.approx(1 / 3),
        "specificity": pytest.approx(2 / 3),
    }


@pytest.mark.parametrize(
    ("actual", "sensitivity", "specificity"), [([0, 1], None, 0.5), ([2, 3], 0.5, None), ([1, 2], 0, 0)]
)
def test_referable_is_null_where_undefined(actual: list[int], sensitivity: float, specificity: float) -> None:
    predicted = {(0, 1): [0, 2], (2, 3): [0, 2], (1, 2): [2, 1]}[tuple(actual)]
    referable = graded(actual, predicted, 5, referable_level=2)["referable"]
    assert (referable["sensitivity"], referable["specificity"]) == (sensitivity, specificity)
    assert (referable["auc"] is None) == (sensitivity is None or specificity is None)


def test_macro_auc_by_hand_leaves_out_absent_classes() -> None:
    probabilities = np.array(
        [
            [0.6, 0.1, 0.3],
            [0.3, 0.3, 0.4],
            [0.4, 0.2, 0.4],
            [0.2, 0.3, 0.5],
        ]
    )
    # a: 0.6 and 0.3 against 0.4 and 0.2: 3 of 4 pairs. c: 0.4 and 0.5 against 0.3 and 0.4: 1.5 + 2 of 4. b is absent.
    result = evaluate(np.array([0, 0, 2, 2]), probabilities, ["a", "b", "c"], 1)
    assert result["auc_classes"] == ["a", "c"]
    assert result["macro_auc"] == pytest.approx((3 / 4 + 3.5 / 4) / 2)


def test_macro_auc_of_one_class_is_null() -> None:
    result = graded([2, 2], [0, 2], 3)
    assert result["macro_auc"] is None
    assert result["auc_classes"] == []


def test_baseline_answers_the_first_class_even_where_another_is_larger() -> None:
    result = graded([0, 1, 1, 1], [1, 1, 1, 1], 2)
    assert result["baseline"] == {"class": "class0", "accuracy": 0.25, "quadratic_weighted_kappa": 0.0}


def test_equal_probabilities_predict_the_lower_class() -> None:
    result = evaluate(np.array([0, 1]), np.full((2, 2), 0.5), ["a", "b"], 1)
    assert result["confusion_matrix"] == [[1, 0], [1, 0]]


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_rounded_probabilities_are_accepted(dtype: type) -> None:
    logits = np.random.default_rng(1).normal(size=(200, 5))
    probabilities = (np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)).astype(dtype)
    assert evaluate(np.arange(200) % 5, probabilities, FIVE, 2)["images"] == 200


OK = np.array([[0.5, 0.5], [0.25, 0.75]])


@pytest.mark.parametrize(
    ("actual", "probabilities", "classes", "level", "message"),
    [
        (np.array([0, 1]), OK, ["a"], 1, "classes: found .* at least 2"),
        (np.array([0, 1]), OK, ["a", "b"], 0, "referable_level: found 0, expected 1 to 1"),
        (np.array([0, 1]), OK, ["a", "b"], 2, "referable_level: found 2"),
        (np.array([], dtype=int), OK[:0], ["a", "b"], 1, "at least one integer"),
        (np.array([0.0, 1.0]), OK, ["a", "b"], 1, "found float64"),
        (np.array([[0], [1]]), OK, ["a", "b"], 1, r"shape \(2, 1\)"),
        (np.array([0, 1, 1]), OK, ["a", "b"], 1, r"probabilities: .* expected float of shape \(3, 2\)"),
        (np.array([0, 1]), OK, ["a", "b", "c"], 1, r"expected float of shape \(2, 3\)"),
        (np.array([0, 1]), np.eye(2, dtype=int), ["a", "b"], 1, "found int64"),
        (np.array([0, 2]), OK, ["a", "b"], 1, "row 1 is 2, expected 0 to 1"),
        (np.array([-1, 1]), OK, ["a", "b"], 1, "row 0 is -1"),
        (np.array([0, 1]), np.array([[0.5, 0.5], [np.nan, 0.5]]), ["a", "b"], 1, "row 1 is .*nan"),
        (np.array([0, 1]), np.array([[0.5, 0.5], [np.inf, 0.5]]), ["a", "b"], 1, "row 1 is .*inf"),
        (np.array([0, 1]), np.array([[1.5, -0.5], [0.5, 0.5]]), ["a", "b"], 1, "row 0 is"),
        (np.array([0, 1]), np.array([[0.5, 0.5], [0.9, 0.9]]), ["a", "b"], 1, "row 1 is .* sum of 1"),
    ],
)
def test_bad_input_is_named(
    actual: np.ndarray, probabilities: np.ndarray, classes: list[str], level: int, message: str
) -> None:
    with pytest.raises(RetinaflowError, match=message):
        evaluate(actual, probabilities, classes, level)


def test_input_is_left_alone() -> None:
    actual, probabilities = np.array([0, 1]), np.array([[0.9995, 0.0], [0.5, 0.5]])
    evaluate(actual, probabilities, ["a", "b"], 1)
    assert probabilities.tolist() == [[0.9995, 0.0], [0.5, 0.5]]


@st.composite
def scored(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, int]:
    """Labels, probabilities with many ties, and the referable level."""
    k, n = draw(st.integers(2, 6)), draw(st.integers(1, 12))
    actual = draw(st.lists(st.integers(0, k - 1), min_size=n, max_size=n))
    weights = draw(st.lists(st.lists(st.integers(0, 4), min_size=k, max_size=k).filter(any), min_size=n, max_size=n))
    counts = np.array(weights, dtype=float)
    return np.array(actual), counts / counts.sum(axis=1, keepdims=True), draw(st.integers(1, k - 1))


def numbers(value: Any) -> list[float]:
    """Every number in a result, None as -9."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [number for item in value for number in numbers(item)]
    return [] if isinstance(value, str) else [-9.0 if value is None else value]


@settings(max_examples=40, deadline=None)
@given(scored())
def test_every_result_is_json_in_range_with_a_baseline(case: tuple[np.ndarray, np.ndarray, int]) -> None:
    actual, probabilities, level = case
    classes = FIVE[: probabilities.shape[1]] + ["class5"] * (probabilities.shape[1] - 5)
    result = evaluate(actual, probabilities, classes, level)
    assert json.loads(json.dumps(result, allow_nan=False)) == result
    kappa = result["quadratic_weighted_kappa"]
    assert kappa is None or -1 - 1e-9 <= kappa <= 1 + 1e-9
    assert np.sum(result["confusion_matrix"]) == result["images"] == len(actual)
    assert np.trace(result["confusion_matrix"]) / len(actual) == pytest.approx(result["accuracy"])
    assert np.sum(result["confusion_matrix"], axis=1).tolist() == [row["support"] for row in result["per_class"]]
    assert result["baseline"]["class"] == "class0"
    assert result["baseline"]["accuracy"] == pytest.approx(np.sum(result["confusion_matrix"][0]) / len(actual))
    for name in ("macro_auc", "accuracy"):
        assert result[name] is None or 0 <= result[name] <= 1


@settings(max_examples=40, deadline=None)
@given(scored(), st.randoms(use_true_random=False))
def test_order_of_photographs_changes_nothing(case: tuple[np.ndarray, np.ndarray, int], random: Any) -> None:
    actual, probabilities, level = case
    classes = [f"class{i}" for i in range(probabilities.shape[1])]
    order = list(range(len(actual)))
    random.shuffle(order)
    before = evaluate(actual, probabilities, classes, level)
    after = evaluate(actual[order], probabilities[order], classes, level)
    assert after["auc_classes"] == before["auc_classes"]
    np.testing.assert_allclose(numbers(after), numbers(before), rtol=1e-12, atol=1e-12)


@settings(max_examples=40, deadline=None)
@given(scored())
def test_reversing_the_grades_keeps_kappa(case: tuple[np.ndarray, np.ndarray, int]) -> None:
    actual, probabilities, level = case
    k = probabilities.shape[1]
    probabilities = np.eye(k)[probabilities.argmax(axis=1)]
    classes = [f"class{i}" for i in range(k)]
    kappas = [
        evaluate(*graded_so, classes, level)["quadratic_weighted_kappa"]
        for graded_so in ((actual, probabilities), (k - 1 - actual, probabilities[:, ::-1]))
    ]
    assert kappas[0] == kappas[1] or kappas[0] == pytest.approx(kappas[1], abs=1e-12)


@pytest.mark.real
def test_other_eye_of_the_kaggle_test_set(real_data: Path) -> None:
    table = real_data / "testLabels15.csv"
    if not table.is_file():
        pytest.skip(f"no label table {table}")
    with open(table, newline="", encoding="utf-8") as file:
        levels = {row["image"]: int(row["level"]) for row in csv.DictReader(file)}
    other = {"left": "right", "right": "left"}
    pairs = [(level, levels[f"{name.split('_')[0]}_{other[name.split('_')[1]]}"]) for name, level in levels.items()]
    actual, fellow = np.array(pairs).T
    result = evaluate(actual, np.eye(5)[fellow], FIVE, 2)
    # Counted from the label file without this library: grades, and agreement between the eyes.
    assert result["images"] == 53_576
    assert result["baseline"]["accuracy"] == 39_533 / 53_576
    assert [row["support"] for row in result["per_class"]] == [39_533, 3_762, 7_861, 1_214, 1_206]
    assert result["quadratic_weighted_kappa"] == pytest.approx(0.859, abs=5e-4)
