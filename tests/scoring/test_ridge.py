"""Ridge regression whose strength and answers are judged by patients that it has not seen."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from retinaflow.errors import RetinaflowError
from retinaflow.scoring.ridge import STRENGTHS, divided, fit


def planted(patients: int, noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Features of two photographs a patient, whose levels 0 to 4 a sum of the first three tells; levels; patients."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(2 * patients, 10)) * np.arange(1, 11)
    score = features[:, :3] @ [1.0, 0.5, 1 / 3] + noise * rng.normal(size=2 * patients)
    levels = np.digitize(score, np.quantile(score, [0.5, 0.7, 0.85, 0.95]))
    return features, levels, [str(number // 2) for number in range(2 * patients)]


def test_it_is_ridge_regression_on_scaled_features() -> None:
    features, levels, patients = planted(60, 1.0)
    fitted = fit(features, levels, levels, patients, 1)
    scaler = StandardScaler().fit(features)
    plain = Ridge(fitted.strength).fit(scaler.transform(features), levels)
    np.testing.assert_allclose(fitted.answer(features), plain.predict(scaler.transform(features)), rtol=1e-9)


def test_what_is_held_out_is_answered_without_its_patient() -> None:
    features, levels, patients = planted(60, 1.0)
    fitted = fit(features, levels, levels, patients, 1)
    # Components of all features, as `fit` takes them, are a rotation: ridge regression does not see it.
    scaled = StandardScaler().fit_transform(features)
    for training, held_out in divided(levels, patients, 1):
        others = Ridge(fitted.strength).fit(scaled[training], levels[training])
        np.testing.assert_allclose(fitted.held_out[held_out], others.predict(scaled[held_out]), rtol=1e-9)


def test_the_strength_follows_the_noise() -> None:
    def strength(noise: float) -> float:
        features, levels, patients = planted(100, noise)
        return fit(features, levels, levels, patients, 1).strength

    assert strength(0.1) < strength(30.0)
    assert {strength(0.1), strength(30.0)} <= set(STRENGTHS)


def test_each_photograph_is_held_out_once_with_all_of_its_patient() -> None:
    _, levels, patients = planted(40, 1.0)
    seen = []
    for training, held_out in divided(levels, patients, 1):
        assert not {patients[number] for number in training} & {patients[number] for number in held_out}
        assert sorted([*training, *held_out]) == list(range(80))
        seen += held_out.tolist()
    assert sorted(seen) == list(range(80))


def test_neither_order_nor_repetition_changes_an_answer() -> None:
    features, levels, patients = planted(40, 1.0)
    answers = fit(features, levels, levels, patients, 1).held_out
    np.testing.assert_array_equal(fit(features, levels, levels, patients, 1).held_out, answers)
    order = np.random.default_rng(2).permutation(80)
    shuffled = fit(features[order], levels[order], levels[order], [patients[number] for number in order], 1)
    np.testing.assert_allclose(shuffled.held_out, answers[order], rtol=1e-6)


def test_more_features_than_photographs() -> None:
    rng = np.random.default_rng(0)
    features, levels, patients = planted(60, 0.1)
    wide = np.concatenate([features, rng.normal(size=(120, 500))], axis=1).astype(np.float16)
    answers = fit(wide, levels, levels, patients, 1).held_out
    assert answers.dtype == np.float64
    assert np.corrcoef(answers, levels)[0, 1] > 0.3


def test_one_patient_is_not_enough() -> None:
    features, levels, _ = planted(5, 1.0)
    with pytest.raises(RetinaflowError, match=r"found 1 patients with 10 photographs.*check data\.patient_pattern"):
        fit(features, levels, levels, ["a"] * 10, 1)
