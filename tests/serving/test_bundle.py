"""The deployment bundle: its best model, its quality threshold, its paths, and the bundles that are refused."""

import json

import pytest

from retinaflow.errors import RetinaflowError
from retinaflow.serving.bundle import read_bundle, write_bundle
from retinaflow.storage.files import write_json
from retinaflow.storage.tables import write_table


def network(name, objective="softmax", folds=0):
    files = [f"{name}/fold-{number}/model.keras" for number in range(1, folds + 1)] or [f"{name}/model.keras"]
    variant = "32-trim-keep-none"
    return {
        **{"name": name, "objective": objective, "variant": variant, "files": files},
        **{"cpu_threads": 1, "backend": "tensorflow"},
    }


def model(*networks, objective="softmax", eye_average=None):
    name = networks[0]["name"] if len(networks) == 1 else "ensemble"
    decision_rule = f"{name}/decision_rule.json"
    return {
        "objective": objective,
        "decision_rule": decision_rule,
        "eye_average": eye_average,
        "networks": list(networks),
    }


def content(**models):
    return {
        **{"grade_names": ["none", "mild", "severe"], "patient_pattern": "(?P<patient>.+)_(?P<eye>left|right)"},
        **{"pixel_limit": 1, "seed": 1, "tta_views": 1, "fellow_eye_weight": 0.4, "models": models},
    }


TWO = content(
    A=model(network("A"), eye_average="A+eye_average/decision_rule.json"),
    B=model(network("B", folds=2)),
    ensemble=model(network("A"), network("B", folds=2)),
)


@pytest.fixture
def written(tmp_path):
    """Write a bundle for this ranking of models and these qualities of the training images."""

    def write(*ranked, qualities=(0.5,)):
        # Rows of single folds have no rank.
        rows = [{"rank": rank, "model": name} for rank, name in enumerate(ranked, 1)] + [
            {"rank": "", "model": "B/fold-1"}
        ]
        write_table(tmp_path / "comparison.csv", ("rank", "model"), rows)
        table = [{"quality": f"{quality:.4f}", "problem": ""} for quality in qualities]
        table.append({"quality": "", "problem": "truncated"})
        write_table(tmp_path / "train.csv", ("quality", "problem"), table)
        path = tmp_path / "models/bundle.json"
        write_bundle(path, TWO, tmp_path / "comparison.csv", tmp_path / "train.csv")
        return path

    return write


@pytest.mark.parametrize(
    ("ranked", "best"),
    [
        (["B", "A", "ensemble"], "B"),
        (["A+eye_average", "B", "A"], "A"),
        (["A+eye_stacking", "B/fold-2", "B+no_tta", "ensemble", "A+eye_average"], "ensemble"),
    ],
)
def test_best_model_is_first_that_grades_new_images(written, ranked, best):
    assert read_bundle(written(*ranked)).best == best


def test_paths_are_below_the_folder_of_the_file(written, tmp_path):
    bundle = read_bundle(written("A"))
    folder = tmp_path / "models"
    assert bundle.model("A").decision_rule == folder / "A/decision_rule.json"
    assert bundle.model("A").eye_average == folder / "A+eye_average/decision_rule.json"
    assert bundle.model("ensemble").eye_average is None
    assert [network.files for network in bundle.model("ensemble").networks] == [
        [folder / "A/model.keras"],
        [folder / "B/fold-1/model.keras", folder / "B/fold-2/model.keras"],
    ]


def test_one_image_in_twenty_has_low_quality(written):
    bundle = read_bundle(written("A", qualities=[number / 100 for number in range(100, 0, -1)]))
    assert (bundle.quality_threshold, bundle.quality_share) == (0.06, 0.05)
    assert read_bundle(written("A", qualities=[0.25])).quality_threshold == 0.25


def test_error_for_unknown_model_names_the_known_ones(written):
    with pytest.raises(RetinaflowError, match="'C' grades no new images; expected one of A, B, ensemble"):
        read_bundle(written("A")).model("C")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"best": "C"}, "'C' grades no new images"),
        ({"more": 1}, "'more' was unexpected"),
        ({"tta_views": 0}, "tta_views: 0 is less than"),
        ({"models": {}}, "models: "),
        (
            {"models": {"A": model(network("/etc/A"))}},
            "'/etc/A/decision_rule.json' leads out of the folder of models",
        ),
        (
            {"models": {"A": model(network("A"), eye_average="A/../../x.json")}},
            "'A/../../x.json' leads out of the folder",
        ),
        (
            {"models": {"A": model({**network("A"), "files": ["../x.keras"]})}},
            "'../x.keras' leads out of the folder",
        ),
        ({"models": {"A": model({**network("A"), "files": []})}}, r"models.A.networks\[0\].files: "),
        ({"models": {"A": model({**network("A"), "backend": "numpy"})}}, "'numpy' is not one of"),
    ],
)
def test_wrong_bundle_is_refused(written, change, message):
    path = written("A")
    found = json.loads(path.read_text(encoding="utf-8"))
    write_json(path, {**found, **change})
    with pytest.raises(RetinaflowError, match=f"{message}"):
        read_bundle(path)


def test_unfinished_run_has_no_bundle(tmp_path):
    with pytest.raises(RetinaflowError, match=r"bundle\.json: No such file.*Let the workflow run to its end"):
        read_bundle(tmp_path / "bundle.json")
