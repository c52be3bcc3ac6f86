import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from retinaflow.evaluation.accuracy import Sampling, assess_results, assess_scores, rates
from retinaflow.evaluation.bootstrap import weighted_auc
from retinaflow.evaluation.units import AS_POSITIVE, LEFT_OUT, WORST_CASE, UnitImages, count_results, group_units

# Ten patients of one image: 3 of 4 positive ones are found, and 1 of 6 others is referred.
POSITIVE = np.array([1, 1, 1, 1, 0, 0, 0, 0, 0, 0], bool)
FLAGGED = np.array([1, 1, 1, 0, 1, 0, 0, 0, 0, 0], bool)


def test_rates_by_hand():
    found = assess_results(POSITIVE, FLAGGED, Sampling(np.arange(10), 200, 1), prevalences=[0.1])
    expected = {
        "sensitivity": 3 / 4,
        "specificity": 5 / 6,
        "ppv": 3 / 4,
        "npv": 5 / 6,
        "positive_likelihood_ratio": 4.5,
        "negative_likelihood_ratio": 0.3,
        "ppv_0.1": 0.075 / (0.075 + 0.15),
        "npv_0.1": 0.75 / (0.75 + 0.025),
    }
    assert {name: one.value for name, one in found.items()} == pytest.approx(expected)
    assert found["sensitivity"].low < 0.75 < found["sensitivity"].high


def test_undefined_rates_have_no_value():
    found = assess_results(np.ones(3, bool), np.zeros(3, bool), Sampling(np.arange(3), 50, 1))
    assert (found["specificity"].value, found["ppv"].value, found["sensitivity"].value) == (None, None, 0)


def test_published_study_is_reproduced():
    """Abramoff et al. (2018): 173 of 198 and 556 of 621 patients; PPV and NPV of the sample."""
    found = rates(np.array([[556, 65], [25, 173]]))
    assert [round(float(found[name]), 3) for name in ("sensitivity", "specificity", "ppv", "npv")] == [
        *(0.874, 0.895),
        *(0.727, 0.957),
    ]


@pytest.mark.parametrize("digits", [1, 6])
def test_areas_agree_with_scikit_learn(digits):
    rng = np.random.default_rng(4)
    positive = rng.random(60) < 0.3
    score = np.round(rng.random(60) + 0.5 * positive, digits)
    found = assess_scores(positive, score, Sampling(np.arange(60), 0, 1))
    assert found["auc"].value == pytest.approx(roc_auc_score(positive, score))
    assert found["average_precision"].value == pytest.approx(average_precision_score(positive, score))


def test_constant_networks_of_folds_have_area_half():
    # Each fold has the share of positive images of the other folds as its only output.
    positive = np.array([1, 1, 0, 0, 0, 1, 0, 0], bool)
    folds = np.repeat([1, 2], 4)
    score = np.where(folds == 1, 0.25, 0.5)
    once = np.ones((1, 8))
    assert weighted_auc(positive, score)(once)[0] < 0.5
    assert weighted_auc(positive, score, folds)(once)[0] == 0.5


def test_areas_of_strata_are_pooled_over_pairs():
    positive, score = np.array([1, 0, 0, 1, 0], bool), np.array([0.9, 0.1, 0.2, 0.1, 0.8])
    # Two of two pairs in the first stratum, none of one in the second.
    assert weighted_auc(positive, score, np.array([1, 1, 1, 2, 2]))(np.ones((1, 5)))[0] == pytest.approx(2 / 3)


def images():
    """Patient a: right eye positive and ungradable, left eye not. b: one ungradable eye, negative. c: two gradable."""
    return UnitImages(
        positive=np.array([True, False, False, True, False]),
        risk=np.array([np.nan, 0.2, np.nan, 0.9, 0.4]),
        patients=["a", "a", "b", "c", "c"],
        eyes=["right", "left", "right", "left", "left"],
    )


def test_patient_is_positive_if_one_gradable_eye_is():
    patients = group_units(images(), "patient")
    assert patients.positive.tolist() == [True, False, True]
    assert patients.gradable_positive.tolist() == [False, False, True]
    assert patients.gradable.tolist() == [True, False, True]
    assert patients.complete.tolist() == [False, False, True]
    assert patients.risk[[0, 2]].tolist() == [0.2, 0.9]
    assert len(group_units(images(), "eye").risk) == 4
    assert len(group_units(images()._replace(eyes=[""] * 5), "eye").risk) == 5


def test_units_without_truth_never_make_the_model_look_better():
    unclear = np.array([False, False, True, False, False])
    patients = group_units(images()._replace(unknown=unclear), "patient")
    assert patients.unknown.tolist() == [False, True, False]
    flagged = np.nan_to_num(patients.risk) >= 0.5
    counted = {way: count_results(patients, flagged, way) for way in (LEFT_OUT, AS_POSITIVE, WORST_CASE)}
    found = {
        way: list(zip(truth.tolist(), result.tolist(), strict=True)) for way, (truth, result, _) in counted.items()
    }
    assert found[LEFT_OUT] == [(False, False), (True, True)]
    # Patient b: a false positive, and a missed positive in the worst case.
    assert found[AS_POSITIVE][1] == (False, True)
    assert found[WORST_CASE][1] == (True, False)
    # A patient with another image has the truth of that one.
    some = images()._replace(unknown=np.array([False, False, True, False, True]))
    assert group_units(some, "patient").unknown.tolist() == [False, True, False]


def test_ungradable_images_are_counted_in_three_ways():
    patients = group_units(images(), "patient")
    flagged = np.nan_to_num(patients.risk) >= 0.5
    counted = {way: count_results(patients, flagged, way) for way in (LEFT_OUT, AS_POSITIVE, WORST_CASE)}
    assert {way: found[1].tolist() for way, found in counted.items()} == {
        LEFT_OUT: [False, True],
        AS_POSITIVE: [True, True, True],
        WORST_CASE: [False, True, True],
    }
    assert counted[WORST_CASE][0].tolist() == [True, False, True]
