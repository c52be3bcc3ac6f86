import itertools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from retinaflow.errors import RetinaflowError
from retinaflow.networks import objectives
from retinaflow.scoring.decision_rules import (
    LabelledOutputs,
    apply_decision_rule,
    best_temperature,
    best_thresholds,
    cross_fit,
    fit_decision_rule,
    mean_thresholds,
    operating_point,
    ordered_probit,
    read_decision_rule,
    write_decision_rule,
)

GRADE_NAMES = ["none", "mild", "moderate", "severe", "proliferative"]
# Shares of the grades in EyePACS.
SHARES = np.array([25810, 2443, 5292, 873, 708]) / 35126


def kappa(actual, predicted):
    # With labels, grades without images still count in the distances.
    return cohen_kappa_score(actual, predicted, weights="quadratic", labels=range(5))


def simulated(count, seed=0, noise=0.8):
    """Return severities near the mean, with noise, and grades as frequent as in EyePACS."""
    rng = np.random.default_rng(seed)
    grades = rng.choice(5, count, p=SHARES)
    return np.clip(0.5 + 0.6 * (grades + rng.normal(0, noise, count) - 0.5), 0, 4), grades


def labelled(count, seed=0, objective="regression"):
    severity, grades = simulated(count, seed)
    outputs = severity[:, None]
    if objective != "regression":
        probabilities = objectives.grade_probabilities("regression", outputs, 5, 0.6)
        outputs = probabilities if objective == "softmax" else 1 - np.cumsum(probabilities, axis=1)[:, :-1]
    return LabelledOutputs(objective, GRADE_NAMES, outputs, grades, [f"p{number // 2}" for number in range(count)])


def best_kappa(severity, grades, weights, grade_count):
    """Return the highest kappa of all possible thresholds."""
    severity, grades = np.repeat(severity, weights), np.repeat(grades, weights)
    places = [-1.0, *np.unique(severity)]
    return max(
        np.nan_to_num(kappa(grades, (severity[:, None] > cutpoints).sum(axis=1)), nan=-1)
        for cutpoints in itertools.combinations_with_replacement(places, grade_count - 1)
    )


@settings(max_examples=30, deadline=None)
@given(
    st.integers(2, 4),
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 3), st.integers(0, 2)), min_size=2, max_size=9),
)
def test_thresholds_have_the_highest_possible_kappa(grade_count, images):
    """Severities may be equal, grades may have no image, and images may count twice or never."""
    images = sorted((severity / 2, min(grade, grade_count - 1), weight) for severity, grade, weight in images)
    severity, grades, weights = map(np.array, zip(*images, strict=True))
    thresholds = best_thresholds(severity, grades, weights=weights, grade_count=grade_count)
    assert thresholds.shape == (grade_count - 1,)
    assert (np.diff(thresholds) >= 0).all()
    best = best_kappa(severity, grades, weights, grade_count) if len(set(grades[weights > 0])) > 1 else 0
    if best < 1e-9:  # no thresholds are better than one grade for all
        assert thresholds.tolist() == [grade + 0.5 for grade in range(grade_count - 1)]
        return
    predicted = (severity[:, None] > thresholds).sum(axis=1)
    assert kappa(np.repeat(grades, weights), np.repeat(predicted, weights)) == pytest.approx(best, abs=1e-9)


def test_planted_thresholds_are_found():
    planted = np.array([0.8, 1.1, 2.3, 2.9])
    severity = np.sort(np.random.default_rng(0).uniform(0, 4, 4000))
    grades = np.searchsorted(planted, severity)
    assert best_thresholds(severity, grades, weights=np.ones(4000, int), grade_count=5) == pytest.approx(
        planted, abs=0.003
    )
    patients = [str(number) for number in range(4000)]
    assert mean_thresholds(severity, grades, patients=patients, grade_count=5, seed=1) == pytest.approx(
        planted, abs=0.003
    )


def test_neighbouring_floats_are_separated():
    low = 1.0
    high = np.nextafter(low, 2)
    (threshold,) = best_thresholds(np.array([low, high]), np.array([0, 1]), weights=np.ones(2, int), grade_count=2)
    assert low <= threshold < high


def test_mean_thresholds_beat_the_best_of_one_sample():
    severity, grades = simulated(40_000, seed=99)
    gains = []
    for seed in range(5):
        few, known = simulated(300, seed)
        order = np.argsort(few)
        best = best_thresholds(few[order], known[order], weights=np.ones(300, int), grade_count=5)
        mean = mean_thresholds(few, known, patients=[str(number) for number in range(300)], grade_count=5, seed=1)
        gains.append(np.subtract(*(kappa(grades, np.searchsorted(cutpoints, severity)) for cutpoints in (mean, best))))
    assert np.mean(gains) > 0.001


@pytest.mark.parametrize("objective", ["softmax", "ordinal"])
@pytest.mark.parametrize("planted", [0.5, 2.0])
def test_planted_temperature_is_found(objective, planted):
    """The grades are drawn from probabilities with logits divided by the temperature."""
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(5), 8000)
    outputs = probabilities if objective == "softmax" else 1 - np.cumsum(probabilities, axis=1)[:, :-1]
    true = objectives.grade_probabilities(objective, outputs, 5, planted)
    grades = (rng.random((8000, 1)) > np.cumsum(true, axis=1)).sum(axis=1)
    assert best_temperature(objective, outputs, grades=grades, grade_count=5) == pytest.approx(planted, rel=0.06)


def test_planted_cutpoints_and_deviation_are_found():
    rng = np.random.default_rng(0)
    severity = rng.uniform(0, 4, 20_000)
    planted = np.array([0.5, 1.8, 2.4, 3.3])
    grades = np.searchsorted(planted, severity + rng.normal(0, 0.7, 20_000))
    cutpoints, deviation = ordered_probit(severity, grades, 5)
    assert cutpoints == pytest.approx(planted, abs=0.05)
    assert deviation == pytest.approx(0.7, rel=0.04)


@pytest.mark.parametrize("absent", [0, 2, 4])
def test_grade_without_images_has_a_probability(absent):
    severity, grades = simulated(500)
    cutpoints, deviation = ordered_probit(severity[grades != absent], grades[grades != absent], 5)
    probabilities = objectives.grade_probabilities("regression", severity[:, None], 5, deviation, cutpoints)
    assert (np.diff(cutpoints) > 0).all()
    assert 0 < probabilities[:, absent].max() < 0.6


def test_operating_point_is_the_highest_cut_with_the_sensitivity():
    risk = np.array([0.9, 0.8, 0.7, 0.6, 0.6, 0.5, 0.4, 0.2])
    referable = np.array([1, 1, 0, 1, 0, 1, 0, 1], bool)
    for sensitivity, expected in ((0.2, 0.85), (0.21, 0.75), (0.6, 0.55), (0.8, 0.45), (0.81, 0.0), (1.0, 0.0)):
        assert operating_point(risk, referable, sensitivity) == pytest.approx(expected)
    assert operating_point(risk, np.zeros(8, bool), 0.9) == 0.5


@pytest.mark.parametrize("objective", ["softmax", "regression", "ordinal"])
def test_decision_rule_is_the_same_for_images_in_any_order(objective):
    known = labelled(400, objective=objective)
    first = fit_decision_rule(known, 2, referable_sensitivity=0.9, seed=1)
    order = np.random.default_rng(1).permutation(400)
    shuffled = known._replace(
        outputs=known.outputs[order], grades=known.grades[order], patients=[known.patients[place] for place in order]
    )
    again = fit_decision_rule(shuffled, 2, referable_sensitivity=0.9, seed=1)
    assert again.thresholds == first.thresholds
    assert again.temperature == pytest.approx(first.temperature, rel=1e-4)
    assert fit_decision_rule(known, 2, referable_sensitivity=0.9, seed=2).thresholds != first.thresholds
    grades = apply_decision_rule(first, known.outputs)
    assert kappa(known.grades, grades.predicted) > kappa(known.grades, grades.argmax) + 0.02
    assert grades.probabilities.sum(axis=1) == pytest.approx(np.ones(400))
    assert grades.referable[known.grades >= 2].mean() == pytest.approx(0.9, abs=0.02)
    assert (first.images, first.patients) == (400, 200)
    # Higher grades have higher severities.
    assert all(
        grades.severity[grades.predicted == grade].max() <= grades.severity[grades.predicted == grade + 1].min()
        for grade in range(4)
    )


def test_grades_of_a_patient_do_not_change_own_predictions():
    known = labelled(200)
    before = cross_fit(known, 2, referable_sensitivity=0.9, seed=1)
    grades = known.grades.copy()
    # The worst grade of the patient, which decides on the group, stays.
    place = next(n for n in range(0, 200, 2) if grades[n] != grades[n + 1])
    grades[place : place + 2] = grades[place : place + 2][::-1]
    after = cross_fit(known._replace(grades=grades), 2, referable_sensitivity=0.9, seed=1)
    for name in before._fields:
        assert np.array_equal(getattr(before, name)[place : place + 2], getattr(after, name)[place : place + 2])
    assert not np.array_equal(before.probabilities, after.probabilities)


def test_of_two_grades_the_predicted_one_is_the_decision():
    many = labelled(200)
    outputs = np.stack([many.outputs[:, :2].sum(axis=1), many.outputs[:, 2:].sum(axis=1)], axis=1)
    known = many._replace(grade_names=["no", "yes"], outputs=outputs, grades=(many.grades >= 2).astype(np.int64))
    rule = fit_decision_rule(known, 1, referable_sensitivity=0.95, seed=1)
    graded = apply_decision_rule(rule, known.outputs)
    assert np.array_equal(graded.predicted, graded.referable)
    assert graded.predicted.dtype == np.int64
    assert not np.array_equal(graded.predicted, np.searchsorted(rule.thresholds, graded.severity, side="left"))


def test_two_grades_and_two_patients_are_enough():
    known = LabelledOutputs(
        "ordinal", ["no", "yes"], np.array([[0.1], [0.2], [0.8], [0.9]]), np.array([0, 0, 1, 1]), list("aabb")
    )
    assert apply_decision_rule(
        fit_decision_rule(known, 1, referable_sensitivity=0.9, seed=1), known.outputs
    ).predicted.tolist() == [0, 0, 1, 1]
    assert len(cross_fit(known, 1, referable_sensitivity=0.9, seed=1).predicted) == 4
    with pytest.raises(RetinaflowError, match="4 images of one patient are held out, expected those of at least two"):
        cross_fit(known._replace(patients=list("aaaa")), 1, referable_sensitivity=0.9, seed=1)


def test_written_decision_rule_is_read(tmp_path):
    known = labelled(100)
    rule = fit_decision_rule(known, 2, referable_sensitivity=0.9, seed=1)
    write_decision_rule(tmp_path / "decision_rule.json", rule)
    assert read_decision_rule(tmp_path / "decision_rule.json") == rule


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"thresholds": [0.5, 1.5]}, r"thresholds are \[0.5, 1.5\], expected 4 ascending numbers"),
        ({"thresholds": [1.5, 0.5, 2.5, 3.5]}, "expected 4 ascending numbers"),
        ({"thresholds": [0.5, 1.5, 2.5, float("nan")]}, "NaN is no JSON number"),
        ({"thresholds": [0.5, 1.5, 2.5, 1e400]}, "Infinity is no JSON number"),
        ({"cutpoints": None}, "cutpoints for a regression only"),
        ({"objective": "softmax"}, "cutpoints for a regression only"),
        ({"objective": "guess"}, "objective: 'guess' is not one of"),
        ({"temperature": 0}, "temperature: 0 is less than"),
        ({"referable_grade": 5}, "expected a grade below 5"),
        ({"referable_cut": "low"}, "referable_cut: 'low' is not of type 'number'"),
        ({"more": 1}, "'more' was unexpected"),
    ],
)
def test_invalid_decision_rule_is_refused(tmp_path, change, expected):
    content = fit_decision_rule(labelled(100), 2, referable_sensitivity=0.9, seed=1)._asdict()
    (tmp_path / "decision_rule.json").write_text(json.dumps({**content, **change}))
    with pytest.raises(RetinaflowError, match=rf"decision_rule\.json: .*{expected}.*Delete it"):
        read_decision_rule(tmp_path / "decision_rule.json")


@pytest.mark.parametrize("content", [None, "", "[]", "{"])
def test_invalid_json_of_a_decision_rule_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "decision_rule.json").write_text(content)
    with pytest.raises(RetinaflowError, match=r"decision_rule\.json: .*Delete it"):
        read_decision_rule(tmp_path / "decision_rule.json")
