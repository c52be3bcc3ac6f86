"""Deployment bundles: what they contain, the best one of a run, and those that are refused, each by one message."""

import json
import os
import time

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

from bundles import PATTERN, THREE, write_toy_bundle, write_toy_results
from retinaflow.cli import main
from retinaflow.errors import RetinaflowError
from retinaflow.scoring.decision_rules import DecisionRule, apply_decision_rule, read_decision_rule
from retinaflow.serving.bundle import best_bundle, bundles_of, named_bundle, read_bundle
from retinaflow.serving.bundling import quality_threshold
from retinaflow.serving.graph_check import graph_fault
from retinaflow.serving.graphs import answer_graph
from retinaflow.serving.runtime import AnswerGraph, load_bundled_model
from retinaflow.serving.sessions import graph_session
from retinaflow.storage.files import digest, write_json
from retinaflow.storage.tables import write_table

NETWORK = ("A", "softmax", ["A/fold-1", "A/fold-2"])


@pytest.fixture
def folder(tmp_path):
    return write_toy_bundle(tmp_path, "A", [NETWORK], eye_average=True)


def test_folder_has_all_files_and_shares_large_ones(folder, tmp_path):
    bundle = read_bundle(folder)
    graphs = ["network-A-fold-1.onnx", "network-A-fold-2.onnx"]
    assert sorted(os.listdir(folder)) == sorted(["bundle.json", *bundle.files])
    assert sorted(bundle.files) == [
        "answer.onnx",
        "card.md",
        "drift_reference.json",
        "eye_average.onnx",
        "gates.json",
        *graphs,
    ]
    assert bundle.networks[0].graphs == graphs
    assert (folder / graphs[0]).samefile(tmp_path / "models/A/fold-1/network.onnx")
    assert (bundle.grade_names, bundle.patient_pattern, bundle.tta_views) == (THREE, PATTERN, 2)
    assert bundle.warning == ""
    assert "/" not in (folder / "bundle.json").read_text().replace("fold-1", "").replace("A/", "")


@pytest.mark.parametrize("objective", ["softmax", "ordinal", "regression"])
@pytest.mark.parametrize("grades", [2, 5])
def test_answer_graph_is_the_decision_rule(objective, grades):
    rng = np.random.default_rng(0)
    middles = [float(value) for value in np.arange(grades - 1) + 0.4]
    cutpoints = middles if objective == "regression" else None
    names = [str(grade) for grade in range(grades)]
    rule = DecisionRule(objective, names, middles, 0.7, cutpoints, 1, 0.9, 0.37, 10, 10)
    drawn = {
        "softmax": lambda: rng.dirichlet(np.full(grades, 0.3), 500),
        "ordinal": lambda: np.sort(rng.uniform(0, 1, (500, grades - 1)), axis=1)[:, ::-1],
        "regression": lambda: rng.normal(grades / 2, 2, (500, 1)),
    }
    outputs = np.ascontiguousarray(drawn[objective]())
    graph = AnswerGraph(graph_session(answer_graph(rule).SerializeToString(), 1), "graph", grades)
    found, expected = graph(outputs), apply_decision_rule(rule, outputs)
    np.testing.assert_allclose(found.severity, expected.severity, atol=1e-12)
    np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-6)
    np.testing.assert_allclose(found.risk, expected.probabilities[:, 1:].sum(axis=1), atol=1e-6)
    assert (found.grade == expected.predicted).all()
    assert (found.referable == expected.referable).all()


def test_rules_of_training_sets_are_in_the_bundle(tmp_path):
    folder = write_toy_bundle(
        tmp_path, "A", [("A", "regression", ["A"])], eye_average=True, data_sets=["eyepacs", "aptos"]
    )
    bundle = read_bundle(folder)
    assert sorted(bundle.data_sets) == ["aptos", "eyepacs"]
    outputs = np.linspace(-1, 3, 41)[:, np.newaxis]
    for name, model in (("aptos", "A"), ("eyepacs", "A+eye_average")):
        own = bundle.of_data_set(name)
        answers = own.eye_average if "+" in model else own.answer
        rule = read_decision_rule(tmp_path / "models" / model / "decision_rule.json").of_data_set(name)
        assert answers.decision_rule == rule.document()
        graph = AnswerGraph(graph_session(own.read_file(answers.graph), 1), "graph", 3)
        assert (graph(outputs).grade == apply_decision_rule(rule, outputs).predicted).all()
    assert bundle.of_data_set("") == bundle
    assert bundle.of_data_set("aptos").named == "A, decision rule of aptos"
    message = r"--data-set: A has no decision rule of 'idrid'; it has those of: aptos, eyepacs"
    with pytest.raises(RetinaflowError, match=message):
        bundle.of_data_set("idrid")


def test_one_image_in_twenty_has_low_quality(tmp_path):
    table = [{"quality": f"{number / 100:.4f}", "problem": ""} for number in range(100, 0, -1)]
    write_table(tmp_path / "train.csv", ("quality", "problem"), [*table, {"quality": "", "problem": "truncated"}])
    assert quality_threshold(tmp_path / "train.csv") == 0.06


def test_best_bundle_is_the_first_of_the_comparison(tmp_path):
    results = write_toy_results(tmp_path)
    assert list(bundles_of(results)) == ["A", "B", "ensemble"]
    assert best_bundle(results) == results / "models/A/bundle"
    rows = [{"rank": "1", "model": "A+eye_stacking"}, {"rank": "2", "model": "B"}, {"rank": "", "model": "A/fold-1"}]
    write_table(results / "comparison/comparison.csv", ("rank", "model"), rows)
    assert best_bundle(results) == results / "models/B/bundle"
    assert named_bundle(results, "ensemble") == results / "models/ensemble/bundle"
    folder = results / "models/A/bundle"
    assert named_bundle(tmp_path / "nowhere", str(folder)) == folder
    with pytest.raises(RetinaflowError, match=r"'C' is no folder with a bundle\.json, .* there are: A, B, ensemble\."):
        named_bundle(results, "C")


def change(folder, **changes):
    content = json.loads((folder / "bundle.json").read_text())
    write_json(folder / "bundle.json", {**content, **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"more": 1}, "'more' was unexpected"),
        ({"format": "other"}, "format: 'retinaflow bundle 1' was expected"),
        ({"tta_views": 0}, "tta_views: 0 is less than"),
        ({"tta_views": 10**9}, "tta_views: 1000000000 is greater than"),
        ({"pixel_limit": 10**9}, "pixel_limit: "),
        ({"networks": []}, "networks: "),
        (
            {"networks": [{"name": "A", "objective": "softmax", "variant": "100000-trim-keep-none", "graphs": ["a"]}]},
            "v",
        ),
        (
            {"networks": [{"name": "A", "objective": "softmax", "variant": "5000-trim-keep-none", "graphs": ["a"]}]},
            "4096",
        ),
        ({"networks": [{"name": "A", "objective": "softmax", "variant": "8-trim-keep-none", "graphs": ["../a"]}]}, "a"),
        (
            {"networks": [{"name": "A", "objective": "softmax", "variant": "8-trim-keep-none", "graphs": ["a"]}]},
            "a is not",
        ),
        ({"files": {"/etc/passwd": "0" * 32}}, "does not match"),
        ({"objective": "ordinal"}, "a decision rule for softmax of none, mild, severe, not that of the model"),
        ({"provenance": [{"training_run": "A", "seed": 10**30, "digests": {}, "packages": {}}]}, "seed: "),
    ],
)
def test_bundle_out_of_bounds_is_refused(folder, changes, message):
    change(folder, **changes)
    with pytest.raises(RetinaflowError, match=message) as error:
        read_bundle(folder)
    assert len(str(error.value)) < 1000


@pytest.mark.parametrize("content", ["{" * 100, "[" * 100_000, "1" * 5000, "", "\xff"])
def test_damaged_description_is_one_message(folder, content):
    (folder / "bundle.json").write_bytes(content.encode("latin-1"))
    with pytest.raises(RetinaflowError, match=r"bundle\.json: "):
        read_bundle(folder)


def test_missing_changed_and_linked_files_are_refused(folder):
    bundle, graph = read_bundle(folder), folder / "network-A-fold-1.onnx"
    content = graph.read_bytes()
    graph.unlink()
    with pytest.raises(RetinaflowError, match=r"network-A-fold-1\.onnx: No such file"):
        load_bundled_model(bundle)
    graph.write_bytes(content[:-1] + b"x")
    with pytest.raises(RetinaflowError, match=r"its digest is not the one in bundle\.json"):
        load_bundled_model(bundle)
    graph.unlink()
    graph.symlink_to("/etc/passwd")
    with pytest.raises(RetinaflowError, match="expected a file, found a link"):
        load_bundled_model(bundle)


def model_of(nodes, initializers=(), shape=("n", 3)):
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("outputs", TensorProto.DOUBLE, list(shape))],
        [helper.make_tensor_value_info("y", TensorProto.DOUBLE, None)],
        list(initializers),
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)


def external():
    tensor = TensorProto(name="w", data_type=TensorProto.DOUBLE, dims=[1], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="../../../etc/passwd")
    return model_of([helper.make_node("Add", ["outputs", "w"], ["y"])], [tensor])


def looping():
    body = helper.make_graph([], "body", [], [])
    return model_of([helper.make_node("Loop", ["", "", "outputs"], ["y"], body=body)])


FOREIGN = {
    "in another file": external,
    "runs another graph": looping,
    "'Expand'": lambda: model_of([helper.make_node("Expand", ["outputs", "outputs"], ["y"])]),
    "'custom'": lambda: model_of([helper.make_node("Own", ["outputs"], ["y"], domain="custom")]),
    "expected input outputs": lambda: model_of([helper.make_node("Identity", ["outputs"], ["y"])]),
    "damaged or no ONNX file": lambda: None,
}


@pytest.mark.parametrize("message", FOREIGN)
def test_foreign_graph_is_refused_at_once(folder, message, capsys):
    model = FOREIGN[message]()
    content = model.SerializeToString() if model else b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"
    (folder / "answer.onnx").unlink()
    (folder / "answer.onnx").write_bytes(content)
    files = json.loads((folder / "bundle.json").read_text())["files"]
    change(folder, files={**files, "answer.onnx": digest(content)})
    start = time.monotonic()
    assert main(["predict", "--model", str(folder), "absent.jpeg"]) == 1
    assert time.monotonic() - start < 20  # below 2 s on an idle machine
    errors = capsys.readouterr().err
    assert errors.count("\n") == 1
    assert message in errors


def test_pattern_that_never_ends_is_refused(folder, tmp_path, capsys):
    change(folder, patient_pattern="(?P<patient>(a+)+)b")
    (tmp_path / f"{'a' * 40}.jpeg").write_bytes(b"no image")
    start = time.monotonic()
    assert main(["predict", "--model", str(folder), str(tmp_path / f"{'a' * 40}.jpeg")]) == 1
    assert time.monotonic() - start < 20  # below 2 s on an idle machine
    assert "patient_pattern" in capsys.readouterr().err


def test_own_graphs_pass_the_check(folder):
    for name in read_bundle(folder).files:
        if name.endswith(".onnx"):
            assert graph_fault((folder / name).read_bytes()) == ""
    onnx.checker.check_model(str(folder / "answer.onnx"))
