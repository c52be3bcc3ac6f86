"""ONNX graphs of decision rules. Needs the package onnx."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from retinaflow.networks.objectives import EPSILON, TINY, width
from retinaflow.scoring.decision_rules import DecisionRule
from retinaflow.serving.sessions import ANSWERS, OUTPUTS

OPSET = 15  # that of tf2onnx, so that both graphs can be joined
IR_VERSION = 8


class _Nodes:
    """Nodes of a graph in their order, and its constants."""

    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def add(self, kind: str, *inputs: Any, name: str = "", **attributes: Any) -> str:
        """Add a node; return the name of its output. Inputs that are no names are constants."""
        names = [each if isinstance(each, str) else self._constant(each) for each in inputs]
        output = name or f"answer_{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, names, [output], name=f"{output}_node", **attributes))
        return output

    def _constant(self, value: Any) -> str:
        name = f"answer_constant_{len(self.constants)}"
        self.constants.append(numpy_helper.from_array(np.asarray(value), name))
        return name


def answer_graph(rule: DecisionRule) -> onnx.ModelProto:
    """Return the graph of a decision rule, the same as ``decision_rules.apply_decision_rule``.

    It maps raw outputs, float64 (n, width), to ``runtime.Answers``.
    """
    k = len(rule.grade_names)
    nodes = _Nodes()
    severity = nodes.add("Identity", _severity(nodes, rule.objective, k), name="severity")
    probabilities = nodes.add("Cast", _probabilities(nodes, rule, severity), to=TensorProto.FLOAT, name="probabilities")
    referable = nodes.add("Slice", probabilities, [rule.referable_grade], [k], [1])
    risk = nodes.add("ReduceSum", referable, [1], keepdims=0, name="risk")
    wide = nodes.add("Cast", risk, to=TensorProto.DOUBLE)
    decision = nodes.add("GreaterOrEqual", wide, np.float64(rule.referable_cut), name="referable")
    if k == 2:
        nodes.add("Cast", decision, to=TensorProto.INT64, name="grade")
    else:
        column = nodes.add("Unsqueeze", severity, [1])
        above = nodes.add("Cast", nodes.add("Greater", column, np.array(rule.thresholds)), to=TensorProto.INT64)
        nodes.add("ReduceSum", above, [1], keepdims=0, name="grade")
    outputs: dict[str, tuple[int, list[str | int | None]]] = {
        "severity": (TensorProto.DOUBLE, ["n"]),
        "probabilities": (TensorProto.FLOAT, ["n", k]),
        "risk": (TensorProto.FLOAT, ["n"]),
        "grade": (TensorProto.INT64, ["n"]),
        "referable": (TensorProto.BOOL, ["n"]),
    }
    graph = helper.make_graph(
        nodes.nodes,
        "answer",
        [helper.make_tensor_value_info(OUTPUTS, TensorProto.DOUBLE, ["n", width(rule.objective, k)])],
        [helper.make_tensor_value_info(name, *outputs[name]) for name in ANSWERS],
        nodes.constants,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="retinaflow")
    model.ir_version = IR_VERSION
    onnx.checker.check_model(model)
    return model


def _severity(nodes: _Nodes, objective: str, k: int) -> str:
    """As ``objectives.severity``."""
    if objective == "softmax":
        total = nodes.add("MatMul", OUTPUTS, np.arange(k, dtype=np.float64))
    else:
        total = nodes.add("ReduceSum", OUTPUTS, [1], keepdims=0)
    return nodes.add("Min", nodes.add("Max", total, np.float64(0)), np.float64(k - 1))


def _probabilities(nodes: _Nodes, rule: DecisionRule, severity: str) -> str:
    """As ``objectives.grade_probabilities``."""
    if rule.objective == "softmax":
        logits = nodes.add("Log", nodes.add("Max", OUTPUTS, np.float64(TINY)))
        return nodes.add("Softmax", nodes.add("Div", logits, np.float64(rule.temperature)), axis=1)
    if rule.objective == "ordinal":
        clipped = nodes.add("Min", nodes.add("Max", OUTPUTS, np.float64(EPSILON)), np.float64(1 - EPSILON))
        odds = nodes.add("Div", clipped, nodes.add("Sub", np.float64(1), clipped))
        above = nodes.add("Sigmoid", nodes.add("Div", nodes.add("Log", odds), np.float64(rule.temperature)))
    else:
        cutpoints: Sequence[float] = rule.cutpoints or [0.0]
        column = nodes.add("Unsqueeze", severity, [1])
        scale = np.float64(rule.temperature * math.sqrt(2))
        distances = nodes.add("Div", nodes.add("Sub", column, np.array(cutpoints)), scale)
        # ONNX Runtime has the error function in float32 alone.
        inside = nodes.add("Erf", nodes.add("Cast", distances, to=TensorProto.FLOAT))
        wide = nodes.add("Cast", inside, to=TensorProto.DOUBLE)
        above = nodes.add("Mul", nodes.add("Add", wide, np.float64(1)), np.float64(0.5))
    first = nodes.add("Pad", above, [0, 1, 0, 0], np.float64(1))
    last = nodes.add("Pad", above, [0, 0, 0, 1], np.float64(0))
    between = nodes.add("Max", nodes.add("Sub", first, last), np.float64(0))
    return nodes.add("Div", between, nodes.add("ReduceSum", between, [1], keepdims=1))
