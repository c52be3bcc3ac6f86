"""Ridge regression with a strength chosen on held-out patients."""

import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.preprocessing import StandardScaler

from retinaflow.errors import RetinaflowError
from retinaflow.scoring.ridge import STRENGTHS, fit, patient_folds


def planted(patients: int, noise: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Return features of two images a patient, grades 0 to 4 that follow a sum of the first three, and patients."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(2 * patients, 10)) * np.arange(1, 11)
    score = features[:, :3] @ [1.0, 0.5, 1 / 3] + noise * rng.normal(size=2 * patients)
    grades = np.digitize(score, np.quantile(score, [0.5, 0.7, 0.85, 0.95]))
    return features, grades, [str(number // 2) for number in range(2 * patients)]


def test_fit_is_ridge_regression_on_scaled_features() -> None:
    features, grades, patients = planted(60, 1.0)
    fitted = fit(features, grades, grades=grades, patients=patients, seed=1)
    scaler = StandardScaler().fit(features)
    plain = Ridge(fitted.strength).fit(scaler.transform(features), grades)
    np.testing.assert_allclose(fitted.predict(features), plain.predict(scaler.transform(features)), rtol=1e-9)


def test_held_out_images_are_predicted_without_their_patient() -> None:
    features, grades, patients = planted(60, 1.0)
    fitted = fit(features, grades, grades=grades, patients=patients, seed=1)
    # All principal components are a rotation, which does not change ridge regression.
    scaled = StandardScaler().fit_transform(features)
    for training, held_out in patient_folds(grades, patients, 1):
        others = Ridge(fitted.strength).fit(scaled[training], grades[training])
        np.testing.assert_allclose(fitted.held_out[held_out], others.predict(scaled[held_out]), rtol=1e-9)


def test_more_noise_gives_a_higher_strength() -> None:
    def strength(noise: float) -> float:
        features, grades, patients = planted(100, noise)
        return fit(features, grades, grades=grades, patients=patients, seed=1).strength

    assert strength(0.1) < strength(30.0)
    assert {strength(0.1), strength(30.0)} <= set(STRENGTHS)


def test_each_image_is_held_out_once_with_its_patient() -> None:
    _, grades, patients = planted(40, 1.0)
    found = []
    for training, held_out in patient_folds(grades, patients, 1):
        assert not {patients[number] for number in training} & {patients[number] for number in held_out}
        assert sorted([*training, *held_out]) == list(range(80))
        found += held_out.tolist()
    assert sorted(found) == list(range(80))


def test_predictions_do_not_depend_on_the_order_of_images() -> None:
    features, grades, patients = planted(40, 1.0)
    predicted = fit(features, grades, grades=grades, patients=patients, seed=1).held_out
    np.testing.assert_array_equal(fit(features, grades, grades=grades, patients=patients, seed=1).held_out, predicted)
    order = np.random.default_rng(2).permutation(80)
    shuffled = fit(
        features[order], grades[order], grades=grades[order], patients=[patients[number] for number in order], seed=1
    )
    np.testing.assert_allclose(shuffled.held_out, predicted[order], rtol=1e-6)


def test_more_features_than_images_can_be_fitted() -> None:
    rng = np.random.default_rng(0)
    features, grades, patients = planted(60, 0.1)
    wide = np.concatenate([features, rng.normal(size=(120, 500))], axis=1).astype(np.float16)
    predicted = fit(wide, grades, grades=grades, patients=patients, seed=1).held_out
    assert predicted.dtype == np.float64
    assert np.corrcoef(predicted, grades)[0, 1] > 0.3


def test_images_of_one_patient_are_an_error() -> None:
    features, grades, _ = planted(5, 1.0)
    with pytest.raises(RetinaflowError, match=r"found 1 patients with 10 images.*check data\.patient_pattern"):
        fit(features, grades, grades=grades, patients=["a"] * 10, seed=1)


def test_affine_map_equals_pipeline():
    rng = np.random.default_rng(0)
    features = (rng.normal(size=(60, 7)) * [1, 10, 0.1, 1, 1, 5, 0] + 3).astype(np.float32)
    grades = rng.integers(0, 5, 60)
    fitted = fit(features, grades, grades=grades, patients=[str(n // 2) for n in range(60)], seed=1)
    weights, intercept = fitted.affine()
    np.testing.assert_allclose(features @ weights + intercept, fitted.predict(features), atol=1e-4)
