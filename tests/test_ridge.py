"""Ridge regression whose strength and answers are judged by patients that it has not seen."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from retinaflow.errors import RetinaflowError
from retinaflow.ridge import STRENGTHS, cross_fitted, fit, patient_folds, rounds


def planted(patients: int, noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Features of two photographs a patient, whose levels 0 to 4 a sum of the first three tells; levels; patients."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(2 * patients, 10)) * np.arange(1, 11)
    score = features[:, :3] @ [1.0, 0.5, 1 / 3] + noise * rng.normal(size=2 * patients)
    levels = np.digitize(score, np.quantile(score, [0.5, 0.7, 0.85, 0.95]))
    return features, levels, [str(number // 2) for number in range(2 * patients)]


def test_it_is_ridge_regression_on_scaled_features() -> None:
    features, levels, patients = planted(60, 1.0)
    fitted = fit(features, levels, patients, 1)
    scaler = StandardScaler().fit(features)
    plain = Ridge(fitted.strength).fit(scaler.transform(features), levels)
    np.testing.assert_allclose(fitted.severity(features), plain.predict(scaler.transform(features)), rtol=1e-9)


def test_what_is_held_out_is_answered_without_its_patient() -> None:
    features, levels, patients = planted(60, 1.0)
    fitted, folds = fit(features, levels, patients, 1), patient_folds(levels, patients, 1)
    assert len(set(zip(patients, folds.tolist(), strict=True))) == 60
    # Components of all features, as `fit` takes them, are a rotation: ridge regression does not see it.
    scaled = StandardScaler().fit_transform(features)
    for fold in range(1, 6):
        others = Ridge(fitted.strength).fit(scaled[folds != fold], levels[folds != fold])
        np.testing.assert_allclose(fitted.held_out[folds == fold], others.predict(scaled[folds == fold]), rtol=1e-9)


def test_the_strength_follows_the_noise() -> None:
    clear = fit(*planted(100, 0.1), seed=1)
    drowned = fit(*planted(100, 30.0), seed=1)
    assert clear.strength < drowned.strength
    assert {clear.strength, drowned.strength} <= set(STRENGTHS)


def test_rounds_hold_each_photograph_out_once_with_all_of_its_patient() -> None:
    features, levels, patients = planted(40, 1.0)
    held_out = []
    for training, left, _ in rounds(features, levels, patients, 1):
        assert not {patients[number] for number in training} & {patients[number] for number in left}
        assert len(training) + len(left) == 80
        held_out += left.tolist()
    assert sorted(held_out) == list(range(80))


def test_nothing_is_learned_of_who_is_held_out() -> None:
    # Features that tell patients apart and nothing else: whoever has seen the fellow eye knows the level.
    rng = np.random.default_rng(0)
    levels = np.repeat(rng.integers(0, 5, 150), 2)
    features = np.repeat(rng.normal(size=(150, 400)), 2, axis=0)
    patients = [str(number // 2) for number in range(300)]
    assert abs(np.corrcoef(cross_fitted(features, levels, patients, 1), levels)[0, 1]) < 0.2
    leaking = cross_fitted(features, levels, [str(number) for number in range(300)], 1)
    assert np.corrcoef(leaking, levels)[0, 1] > 0.8


def test_neither_order_nor_repetition_changes_an_answer() -> None:
    features, levels, patients = planted(40, 1.0)
    answer = cross_fitted(features, levels, patients, 1)
    np.testing.assert_array_equal(cross_fitted(features, levels, patients, 1), answer)
    order = np.random.default_rng(2).permutation(80)
    shuffled = cross_fitted(features[order], levels[order], [patients[number] for number in order], 1)
    np.testing.assert_allclose(shuffled, answer[order], rtol=1e-6)


def test_more_features_than_photographs() -> None:
    rng = np.random.default_rng(0)
    features, levels, patients = planted(60, 0.1)
    wide = np.concatenate([features, rng.normal(size=(120, 2000))], axis=1)
    assert fit(wide, levels, patients, 1).severity(wide).shape == (120,)


def test_one_patient_is_not_enough() -> None:
    features, levels, _ = planted(5, 1.0)
    with pytest.raises(RetinaflowError, match="found 1 patients with 10 photographs.*check data.patient"):
        fit(features, levels, ["a"] * 10, 1)
