"""An ONNX file does not depend on the names and the order that a converter happens to choose."""

import random

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from retinaflow.serving.repeatable import make_repeatable, rename
from retinaflow.serving.sessions import graph_session


def tensor(name, value):
    return numpy_helper.from_array(np.asarray(value), name)


def network(rng, unused=False):
    """The same network each time, with drawn names and a drawn order of nodes and constants."""
    names = iter(rng.sample([f"layer_{number}/op__{number}:0" for number in range(1000)], 20))
    mean, scale, scaled, left, right, total, axes = (next(names) for _ in range(7))
    nodes = [
        helper.make_node("Sub", ["pixels", mean], [scaled], name=next(names)),
        helper.make_node("Mul", [scaled, scale], [left], name=next(names)),
        helper.make_node("Clip", [scaled, "", scale], [right], name=next(names)),
        helper.make_node("Add", [left, right], [total], name=next(names)),
        helper.make_node("ReduceSum", [total, axes], ["outputs"], name=next(names), keepdims=0, noop_with_empty_axes=0),
        helper.make_node("Sqrt", [left], ["roots"], name=next(names)),
    ]
    constants = [tensor(mean, np.float32(3)), tensor(scale, np.float32(2)), tensor(axes, np.int64([1]))]
    if unused:
        nodes.append(helper.make_node("Neg", [left], [next(names)]))
        constants.append(tensor(next(names), np.float32(9)))
    for drawn in (nodes, constants):
        rng.shuffle(drawn)
    for node in nodes:
        rng.shuffle(attributes := list(node.attribute))
        del node.attribute[:]
        node.attribute.extend(attributes)
    size = next(names)
    outputs = [
        helper.make_tensor_value_info("outputs", TensorProto.FLOAT, [size]),
        helper.make_tensor_value_info("roots", TensorProto.FLOAT, [size, 4]),
    ]
    pixels = helper.make_tensor_value_info("pixels", TensorProto.FLOAT, [size, 4])
    graph = helper.make_graph(nodes, "network", [pixels], outputs, constants, doc_string=f"function {rng.random()}")
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 15)], ir_version=8)


def answers(path):
    return graph_session(path.read_bytes(), 1).run(None, {"pixels": np.arange(8, dtype=np.float32).reshape(2, 4)})


def test_drawn_names_and_order_give_the_same_bytes(tmp_path):
    found = set()
    for seed in range(50):
        path = tmp_path / "network.onnx"
        path.write_bytes(network(random.Random(seed), unused=seed % 2 == 1).SerializeToString())  # noqa: S311
        make_repeatable(path)
        found.add(path.read_bytes())
    assert len(found) == 1
    model = onnx.load(path)
    onnx.checker.check_model(model, full_check=True)
    assert sorted(node.name for node in model.graph.node) == ["Add_1", "Clip_1", "Mul_1", "Sub_1", "outputs", "roots"]
    assert [each.name for each in model.graph.initializer] == ["constant_1", "constant_2", "constant_3"]
    shifted = np.arange(8).reshape(2, 4) - 3.0
    total, roots = answers(path)
    np.testing.assert_allclose(total, (2 * shifted + np.minimum(shifted, 2)).sum(axis=1))
    np.testing.assert_allclose(roots[1], np.sqrt(2 * shifted[1]))


def test_another_network_gives_other_bytes():
    one, other = network(random.Random(1)), network(random.Random(2))  # noqa: S311
    for constant in other.graph.initializer:
        if numpy_helper.to_array(constant).shape == () and numpy_helper.to_array(constant) == 2:
            constant.CopyFrom(tensor(constant.name, np.float32(2.5)))
    for model in (one, other):
        rename(model.graph)
    assert one.SerializeToString(deterministic=True) != other.SerializeToString(deterministic=True)


@pytest.mark.parametrize("name", ["Sub_1", "constant_1"])
def test_names_of_inputs_and_outputs_are_kept_apart(name):
    model = network(random.Random(3))  # noqa: S311
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = [name if each == "roots" else each for each in names]
    model.graph.output[1].name = name
    rename(model.graph)
    onnx.checker.check_model(model, full_check=True)
    values = [each for node in model.graph.node for each in node.output]
    assert name in values
    assert len(set(values)) == len(values)
    assert name not in [each.name for each in model.graph.initializer]


def test_network_with_graphs_in_its_nodes_keeps_its_names():
    inner = helper.make_graph([helper.make_node("Neg", ["a"], ["b"])], "inner", [], [])
    graph = helper.make_graph([helper.make_node("If", ["c"], ["d"], then_branch=inner, else_branch=inner)], "g", [], [])
    before = graph.SerializeToString(deterministic=True)
    rename(graph)
    assert graph.SerializeToString(deterministic=True) == before
