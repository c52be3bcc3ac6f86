import numpy as np
import pytest

from retinaflow.evaluation.accuracy import Sampling
from retinaflow.evaluation.subgroups import GroupedUnits, Guard, bands, compare_groups, correct_together

GUARD = Guard(patients=20, events=10)


def simulated(worse=0.0, patients=600, seed=6):
    """Units of two cameras; on the old one, the model misses more by the share ``worse``."""
    rng = np.random.default_rng(seed)
    positive = rng.random(patients) < 0.4
    old = rng.random(patients) < 0.3
    right = rng.random(patients) < np.where(old & positive, 0.9 - worse, 0.9)
    flagged = positive == right
    score = flagged + rng.random(patients)
    groups = np.where(old, "old", "new").tolist()
    return GroupedUnits(positive, flagged, score, groups), Sampling(np.arange(patients), 400, 1)


def by_name(metrics):
    return {(one.group, one.metric): one for one in metrics}


def test_planted_difference_is_found():
    found = by_name(compare_groups(*simulated(worse=0.35), GUARD))
    old = found["old", "sensitivity"]
    assert old.difference.high < 0
    assert old.corrected < 0.001
    assert found["new", "sensitivity"].difference.value == pytest.approx(-old.difference.value)
    assert found["old", "specificity"].corrected > 0.05


def test_equal_groups_rarely_differ():
    findings = 0
    for seed in range(30):
        findings += any(one.corrected < 0.05 for one in compare_groups(*simulated(patients=200, seed=seed), GUARD))
    assert findings <= 5


def test_group_metric_by_hand():
    units = GroupedUnits(
        np.array([1, 1, 0, 0, 1, 0], bool),
        np.array([1, 0, 0, 0, 1, 1], bool),
        np.array([0.9, 0.2, 0.1, 0.3, 0.8, 0.7]),
        ["a", "a", "a", "a", "b", "b"],
    )
    found = by_name(compare_groups(units, Sampling(np.arange(6), 0, 1), Guard(2, 1)))
    assert found["a", "sensitivity"].inside.value == 0.5
    assert found["a", "sensitivity"].difference.value == -0.5
    assert found["a", "specificity"].inside.value == 1
    assert found["a", "auc"].inside.value == 0.75
    assert found["a", "ppv"].events == 1


def test_small_groups_have_no_metrics():
    units, sampling = simulated(patients=60)
    rare = units._replace(groups=["rare" if number < 15 else "other" for number in range(60)])
    found = by_name(compare_groups(rare, sampling, GUARD))
    assert found["rare", "sensitivity"].guarded
    assert found["rare", "sensitivity"].inside.value is None
    # The rest of the other group is too small to compare with.
    assert found["other", "sensitivity"].difference.value is None


def test_correction_counts_all_comparisons():
    metrics = compare_groups(*simulated(worse=0.2), GUARD)
    twice = correct_together([*metrics, *metrics])
    assert twice[0].corrected >= metrics[0].corrected


def test_numbers_become_bands():
    assert bands(["35", "59", "60", ""], [40, 60]) == ["below 40", "40 to below 60", "60 and above", "unknown"]
    assert bands(["M", "F", ""]) == ["M", "F", "unknown"]
    assert bands(["1", "2", "1"]) == ["1", "2", "1"]
    assert len(set(bands([str(number) for number in range(90)]))) == 3
