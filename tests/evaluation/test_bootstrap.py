"""Bootstrap: metrics equal those of images that are drawn again, and intervals cover the true value."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from retinaflow.evaluation import bootstrap
from retinaflow.evaluation.bootstrap import bootstrap_kappas, bootstrap_metrics, interval, kappa
from retinaflow.evaluation.grades import Grades
from retinaflow.evaluation.metrics import evaluate

FIVE = [f"class{grade}" for grade in range(5)]


def graded(seed: int, patients: int = 30, k: int = 5) -> tuple[np.ndarray, Grades, list[str]]:
    """Return patients with one to three images each. Many of the severities are equal."""
    rng = np.random.default_rng(seed)
    names = [f"p{number}" for number in range(patients) for _ in range(rng.integers(1, 4))]
    actual = rng.choice(k, size=len(names), p=np.array([6, 2, 2, 1, 1])[:k] / sum([6, 2, 2, 1, 1][:k]))
    weights = rng.integers(1, 5, (len(names), k)) + 6 * np.eye(k, dtype=int)[actual]
    severity = np.clip(actual + rng.normal(0, 1, len(names)), 0, k - 1)
    grades = Grades(
        severity,
        weights / weights.sum(axis=1, keepdims=True),
        weights.argmax(axis=1),
        np.rint(severity).astype(np.int64),
        severity > 1.6,
    )
    return actual, grades, names


def drawn(actual: np.ndarray, grades: Grades, patients: list[str], replicates: int, seed: int) -> list[dict[str, Any]]:
    """Return the metrics of each bootstrap sample. An image is repeated as often as its patient is drawn."""
    names = sorted(set(patients))
    rng = np.random.default_rng(seed)
    results = []
    for _ in range(replicates):
        chosen = [names[number] for number in rng.integers(len(names), size=len(names))]
        rows = np.array([row for name in chosen for row in range(len(patients)) if patients[row] == name])
        sample = Grades(*(values[rows] for values in grades))
        options: dict[str, Any] = {"grade_names": FIVE, "referable_grade": 2, "bootstrap_samples": 0, "seed": 0}
        options |= {"patients": [str(row) for row in rows], "eyes": [""] * len(rows)}
        results.append(evaluate(actual[rows], sample, **options))
    return results


@pytest.mark.parametrize(("seed", "patients"), [(1, 30), (2, 5)])
def test_samples_have_the_metrics_of_drawn_patients(seed: int, patients: int) -> None:
    """With five patients, some samples lack grades, or have one grade only."""
    actual, grades, names = graded(seed, patients)
    metrics = bootstrap_metrics(actual, grades, referable_grade=2, patients=names, samples=20, seed=seed)
    expected = [
        {
            "quadratic_weighted_kappa": result["quadratic_weighted_kappa"],
            "accuracy": result["accuracy"],
            "argmax_quadratic_weighted_kappa": result["argmax"]["quadratic_weighted_kappa"],
            "macro_auc": result["macro_auc"],
            "referable_auc": result["referable"]["auc"],
            "operating_point_sensitivity": result["referable"]["operating_point"]["sensitivity"],
            "operating_point_specificity": result["referable"]["operating_point"]["specificity"],
        }
        for result in drawn(actual, grades, names, 20, seed)
    ]
    assert set(metrics) == set(expected[0])
    for name, values in metrics.items():
        wanted = [np.nan if result[name] is None else result[name] for result in expected]
        np.testing.assert_allclose(values, wanted, rtol=1e-12, atol=1e-12, err_msg=name)
    assert len(set(metrics["accuracy"].tolist())) > 3, "the case tests nothing if all samples are alike"


def test_undefined_metrics_of_samples_are_nan() -> None:
    # One of two patients has referable images, so half of the samples lack either kind of image.
    actual, grade = np.array([0, 0, 3, 3]), np.array([0, 1, 3, 2])
    grades = Grades(grade.astype(float), np.eye(5)[grade], grade, grade, grade >= 2)
    metrics = bootstrap_metrics(actual, grades, referable_grade=2, patients=["a", "a", "b", "b"], samples=40, seed=1)
    sensitivity, specificity = (metrics[f"operating_point_{name}"] for name in ("sensitivity", "specificity"))
    only_first, only_second = np.isnan(sensitivity), np.isnan(specificity)
    assert 4 < only_first.sum() < 20
    assert 4 < only_second.sum() < 20
    assert not (only_first & only_second).any()
    assert np.array_equal(np.isnan(metrics["referable_auc"]), only_first | only_second)
    assert np.isfinite(metrics["accuracy"]).all()


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_kappa_equals_that_of_scikit_learn(data: st.DataObject) -> None:
    k, n = data.draw(st.integers(2, 6)), data.draw(st.integers(1, 15))
    pairs = data.draw(st.lists(st.tuples(st.integers(0, k - 1), st.integers(0, k - 1)), min_size=n, max_size=n))
    actual, predicted = np.array(pairs).T
    confusion = np.zeros((k, k))
    np.add.at(confusion, (actual, predicted), 1)
    if len({*actual, *predicted}) == 1:
        assert np.isnan(kappa(confusion))
    else:
        expected = cohen_kappa_score(actual, predicted, labels=range(k), weights="quadratic")
        assert kappa(np.stack([confusion, 3 * confusion])) == pytest.approx([expected, expected], abs=1e-12)


def test_order_of_images_and_block_size_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    actual, grades, names = graded(3)
    before = bootstrap_metrics(actual, grades, referable_grade=2, patients=names, samples=50, seed=7)
    kappas = bootstrap_kappas(actual, [grades.predicted], grade_count=5, patients=names, samples=50, seed=7)
    order = np.random.default_rng(0).permutation(len(actual))
    monkeypatch.setattr(bootstrap, "BLOCK", 7 * len(actual))
    shuffled = Grades(*(values[order] for values in grades))
    after = bootstrap_metrics(
        actual[order], shuffled, referable_grade=2, patients=[names[row] for row in order], samples=50, seed=7
    )
    for name, values in before.items():
        assert np.array_equal(values, after[name]), name
    assert np.array_equal(
        kappas, bootstrap_kappas(actual, [grades.predicted], grade_count=5, patients=names, samples=50, seed=7)
    )
    other = bootstrap_metrics(actual, grades, referable_grade=2, patients=names, samples=50, seed=8)
    assert not np.array_equal(before["accuracy"], other["accuracy"])


def test_all_predictions_use_the_same_samples() -> None:
    actual, grades, names = graded(4)
    kappas = bootstrap_kappas(
        actual, [grades.predicted, grades.argmax, grades.predicted], grade_count=5, patients=names, samples=60, seed=9
    )
    metrics = bootstrap_metrics(actual, grades, referable_grade=2, patients=names, samples=60, seed=9)
    assert kappas.shape == (3, 60)
    assert np.array_equal(kappas[0], kappas[2])
    assert np.array_equal(kappas[0], metrics["quadratic_weighted_kappa"])
    assert np.array_equal(kappas[1], metrics["argmax_quadratic_weighted_kappa"])


def test_shared_mistakes_do_not_widen_the_difference() -> None:
    rng = np.random.default_rng(5)
    actual = rng.integers(0, 5, 300)
    first = np.clip(actual + rng.integers(-1, 2, 300), 0, 4)
    second = np.where(rng.random(300) < 0.1, np.clip(first + 1, 0, 4), first)
    one, other = bootstrap_kappas(
        actual, [first, second], grade_count=5, patients=[str(row) for row in range(300)], samples=400, seed=1
    )
    assert np.std(one - other) < 0.5 * np.hypot(np.std(one), np.std(other))


def eyes_of(patients: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return both eyes of patients. They have the same grade and, nine times of ten, the same mistake."""
    grade = rng.choice(5, size=patients, p=[0.5, 0.1, 0.2, 0.1, 0.1])
    predicted = np.clip(grade + rng.choice([-2, -1, 0, 1], size=patients, p=[0.1, 0.2, 0.5, 0.2]), 0, 4)
    fellow = np.where(rng.random(patients) < 0.9, predicted, grade)
    return (
        np.repeat(grade, 2),
        np.stack([predicted, fellow], axis=1).ravel(),
        [str(row // 2) for row in range(2 * patients)],
    )


def test_intervals_over_patients_cover_the_true_value() -> None:
    rng = np.random.default_rng(6)
    actual, predicted, _ = eyes_of(200_000, rng)
    truth = cohen_kappa_score(actual, predicted, weights="quadratic")
    covered = {"patients": 0, "photographs": 0}
    for trial in range(200):
        actual, predicted, patients = eyes_of(100, rng)
        for unit, names in (("patients", patients), ("photographs", [str(row) for row in range(200)])):
            low, high = interval(
                bootstrap_kappas(actual, [predicted], grade_count=5, patients=names, samples=100, seed=trial)[0]
            )
            covered[unit] += low <= truth <= high
    # If both eyes are alike, intervals of half the variance cover 0.83. Standard errors are 0.015 and 0.027.
    assert 0.91 < covered["patients"] / 200 < 0.98
    assert covered["photographs"] / 200 < 0.88


def test_interval_has_the_middle_19_of_20() -> None:
    assert interval(np.random.default_rng(0).permutation(2001) / 2000) == pytest.approx([0.025, 0.975])
    assert interval(np.array([0.5] * 3)) == [0.5, 0.5]


def test_interval_needs_nearly_all_samples_to_be_defined() -> None:
    values = np.arange(100, dtype=float)
    values[:5] = np.nan
    assert interval(values) == pytest.approx([5 + 0.025 * 94, 5 + 0.975 * 94])
    values[5] = np.nan
    assert interval(values) is None
    assert interval(np.empty(0)) is None
