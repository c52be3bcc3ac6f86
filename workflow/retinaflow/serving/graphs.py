"""ONNX graphs of decision rules and of TTA views. Needs the package onnx."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx
import onnx.compose
from onnx import TensorProto, helper, numpy_helper

from retinaflow.networks.objectives import EPSILON, TINY, width
from retinaflow.preprocessing.augmentation import DIHEDRAL, FLIPS
from retinaflow.scoring.decision_rules import DecisionRule
from retinaflow.serving.sessions import ANSWERS, OUTPUTS, PIXELS

OPSET = 15  # that of tf2onnx, so that both graphs can be joined
IR_VERSION = 8
VIEWS, VIEW_OUTPUTS = "views", "view_outputs"
# Only the symmetries of a square are views in a graph. The others need interpolation.
MOST_GRAPH_VIEWS = DIHEDRAL
_AXES = {1: [2], 0: [1], -1: [1, 2]}  # of images (n, height, width, 3), by the flips of OpenCV
_NETWORK = "network_"  # prefix of the names of a network in a joined graph


class _Nodes:
    """Nodes of a graph in their order, and its constants."""

    def __init__(self, prefix: str = "answer") -> None:
        self._prefix = prefix
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def add(self, kind: str, *inputs: Any, name: str = "", **attributes: Any) -> str:
        """Add a node; return the name of its output. Inputs that are no names are constants."""
        names = [each if isinstance(each, str) else self._constant(each) for each in inputs]
        output = name or f"{self._prefix}_{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, names, [output], name=f"{output}_node", **attributes))
        return output

    def model(self, source: onnx.ValueInfoProto, outputs: Sequence[onnx.ValueInfoProto]) -> onnx.ModelProto:
        """Return the graph with one input."""
        graph = helper.make_graph(self.nodes, self._prefix, [source], outputs, self.constants)
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], producer_name="retinaflow")
        model.ir_version = IR_VERSION
        onnx.checker.check_model(model)
        return model

    def _constant(self, value: Any) -> str:
        name = f"{self._prefix}_constant_{len(self.constants)}"
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
    return nodes.model(
        helper.make_tensor_value_info(OUTPUTS, TensorProto.DOUBLE, ["n", width(rule.objective, k)]),
        [helper.make_tensor_value_info(name, *outputs[name]) for name in ANSWERS],
    )


def view_graph(count: int, size: int) -> onnx.ModelProto:
    """Return the graph of TTA views, the same as ``augmentation.write_view``.

    Args:
        count: Number of views, 1 to ``MOST_GRAPH_VIEWS``.
        size: Side of the images.

    Returns:
        Graph from ``pixels``, uint8 (n, size, size, 3), to ``views``, uint8 (count n, size, size, 3): the first view of
        all images, then the second view of all.
    """
    nodes = _Nodes("view")
    views = [nodes.add("Identity", PIXELS)]
    for number in range(1, count):
        transposed, flips = divmod(number, 1 + len(FLIPS))
        view = nodes.add("Transpose", PIXELS, perm=[0, 2, 1, 3]) if transposed else PIXELS
        for axis in _AXES[FLIPS[flips]] if flips else []:
            view = nodes.add("Slice", view, [-1], [-size - 1], [axis], [-1])
        views.append(view)
    nodes.add("Concat", *views, name=VIEWS, axis=0)
    image = [size, size, 3]
    return nodes.model(
        helper.make_tensor_value_info(PIXELS, TensorProto.UINT8, ["n", *image]),
        [helper.make_tensor_value_info(VIEWS, TensorProto.UINT8, ["views", *image])],
    )


def mean_graph(objective: str, grade_count: int, count: int) -> onnx.ModelProto:
    """Return the graph of the mean over TTA views, the same as ``runtime.view_means``.

    It maps ``view_outputs``, float32 (count n, width), to ``outputs``, float64 (n, width).
    """
    nodes = _Nodes("mean")
    outputs = nodes.add("Cast", VIEW_OUTPUTS, to=TensorProto.DOUBLE)
    if objective == "softmax":
        outputs = nodes.add("Div", outputs, nodes.add("ReduceSum", outputs, [1], keepdims=1))
    columns = width(objective, grade_count)
    total = nodes.add("ReduceSum", nodes.add("Reshape", outputs, [count, -1, columns]), [0], keepdims=0)
    nodes.add("Div", total, np.float64(count), name=OUTPUTS)
    return nodes.model(
        helper.make_tensor_value_info(VIEW_OUTPUTS, TensorProto.FLOAT, ["views", columns]),
        [helper.make_tensor_value_info(OUTPUTS, TensorProto.DOUBLE, ["n", columns])],
    )


def answering_graph(network: onnx.ModelProto, rule: DecisionRule, *, tta_views: int, size: int) -> onnx.ModelProto:
    """Join a network with its TTA views and its decision rule.

    Args:
        network: Graph from ``pixels`` to raw ``outputs`` of one view.
        rule: Decision rule of the mean raw outputs.
        tta_views: Number of TTA views, 1 to ``MOST_GRAPH_VIEWS``.
        size: Side of the images.

    Returns:
        Graph from ``pixels`` to the mean raw ``outputs`` and ``runtime.Answers``.
    """
    inner = onnx.compose.add_prefix(network, _NETWORK)
    inner.ir_version = IR_VERSION
    own = next(each for each in inner.graph.output if each.name == _NETWORK + OUTPUTS)
    del inner.graph.output[:]
    inner.graph.output.append(own)
    means = mean_graph(rule.objective, len(rule.grade_names), tta_views)
    joined = onnx.compose.merge_models(view_graph(tta_views, size), inner, [(VIEWS, _NETWORK + PIXELS)])
    joined = onnx.compose.merge_models(joined, means, [(own.name, VIEW_OUTPUTS)])
    joined = onnx.compose.merge_models(joined, answer_graph(rule), [(OUTPUTS, OUTPUTS)])
    joined.graph.output.insert(0, means.graph.output[0])
    onnx.checker.check_model(joined)
    return joined


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
