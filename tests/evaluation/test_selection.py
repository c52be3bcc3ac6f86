"""The best of several models: the correction by hand, and its bias in simulated data sets."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from retinaflow.evaluation.bootstrap import interval, kappa
from retinaflow.evaluation.selection import Selection, correct_for_selection

K = 5
SHARE_OF_GRADES = np.array([0.5, 0.15, 0.2, 0.1, 0.05])
DATA_SETS = 150
Predictions = dict[str, np.ndarray]


def channel(correct: float) -> np.ndarray:
    """Chance of each prediction (k, k), rows actual; errors are near the true grade."""
    near = np.exp(-np.abs(np.subtract.outer(np.arange(K), np.arange(K))).astype(float)) * (1 - np.eye(K))
    return correct * np.eye(K) + (1 - correct) * near / near.sum(axis=1, keepdims=True)


def true_kappa(correct: float) -> float:
    return float(kappa(SHARE_OF_GRADES[:, np.newaxis] * channel(correct)))


def accuracy(confusion: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return np.trace(confusion, axis1=-2, axis2=-1) / confusion.sum(axis=(-2, -1))


def draw_data_set(
    seed: int, correct: list[float], common: float, patients: int = 150
) -> tuple[np.ndarray, Predictions, list[str]]:
    """Two images of each patient.

    The share ``common`` of the errors is the same in all models. Both images of a patient are the same in 4 of 10.
    """
    rng = np.random.default_rng(seed)
    actual = np.repeat(rng.choice(K, size=patients, p=SHARE_OF_GRADES), 2)
    fresh = rng.random(patients) < 0.6
    actual[1::2][fresh] = rng.choice(K, size=fresh.sum(), p=SHARE_OF_GRADES)
    shared = rng.random(2 * patients)
    shared[1::2][~fresh] = shared[::2][~fresh]
    predictions = {}
    for number, share in enumerate(correct):
        luck = np.where(rng.random(2 * patients) < common, shared, rng.random(2 * patients))
        luck[1::2][~fresh] = luck[::2][~fresh]
        cumulated = channel(share).cumsum(axis=1)[actual, :-1]
        predictions[f"model{number}"] = (luck[:, np.newaxis] > cumulated).sum(axis=1)
    return actual, predictions, [f"p{place // 2:03}" for place in range(2 * patients)]


def select(seed: int, correct: list[float], common: float, metric: Any = kappa) -> tuple[Selection, float]:
    """Return the best model of a data set, and the mean of the metric over all models."""
    actual, predictions, patients = draw_data_set(seed, correct, common)
    options: dict[str, Any] = {"grade_count": K, "patients": patients, "samples": 100, "seed": 0, "metric": metric}
    counts = [np.bincount(actual * K + each, minlength=K * K).reshape(K, K) for each in predictions.values()]
    return correct_for_selection(actual, predictions, **options), float(np.mean(metric(np.stack(counts))))


def mean_and_error(values: np.ndarray) -> tuple[float, float]:
    """Return the mean of simulated values, and its standard error."""
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))


@pytest.mark.parametrize(
    ("metric", "common", "true"),
    [(kappa, 0.0, true_kappa(0.6)), (kappa, 0.7, true_kappa(0.6)), (accuracy, 0.7, 0.6)],
    ids=["kappa", "kappa-common-errors", "accuracy-common-errors"],
)
def test_best_of_ten_equal_models_is_unbiased(metric: Callable[..., Any], common: float, true: float) -> None:
    """Tolerance: three standard errors of the simulation, and 0.003 for the bias that kappa itself has in 150 patients.

    The estimate is also compared with the mean metric of all ten models in the same data sets, which no choice biases.
    """
    results = [select(seed, [0.6] * 10, common, metric) for seed in range(DATA_SETS)]
    apparent, corrected, unchosen = np.array([[one.apparent, one.corrected, mean] for one, mean in results]).T
    bias, error = mean_and_error(corrected - true)
    assert abs(bias) < 3 * error + (0.003 if metric is kappa else 0)
    bias, error = mean_and_error(corrected - unchosen)
    assert abs(bias) < 3 * error + 0.001
    optimism, error = mean_and_error(apparent - true)
    assert optimism > 0.02
    assert optimism > 10 * error
    covered = [one.low <= true <= one.high for one, _ in results]
    assert np.mean(covered) >= 0.95


def test_truly_better_model_is_hardly_corrected() -> None:
    results = [select(seed, [0.6] * 9 + [0.9], 0.0)[0] for seed in range(50)]
    assert {one.model for one in results} == {"model9"}
    apparent, corrected = np.array([[one.apparent, one.corrected] for one in results]).T
    assert np.abs(apparent - corrected).mean() < 0.003
    bias, error = mean_and_error(corrected - true_kappa(0.9))
    assert abs(bias) < 3 * error


@pytest.mark.parametrize("patients", [3, 40])
def test_correction_is_that_of_patients_really_drawn(patients: int) -> None:
    """With three patients, some samples leave nobody outside, and some kappas are undefined."""
    actual, predictions, names = draw_data_set(5, [0.5] * 4, 0.3, patients)
    samples, seed = 60, 7
    found = correct_for_selection(actual, predictions, grade_count=K, patients=names, samples=samples, seed=seed)
    rng = np.random.default_rng(seed)
    distinct, of_image = np.unique(names, return_inverse=True)

    def table(model: str, rows: np.ndarray) -> np.ndarray:
        return np.bincount(actual[rows] * K + predictions[model][rows], minlength=K * K).reshape(K, K).astype(float)

    def best(rows: np.ndarray) -> str:
        kappas = {model: float(kappa(table(model, rows))) for model in sorted(predictions)}
        return max(kappas, key=lambda model: kappas[model] if np.isfinite(kappas[model]) else -np.inf)

    tables: list[list[np.ndarray]] = [[] for _ in distinct]
    rated = []
    for _ in range(samples):
        drawn = rng.integers(len(distinct), size=len(distinct))
        model = best(np.concatenate([np.flatnonzero(of_image == number) for number in drawn]))
        outside = np.flatnonzero(~np.isin(of_image, drawn))
        rated.append(float(kappa(table(model, outside))))
        for number in set(of_image[outside]):
            tables[number].append(table(model, np.flatnonzero(of_image == number)))
    total = np.sum([np.mean(own, axis=0) for own in tables if own], axis=0)
    assert found.model == best(np.arange(len(actual)))
    assert found.corrected == pytest.approx(float(kappa(total)))
    ends = interval(np.array(rated)) or [None, None]
    assert [found.low, found.high] == [None if end is None else pytest.approx(end) for end in ends]


def test_order_of_images_and_models_changes_nothing() -> None:
    actual, predictions, patients = draw_data_set(1, [0.6] * 5, 0.3)
    order = np.random.default_rng(0).permutation(len(actual))
    options: dict[str, Any] = {"grade_count": K, "samples": 50, "seed": 0}
    turned = {name: predictions[name][order] for name in reversed(predictions)}
    names = [patients[place] for place in order]
    assert correct_for_selection(actual[order], turned, patients=names, **options) == correct_for_selection(
        actual, predictions, patients=patients, **options
    )


def test_equal_models_are_chosen_by_name() -> None:
    actual, predictions, patients = draw_data_set(1, [0.6], 0.0)
    twins = dict.fromkeys(("b", "a", "c"), predictions["model0"])
    found = correct_for_selection(actual, twins, grade_count=K, patients=patients, samples=50, seed=0)
    assert (found.model, found.candidates) == ("a", 3)
    assert found.corrected == pytest.approx(found.apparent)


@pytest.mark.parametrize("case", ["one model", "one patient", "no samples"])
def test_without_choice_or_samples_there_is_no_correction(case: str) -> None:
    actual, predictions, patients = draw_data_set(1, [0.6] * (1 if case == "one model" else 3), 0.0)
    found = correct_for_selection(
        actual,
        predictions,
        grade_count=K,
        patients=["p"] * len(actual) if case == "one patient" else patients,
        samples=0 if case == "no samples" else 20,
        seed=0,
    )
    assert found.apparent is not None
    assert found[3:] == (None, None, None)


def test_undefined_kappa_is_never_best() -> None:
    actual = np.zeros(6, dtype=np.int64)
    predictions = {"a": actual, "b": np.array([0, 0, 0, 0, 0, 1])}
    found = correct_for_selection(actual, predictions, grade_count=K, patients=list("uuvvww"), samples=50, seed=0)
    assert (found.model, found.apparent) == ("b", 0.0)
    only = correct_for_selection(
        actual, {"a": actual, "c": actual}, grade_count=K, patients=list("uuvvww"), samples=50, seed=0
    )
    assert only == Selection("a", 2, None)
