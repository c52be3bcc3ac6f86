"""Bundles for tests: graphs of a few nodes, made without TensorFlow."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from retinaflow.networks.objectives import width
from retinaflow.scoring.decision_rules import (
    OWN_VALUES,
    DecisionRule,
    LabelledOutputs,
    fit_decision_rule,
    write_decision_rule,
)
from retinaflow.serving.bundling import BundleJob, OneEyeFiles, write_bundle
from retinaflow.serving.graphs import IR_VERSION, OPSET
from retinaflow.storage.files import write_json
from retinaflow.storage.tables import write_table

THREE = ["none", "mild", "severe"]
SIZE = 16
VARIANT = f"{SIZE}-trim-keep-none"
PATTERN = "(?P<patient>.+)_(?P<eye>left|right)"


def weights(objective: str, seed: int) -> np.ndarray:
    """Weights of the three colours for each raw output, float32 (3, width)."""
    return np.random.default_rng(seed).normal(0, 3, (3, width(objective, 3))).astype(np.float32)


def network_graph(path: Path, objective: str, seed: int, size: int = SIZE) -> None:
    """Write a network whose raw outputs depend on the mean colour alone."""
    kernel = weights(objective, seed)
    last = {"softmax": "Softmax", "ordinal": "Sigmoid", "regression": "Identity"}[objective]
    constants = {
        "scale": np.float32(255),
        "kernel": kernel,
        "none": np.float32(0),
        # The score of a grade is that of a regression, for each objective.
        "gradient": np.stack([sign * kernel.sum(axis=1) for sign in (-1, 1, 1)])[np.newaxis].astype(np.float32),
        "axes": np.array([1]),
        "first": np.array([0]),
    }
    nodes = [
        helper.make_node("Cast", ["pixels"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["float", "scale"], ["shares"]),
        helper.make_node("Transpose", ["shares"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("AveragePool", ["planes"], ["cells"], kernel_shape=[4, 4], strides=[4, 4]),
        helper.make_node("Transpose", ["cells"], ["map_1"], perm=[0, 2, 3, 1]),
        helper.make_node("ReduceMean", ["map_1"], ["means"], axes=[1, 2], keepdims=0),
        helper.make_node("MatMul", ["means", "kernel"], ["logits"]),
        helper.make_node(last, ["logits"], ["outputs"]),
        helper.make_node("Gather", ["means", "first"], ["colour"], axis=1),
        helper.make_node("Mul", ["colour", "none"], ["zeros"]),
        helper.make_node("Unsqueeze", ["zeros", "axes"], ["column"]),
        helper.make_node("Add", ["column", "gradient"], ["relevance"]),
    ]
    graph = helper.make_graph(
        nodes,
        "network",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["n", size, size, 3])],
        [
            helper.make_tensor_value_info("outputs", TensorProto.FLOAT, ["n", kernel.shape[1]]),
            helper.make_tensor_value_info("map_1", TensorProto.FLOAT, ["n", size // 4, size // 4, 3]),
            helper.make_tensor_value_info("relevance", TensorProto.FLOAT, ["n", 3, 3]),
        ],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
    model.ir_version = IR_VERSION
    onnx.checker.check_model(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString())


def backbone_graph(path: Path, seed: int, size: int = SIZE) -> None:
    """Write a frozen backbone whose three features are weighted sums of the mean colour."""
    constants = {"scale": np.float32(255), "kernel": weights("softmax", seed)}
    nodes = [
        helper.make_node("Cast", ["pixels"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Div", ["float", "scale"], ["shares"]),
        helper.make_node("ReduceMean", ["shares"], ["means"], axes=[1, 2], keepdims=0),
        helper.make_node("MatMul", ["means", "kernel"], ["features"]),
    ]
    graph = helper.make_graph(
        nodes,
        "backbone",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["n", size, size, 3])],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", 3])],
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)])
    model.ir_version = IR_VERSION
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(model.SerializeToString())


def save_decision_rule(path: Path, objective: str, seed: int, data_sets: Sequence[str] = ()) -> None:
    """Write a decision rule that was fitted on drawn outputs, and rules of single data sets by other outputs."""
    rule = drawn_rule(objective, seed)
    of_sets = {name: drawn_rule(objective, seed + number) for number, name in enumerate(data_sets, start=10)}
    own = {name: {value: getattr(one, value) for value in OWN_VALUES} for name, one in of_sets.items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_decision_rule(path, rule._replace(data_sets=own))


def drawn_rule(objective: str, seed: int) -> DecisionRule:
    """Fit a decision rule on drawn outputs."""
    rng = np.random.default_rng(seed)
    outputs = rng.dirichlet(np.ones(3), 60) if objective == "softmax" else rng.uniform(0, 2, (60, 1))
    if objective == "ordinal":
        outputs = np.sort(rng.uniform(0, 1, (60, 2)), axis=1)[:, ::-1]
    patients = [str(number // 2) for number in range(60)]
    labelled = LabelledOutputs(objective, THREE, outputs, rng.integers(0, 3, 60), patients)
    return fit_decision_rule(labelled, 1, referable_sensitivity=0.9, seed=seed)


def write_toy_bundle(
    results: Path,
    model: str,
    networks: Sequence[tuple[str, str, Sequence[str]]],
    *,
    eye_average: bool = False,
    linear: Sequence[Path] = (),
    one_eye: OneEyeFiles | None = None,
    trained_on: Sequence[Path] = (),
    indices: Sequence[Path] = (),
    augment: dict[str, Any] | None = None,
    inventory: Sequence[Mapping[str, str]] = (),
    data_sets: Sequence[str] = (),
    **changes: Any,
) -> Path:
    """Write the bundle of a model below a results folder.

    Args:
        results: Results folder.
        model: Name of the model.
        networks: Name, objective and training runs of each network. The number of a run in its network is its seed.
        eye_average: Whether there is a decision rule for both eyes.
        linear: Linear models.
        one_eye: Model for images without fellow eye.
        trained_on: Images that its training runs were trained on.
        indices: Index tables of the images that a linear model was fitted to.
        augment: Random changes of the views of features.
        inventory: Rows of the inventory; one image by default.
        data_sets: Training sets with decision rules of their own.
        changes: Other settings than the default ones.

    Returns:
        Folder of the bundle.
    """
    objectives = {objective for _, objective, _ in networks}
    objective = objectives.pop() if len(objectives) == 1 and not linear else "regression"
    graphs = {}
    for _, own, runs in networks:
        for seed, run in enumerate(runs):
            graphs[run] = results / "models" / run / "network.onnx"
            if own == "features":
                backbone_graph(graphs[run], seed)
            else:
                network_graph(graphs[run], own, seed)
    folder = results / "models" / model
    save_decision_rule(folder / "decision_rule.json", objective, 1, data_sets)
    pair = results / "models" / f"{model}+eye_average/decision_rule.json"
    if eye_average:
        save_decision_rule(pair, objective, 2, data_sets)
    figures = {"split": "validation", "images": 10, "quadratic_weighted_kappa": 0.5, "intervals": None}
    write_json(folder / "metrics.json", {**figures, "baseline": {"accuracy": 0.6, "grade_name": "none"}})
    record = {"training_run": model, "seed": 1, "digests": {}, "environment": {"packages": {"keras": "3"}}}
    write_json(folder / "training_run.json", record)
    (folder / "card.md").write_text(f"# Model card: {model}\n")
    figures = {"focus": "0.5", "exposure": "0.5", "field": "0.5", "quality": "0.5", "problem": ""}
    own = {"image": "1_left", "patient": "1", "width": "100", "height": "100", **figures}
    rows = list(inventory) or [own]
    write_table(results / "train.csv", list(rows[0]), rows)
    content = {
        **{"model": model, "kind": "network" if len(networks) == 1 else "ensemble", "grade_names": THREE},
        **{"objective": objective, "patient_pattern": PATTERN, "pixel_limit": 1, "tta_views": 2},
        "fellow_eye_weight": 0.25,
        "networks": [
            {"name": name, "objective": own, "variant": VARIANT, "training_runs": list(runs), "augment": augment}
            for name, own, runs in networks
        ],
        **changes,
    }
    write_bundle(
        BundleJob(
            content=content,
            graphs=graphs,
            decision_rule=folder / "decision_rule.json",
            eye_average=pair if eye_average else None,
            metrics=[folder / "metrics.json"],
            records=[folder / "training_run.json"],
            inventory=results / "train.csv",
            shards=[],
            card=folder / "card.md",
            folder=folder / "bundle",
            linear=linear,
            one_eye=one_eye,
            trained_on=trained_on,
            indices=indices,
        )
    )
    return folder / "bundle"


def write_toy_results(results: Path) -> Path:
    """Write the bundles of a run: a network of two folds, one of regression, and the ensemble of both."""
    first, second = ("A", "softmax", ["A/fold-1", "A/fold-2"]), ("B", "regression", ["B"])
    write_toy_bundle(results, "A", [first], eye_average=True)
    write_toy_bundle(results, "B", [second])
    write_toy_bundle(results, "ensemble", [first, second])
    rows = [{"rank": rank, "model": name} for rank, name in enumerate(["A", "ensemble", "B"], 1)]
    write_table(results / "comparison/comparison.csv", ("rank", "model"), rows)
    return results
