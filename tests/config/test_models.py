"""Models of a configuration, with and without folds, test set, TTA and both eyes."""

import pytest

from retinaflow.config.models import Models, network_of
from retinaflow.settings.linear import LinearSection

PLAIN = {"networks": {"A": "softmax", "B": "regression"}, "folds": 0, "tests": ["test"], "tta": False, "eye_kinds": ()}


def models(**changes):
    values = {**PLAIN, **changes}
    several = {"ensemble": list(values["networks"])} if len(values["networks"]) > 1 else {}
    return Models(**{"ensembles": several, **values})


@pytest.mark.parametrize("name", ["A", "A/fold-3", "A+no_tta", "A+eye_average"])
def test_network_of_a_model(name):
    assert network_of(name) == "A"


def test_names_without_folds():
    assert models().names == models().ranked == ["A", "B", "ensemble"]
    assert models(networks={"A": "softmax"}).names == ["A"]


def test_names_with_folds_tta_and_both_eyes():
    made = models(folds=2, tta=True, eye_kinds=("eye_average", "eye_stacking"))
    combined = [
        *("A", "B", "A+no_tta", "B+no_tta", "A+eye_average", "A+eye_stacking", "B+eye_average", "B+eye_stacking"),
        "ensemble",
    ]
    assert made.training_runs == ["A/fold-1", "A/fold-2", "B/fold-1", "B/fold-2"]
    assert made.names == [*made.training_runs, *combined]
    assert made.ranked == combined


def test_linear_models_come_first_and_need_no_training():
    both = LinearSection(kind="linear", features=["A", "ResNet50"], eyes="both")
    linear = {"ridge": both, "ridge+one_eye": both.model_copy(update={"eyes": "one"})}
    for folds in (0, 2):
        made = models(linear=linear, folds=folds, unpaired=["test"])
        assert made.names[:2] == ["ridge", "ridge+one_eye"]
        assert made.ranked[:2] == ["ridge", "ridge+one_eye"]
        held_out = "out-of-fold" if folds else "validation"
        # The test set has no fellow eyes.
        assert made.splits_of("ridge") == [held_out]
        assert made.splits_of("ridge+one_eye") == [held_out, "test"]
        assert made.objective("ridge") == "regression"
        assert made.records_of("ridge") == []
        assert made.feature_networks_of("ridge") == ["A", "ResNet50"]
        assert not [run for run in made.training_runs if "ridge" in run]
    assert made.is_linear("A+eye_stacking")


def test_evidence_of_a_study_with_a_test_set_without_fellow_eyes():
    both = LinearSection(kind="linear", features=["A"], eyes="both")
    linear = {"ridge": both, "ridge+one_eye": both.model_copy(update={"eyes": "one"})}
    made = models(linear=linear, unpaired=["test"])
    described, splits = made.reviewed(None)
    assert splits == ["validation", "test"]
    assert described == [name for name in made.ranked if not made.needs_pairs(name)]
    assert "ridge+one_eye" in described
    # A model that the configuration chooses is described on its own splits.
    assert made.reviewed("ridge") == (["ridge"], ["validation"])
    assert models(linear=linear).reviewed(None)[0] == models(linear=linear).ranked


@pytest.mark.parametrize(
    ("changes", "model", "splits"),
    [
        ({}, "A", ["validation", "test"]),
        ({}, "ensemble", ["validation", "test"]),
        ({"tests": []}, "A+eye_average", ["validation"]),
        ({"folds": 2}, "A/fold-1", ["validation", "test"]),
        ({"folds": 2}, "A", ["out-of-fold", "test"]),
        ({"folds": 2, "tests": []}, "ensemble", ["out-of-fold"]),
    ],
)
def test_splits_of_a_model(changes, model, splits):
    assert models(**changes).splits_of(model) == splits


@pytest.mark.parametrize(
    ("model", "objective"),
    [
        *(("A", "softmax"), ("A/fold-1", "softmax"), ("A+no_tta", "softmax"), ("B+eye_average", "regression")),
        *(("A+eye_stacking", "regression"), ("ensemble", "regression")),
    ],
)
def test_objective_of_a_model(model, objective):
    assert models().objective(model) == objective


def test_objective_of_an_ensemble_of_one_kind():
    assert models(networks={"A": "ordinal", "B": "ordinal"}).objective("ensemble") == "ordinal"


@pytest.mark.parametrize(
    ("use", "splits"), [("train", ["fold-1", "fold-3"]), ("validation", ["fold-2"]), ("test", ["test"])]
)
def test_stored_splits_of_a_fold(use, splits):
    assert models(folds=3).stored_splits("A/fold-2", use) == splits
    assert models().stored_splits("A", use) == [use]


def test_records_of_a_model():
    assert models(folds=2).records_of("B+eye_stacking") == ["B/fold-1", "B/fold-2"]
    assert models().records_of("ensemble") == ["A", "B"]


def test_ensembles_of_repeats_and_of_all():
    repeated = {"A": "softmax", "A-repeat-2": "softmax", "B": "ordinal"}
    made = models(
        networks=repeated, ensembles={"A+ensemble": ["A", "A-repeat-2"], "ensemble": ["A", "A-repeat-2", "B"]}
    )
    assert made.names == [*repeated, "A+ensemble", "ensemble"]
    assert made.objective("A+ensemble") == "softmax"
    assert made.records_of("A+ensemble") == ["A", "A-repeat-2"]
    assert made.splits_of("A+ensemble") == ["validation", "test"]


def test_models_of_both_eyes_are_not_scored_without_pairs():
    made = models(tests=["test-x", "test-y"], eye_kinds=("eye_average",), unpaired=["test-x"])
    assert made.splits_of("A+eye_average") == ["validation", "test-y"]
    assert made.splits_of("A") == made.splits_of("ensemble") == ["validation", "test-x", "test-y"]
    assert made.scored_pairs == ["validation", "test-y"]
