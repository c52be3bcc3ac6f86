"""The recipe for few images in real jobs: joined training sets, and the decision rule of each of them."""

import json

import pytest
import yaml

from common import ROOT
from retinaflow.cli import main
from retinaflow.data.demo import draw_collection
from retinaflow.scoring.decision_rules import read_decision_rule
from retinaflow.scoring.linear_model import read_linear_model
from retinaflow.storage.tables import read_table


def drawn(folder, name, *, patients, first_patient=1):
    draw_collection(
        folder / name, folder / f"{name}.csv", patients=patients, first_patient=first_patient, size=64, seed=1
    )
    return {"images": name, "labels": f"{name}.csv"}


@pytest.mark.slow
def test_recipe_grades_each_data_set_by_its_own_rule(bare, tmp_path, capsys):
    recipe = yaml.safe_load((ROOT / "config/few.yaml").read_text(encoding="utf-8"))
    ridge = {"kind": "linear", "features": ["MobileNetV3Small"], "eyes": "one"}
    # Five folds need more images of grade 4 than these.
    project = bare(**{**recipe, "results": "results", "split": {"folds": 2}, "models": {"ridge": ridge}})
    project.config["train"]["feature_layers"] = ["expanded_conv_project_bn"]
    folder, results = project.folder, project.folder / "results"
    train = {"near": drawn(folder, "near", patients=60), "far": drawn(folder, "far", patients=60, first_patient=100)}
    test = {"far": drawn(folder, "far test", patients=15, first_patient=200)}
    project.config["data"].update(train=train, test=test)
    project.snakemake()

    rule = read_decision_rule(results / "models/ridge/decision_rule.json")
    assert sorted(rule.data_sets) == ["far", "near"]
    metrics = json.loads((results / "scores/ridge/test-far/metrics.json").read_text())
    assert metrics["decision_rule"]["data_sets"] == ["far"]
    assert json.loads((results / "comparison/selected_model.json").read_text())["split"] == "out-of-fold"
    (record,) = {json.dumps(read_linear_model(file).record["inputs"]) for file in results.glob("models/ridge/*/*.npz")}
    assert json.loads(record)[0]["poolings"] == ["mean", "max", "std"]

    # The bundle answers by the rule of the set. Its gate refuses some drawn images.
    main(
        ["predict", "--data-set", "far", "--results", str(results), str(folder / "far test"), "--output", str(tmp_path)]
    )
    assert "ridge, decision rule of far" in capsys.readouterr().out
    assert len(read_table(tmp_path / "predictions.csv")) >= 20
