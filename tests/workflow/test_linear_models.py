"""Linear models in real jobs: a quick first table, a failed network beside them, and reruns."""

from collections import Counter

import h5py
import pytest

from common import SMALL
from extractors import write_extractor
from retinaflow.cli import main
from retinaflow.scoring.linear_model import read_linear_model
from retinaflow.storage.tables import read_table

NETWORK = "MobileNetV3Small"
LINEAR = ["fit_linear ridge", "fit_linear ridge+one_eye", "grade ridge", "grade ridge+one_eye", "compare_linear"]


def test_linear_models_are_ranked_first_and_beside_a_failed_network(fresh, tmp_path):
    project = fresh(data={"train": {"images": "my photographs", "labels": "labels train.csv"}})
    project.config["models"] = {
        **SMALL,
        "broken": {"backbone": NETWORK, "weights": "no.weights.h5"},
        "ridge": {"kind": "linear", "features": [NETWORK]},
    }
    with h5py.File(project.folder / "no.weights.h5", "w"):
        pass
    project.snakemake("quick")
    results = project.folder / "results"
    assert sorted({row["model"] for row in read_table(results / "comparison/linear.csv")}) == ["ridge", "ridge+one_eye"]
    assert not (results / "models" / NETWORK).exists()
    both, one = (read_linear_model(results / "models" / name / "linear.npz") for name in ("ridge", "ridge+one_eye"))
    assert both.record["fallback"] == "ridge+one_eye"
    assert len(both.weights) == 2 * len(one.weights) + 1

    # Both are usable now: answers of the bundle are those of the stage.
    answers = tmp_path / "answers"
    images = str(project.folder / "my photographs")
    assert main(["predict", "--results", str(results), images, "--output", str(answers)]) == 0
    first = read_table(results / "comparison/linear.csv")[0]["model"]
    graded = {row["image"]: row for row in read_table(answers / "predictions.csv")}
    scored = read_table(results / "scores" / first / "validation/predictions.csv")
    assert {graded[row["filename"]]["answered_by"] for row in scored} == {first}
    assert [float(graded[row["filename"]]["severity"]) for row in scored] == pytest.approx(
        [float(row["severity"]) for row in scored], abs=1e-4
    )
    backbones = [results / "models" / name / f"bundle/backbone-{NETWORK}.onnx" for name in ("ridge", "ridge+one_eye")]
    assert backbones[0].samefile(backbones[1])
    planned = project.planned()
    assert not planned & Counter(LINEAR)
    assert planned[f"train {NETWORK}"] == planned["train broken"] == 1

    # The other models finish. The run ends with an error and says why.
    shown = project.snakemake(check=False)
    assert not (results / "comparison/comparison.csv").exists()
    rows = {row["model"]: row for row in read_table(results / "comparison/unfinished.csv")}
    assert {name for name, row in rows.items() if row["rank"]} == {NETWORK, "ridge", "ridge+one_eye"}
    assert rows["broken"]["remark"].startswith("train failed: ")
    assert "no.weights.h5" in rows["broken"]["remark"]
    assert "ensemble" in rows
    assert rows["broken"]["remark"] in shown

    # Without the failed network, all that is left is the comparison.
    del project.config["models"]["broken"]
    assert project.planned() == Counter(["compare"])
    project.snakemake()
    assert (results / "comparison/comparison.csv").exists()
    assert not list((results / "comparison").glob("unfinished*"))
    assert not project.planned()

    project.config["models"]["ridge"]["eyes"] = "one"
    again = ["fit_linear ridge", "grade ridge", "compare_linear", "compare"]
    assert project.planned() == Counter(again)


def test_linear_model_uses_features_of_an_onnx_file(fresh):
    linear = {"kind": "linear", "features": ["encoder"], "eyes": "one"}
    models = {"encoder": {"backbone": "my encoder.onnx", "weights": "imagenet"}, "ridge": linear}
    data = {"train": {"images": "my photographs", "labels": "labels train.csv"}}
    project = fresh(models=models, data=data, preprocess={"shard_size": 64})
    write_extractor(project.folder / "my encoder.onnx", size=32)
    project.snakemake("quick", "plan")
    results = project.folder / "results"
    assert {row["model"] for row in read_table(results / "comparison/linear.csv")} == {"ridge"}
    assert len(read_linear_model(results / "models/ridge/linear.npz").weights) == 6
    assert "encoder, features" in project.read("results/logs/plan.log")
