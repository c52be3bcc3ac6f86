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
    Labelled,
    best_temperature,
    best_thresholds,
    cross_fitted,
    fit,
    grade,
    mean_thresholds,
    operating_point,
    ordered_probit,
    read_decision_rule,
    write_decision_rule,
)

CLASSES = ["none", "mild", "moderate", "severe", "proliferative"]
# Of EyePACS.
SHARES = np.array([25810, 2443, 5292, 873, 708]) / 35126


def kappa(actual, predicted):
    # Without all levels, those there are would count as neighbours.
    return cohen_kappa_score(actual, predicted, weights="quadratic", labels=range(5))


def sickness(count, seed=0, noise=0.8):
    """Levels as frequent as in EyePACS, and severities that know too little and stay near the mean."""
    rng = np.random.default_rng(seed)
    levels = rng.choice(5, count, p=SHARES)
    return np.clip(0.5 + 0.6 * (levels + rng.normal(0, noise, count) - 0.5), 0, 4), levels


def labelled(count, seed=0, objective="regression"):
    severity, levels = sickness(count, seed)
    said = severity[:, None]
    if objective != "regression":
        probabilities = objectives.grade_probabilities("regression", said, 5, 0.6)
        said = probabilities if objective == "softmax" else 1 - np.cumsum(probabilities, axis=1)[:, :-1]
    return Labelled(objective, CLASSES, said, levels, [f"p{number // 2}" for number in range(count)])


def best_by_trying(severity, levels, weights, classes):
    """The largest kappa of all ways to place the thresholds."""
    severity, levels = np.repeat(severity, weights), np.repeat(levels, weights)
    places = [-1.0, *np.unique(severity)]
    return max(
        np.nan_to_num(kappa(levels, (severity[:, None] > cuts).sum(axis=1)), nan=-1)
        for cuts in itertools.combinations_with_replacement(places, classes - 1)
    )


@settings(max_examples=30, deadline=None)
@given(
    st.integers(2, 4),
    st.lists(st.tuples(st.integers(0, 6), st.integers(0, 3), st.integers(0, 2)), min_size=2, max_size=9),
)
def test_thresholds_are_the_best_there_are(classes, photographs):
    """Also with ties, with classes that are not there, and with photographs that count twice or not at all."""
    photographs = sorted((severity / 2, min(level, classes - 1), weight) for severity, level, weight in photographs)
    severity, levels, weights = map(np.array, zip(*photographs, strict=True))
    thresholds = best_thresholds(severity, levels, weights, classes)
    assert thresholds.shape == (classes - 1,)
    assert (np.diff(thresholds) >= 0).all()
    best = best_by_trying(severity, levels, weights, classes) if len(set(levels[weights > 0])) > 1 else 0
    if best < 1e-9:  # nothing to be gained
        assert thresholds.tolist() == [level + 0.5 for level in range(classes - 1)]
        return
    predicted = (severity[:, None] > thresholds).sum(axis=1)
    assert kappa(np.repeat(levels, weights), np.repeat(predicted, weights)) == pytest.approx(best, abs=1e-9)


def test_planted_thresholds_are_found():
    planted = np.array([0.8, 1.1, 2.3, 2.9])
    severity = np.sort(np.random.default_rng(0).uniform(0, 4, 4000))
    levels = np.searchsorted(planted, severity)
    assert best_thresholds(severity, levels, np.ones(4000, int), 5) == pytest.approx(planted, abs=0.003)
    patients = [str(number) for number in range(4000)]
    assert mean_thresholds(severity, levels, patients, 5, seed=1) == pytest.approx(planted, abs=0.003)


def test_neighbouring_floats_are_parted():
    low = 1.0
    high = np.nextafter(low, 2)
    (threshold,) = best_thresholds(np.array([low, high]), np.array([0, 1]), np.ones(2, int), 2)
    assert low <= threshold < high


def test_the_mean_over_resampled_patients_is_worth_more_than_what_is_best_for_one_sample():
    severity, levels = sickness(40_000, seed=99)
    gains = []
    for seed in range(5):
        few, known = sickness(300, seed)
        order = np.argsort(few)
        best = best_thresholds(few[order], known[order], np.ones(300, int), 5)
        mean = mean_thresholds(few, known, [str(number) for number in range(300)], 5, seed=1)
        gains.append(np.subtract(*(kappa(levels, np.searchsorted(cuts, severity)) for cuts in (mean, best))))
    assert np.mean(gains) > 0.001


@pytest.mark.parametrize("objective", ["softmax", "ordinal"])
@pytest.mark.parametrize("planted", [0.5, 2.0])
def test_a_planted_temperature_is_found(objective, planted):
    """Levels drawn from probabilities whose logits were divided by it."""
    rng = np.random.default_rng(0)
    probabilities = rng.dirichlet(np.ones(5), 8000)
    said = probabilities if objective == "softmax" else 1 - np.cumsum(probabilities, axis=1)[:, :-1]
    true = objectives.grade_probabilities(objective, said, 5, planted)
    levels = (rng.random((8000, 1)) > np.cumsum(true, axis=1)).sum(axis=1)
    assert best_temperature(objective, said, levels, 5) == pytest.approx(planted, rel=0.06)


def test_planted_cuts_and_deviation_are_found():
    rng = np.random.default_rng(0)
    severity = rng.uniform(0, 4, 20_000)
    planted = np.array([0.5, 1.8, 2.4, 3.3])
    levels = np.searchsorted(planted, severity + rng.normal(0, 0.7, 20_000))
    cuts, deviation = ordered_probit(severity, levels, 5)
    assert cuts == pytest.approx(planted, abs=0.05)
    assert deviation == pytest.approx(0.7, rel=0.04)


@pytest.mark.parametrize("absent", [0, 2, 4])
def test_no_class_is_impossible_though_none_was_seen(absent):
    severity, levels = sickness(500)
    cuts, deviation = ordered_probit(severity[levels != absent], levels[levels != absent], 5)
    probabilities = objectives.grade_probabilities("regression", severity[:, None], 5, deviation, cuts)
    assert (np.diff(cuts) > 0).all()
    assert 0 < probabilities[:, absent].max() < 0.6


def test_the_operating_point_finds_what_it_is_to_find_and_refers_no_more_than_that_takes():
    risk = np.array([0.9, 0.8, 0.7, 0.6, 0.6, 0.5, 0.4, 0.2])
    referable = np.array([1, 1, 0, 1, 0, 1, 0, 1], bool)
    for sensitivity, expected in ((0.2, 0.85), (0.21, 0.75), (0.6, 0.55), (0.8, 0.45), (0.81, 0.0), (1.0, 0.0)):
        assert operating_point(risk, referable, sensitivity) == pytest.approx(expected)
    assert operating_point(risk, np.zeros(8, bool), 0.9) == 0.5


@pytest.mark.parametrize("objective", ["softmax", "regression", "ordinal"])
def test_a_decision_says_the_same_of_the_same_photographs_in_any_order(objective):
    known = labelled(400, objective=objective)
    first = fit(known, 2, 0.9, seed=1)
    order = np.random.default_rng(1).permutation(400)
    shuffled = known._replace(
        outputs=known.outputs[order], grades=known.grades[order], patients=[known.patients[place] for place in order]
    )
    again = fit(shuffled, 2, 0.9, seed=1)
    assert again.thresholds == first.thresholds
    assert again.temperature == pytest.approx(first.temperature, rel=1e-4)
    assert fit(known, 2, 0.9, seed=2).thresholds != first.thresholds
    grades = grade(first, known.outputs)
    assert kappa(known.grades, grades.predicted) > kappa(known.grades, grades.argmax) + 0.02
    assert grades.probabilities.sum(axis=1) == pytest.approx(np.ones(400))
    assert grades.referable[known.grades >= 2].mean() == pytest.approx(0.9, abs=0.02)
    assert (first.images, first.patients) == (400, 200)
    # The lowest level has the least severity, and so on.
    assert all(
        grades.severity[grades.predicted == level].max() <= grades.severity[grades.predicted == level + 1].min()
        for level in range(4)
    )


def test_labels_of_a_patient_do_not_reach_the_grades_of_that_patient():
    known = labelled(200)
    before = cross_fitted(known, 2, 0.9, seed=1)
    levels = known.grades.copy()
    # Within one patient: the worst level, which groups go by, stays.
    place = next(n for n in range(0, 200, 2) if levels[n] != levels[n + 1])
    levels[place : place + 2] = levels[place : place + 2][::-1]
    after = cross_fitted(known._replace(grades=levels), 2, 0.9, seed=1)
    for name in before._fields:
        assert np.array_equal(getattr(before, name)[place : place + 2], getattr(after, name)[place : place + 2])
    assert not np.array_equal(before.probabilities, after.probabilities)


def test_two_classes_and_two_patients_are_enough():
    known = Labelled(
        "ordinal", ["no", "yes"], np.array([[0.1], [0.2], [0.8], [0.9]]), np.array([0, 0, 1, 1]), list("aabb")
    )
    assert grade(fit(known, 1, 0.9, 1), known.outputs).predicted.tolist() == [0, 0, 1, 1]
    assert len(cross_fitted(known, 1, 0.9, 1).predicted) == 4
    with pytest.raises(
        RetinaflowError, match="4 photographs of one patient are held out, expected those of at least two"
    ):
        cross_fitted(known._replace(patients=list("aaaa")), 1, 0.9, 1)


def test_a_decision_is_read_as_it_was_written(tmp_path):
    known = labelled(100)
    decision = fit(known, 2, 0.9, seed=1)
    write_decision_rule(tmp_path / "decision_rule.json", decision)
    assert read_decision_rule(tmp_path / "decision_rule.json") == decision


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"thresholds": [0.5, 1.5]}, r"thresholds are \[0.5, 1.5\], expected 4 ascending numbers"),
        ({"thresholds": [1.5, 0.5, 2.5, 3.5]}, "expected 4 ascending numbers"),
        ({"thresholds": [0.5, 1.5, 2.5, float("nan")]}, "NaN is no JSON number"),
        ({"thresholds": [0.5, 1.5, 2.5, 1e400]}, "Infinity is no JSON number"),
        ({"cutpoints": None}, "cutpoints of a regression alone"),
        ({"objective": "softmax"}, "cutpoints of a regression alone"),
        ({"objective": "guess"}, "objective: 'guess' is not one of"),
        ({"temperature": 0}, "temperature: 0 is less than"),
        ({"referable_grade": 5}, "expected a grade below 5"),
        ({"referable_cut": "low"}, "referable_cut: 'low' is not of type 'number'"),
        ({"more": 1}, "'more' was unexpected"),
    ],
)
def test_what_is_no_decision_is_refused(tmp_path, change, told):
    content = fit(labelled(100), 2, 0.9, seed=1)._asdict()
    (tmp_path / "decision_rule.json").write_text(json.dumps({**content, **change}))
    with pytest.raises(RetinaflowError, match=rf"decision_rule\.json: .*{told}.*Delete it"):
        read_decision_rule(tmp_path / "decision_rule.json")


@pytest.mark.parametrize("content", [None, "", "[]", "{"])
def test_what_is_no_json_of_a_decision_is_refused(tmp_path, content):
    if content is not None:
        (tmp_path / "decision_rule.json").write_text(content)
    with pytest.raises(RetinaflowError, match=r"decision_rule\.json: .*Delete it"):
        read_decision_rule(tmp_path / "decision_rule.json")
