"""What networks make of both eyes, put together: as much as there is to be had, and nothing of who is held out."""

import numpy as np
import pytest

from retinaflow.errors import RetinaflowError
from retinaflow.fusion import Fusion, Seen, cross_fused


def seen(patients: int, seed: int = 0) -> tuple[Seen, np.ndarray]:
    """Both eyes of ``patients``, of one level each; severities with much noise, and a feature that has half as much."""
    rng = np.random.default_rng(seed)
    levels = np.repeat(rng.integers(0, 5, patients), 2)
    severity = 0.5 * levels + 1 + rng.normal(size=2 * patients)
    features = np.concatenate(
        [(levels + rng.normal(size=2 * patients))[:, np.newaxis], rng.normal(size=(2 * patients, 19))], axis=1
    )
    names = [str(seed) + "-" + str(number // 2) for number in range(2 * patients)]
    return Seen(names, ["left", "right"] * patients, severity, features), levels


def error(severity: np.ndarray, levels: np.ndarray) -> float:
    return float(np.mean((severity - levels) ** 2))


def test_fusion_uses_the_fellow_eye_and_the_features() -> None:
    (training, known), (new, levels) = seen(400), seen(4000, 1)
    fused = error(Fusion(training, known, 1).severity(new), levels)
    alone = new._replace(eyes=[""] * 8000)
    one_eye = error(Fusion(training._replace(eyes=[""] * 800), known, 1).severity(alone), levels)
    without = [part._replace(features=part.features[:, 1:]) for part in (training, new)]
    no_features = error(Fusion(without[0], known, 1).severity(without[1]), levels)
    # Best linear answers to two errors of variance 4 and of variance 1, of one eye or of two, where levels vary by 2.
    assert fused == pytest.approx(1 / (1 / 2 + 2 * (1 / 4 + 1)), rel=0.15)
    assert one_eye == pytest.approx(1 / (1 / 2 + 1 / 4 + 1), rel=0.15)
    assert no_features == pytest.approx(1 / (1 / 2 + 2 / 4), rel=0.15)


def test_features_that_say_nothing_do_no_harm() -> None:
    (training, known), (new, levels) = seen(60), seen(200, 1)
    rng = np.random.default_rng(3)
    noise = [part._replace(features=rng.normal(size=(len(part.severity), 400))) for part in (training, new)]
    none = [part._replace(features=rng.normal(size=(len(part.severity), 1))) for part in (training, new)]
    with_noise, with_none = (error(Fusion(first, known, 1).severity(second), levels) for first, second in (noise, none))
    assert with_noise < 1.1 * with_none


def test_cross_fused_knows_no_label_of_the_patient() -> None:
    training, known = seen(100)
    # A feature that names the patient: whoever has seen the other eye's label knows this one's.
    named = training._replace(
        severity=np.zeros(200), features=np.repeat(np.random.default_rng(0).normal(size=(100, 150)), 2, axis=0)
    )
    assert abs(np.corrcoef(cross_fused(named, known, 1), known)[0, 1]) < 0.3
    assert error(Fusion(named, known, 1).severity(named), known) < error(cross_fused(named, known, 1), known)


def test_permuted_labels_are_not_learned() -> None:
    training, known = seen(100)
    permuted = np.repeat(np.random.default_rng(0).permutation(known[::2]), 2)
    assert abs(np.corrcoef(cross_fused(training, permuted, 1), permuted)[0, 1]) < 0.3
    assert np.corrcoef(cross_fused(training, known, 1), known)[0, 1] > 0.7


def test_a_photograph_without_its_fellow_is_graded_by_itself() -> None:
    (training, known), (new, _) = seen(100), seen(3, 1)
    half = Seen(new.patients[::2], new.eyes[::2], new.severity[::2], new.features[::2])
    severity = Fusion(training, known, 1).severity(half)
    assert severity.shape == (3,)
    assert np.isfinite(severity).all()


def test_fusion_of_one_patient_is_refused() -> None:
    one, known = seen(1)
    with pytest.raises(RetinaflowError, match="found 1 patients"):
        cross_fused(one, known, 1)
