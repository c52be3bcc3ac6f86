"""ONNX files that are the same bytes each time that a network is converted. Needs the package onnx.

A converter numbers its names by counters of the process, and the order of nodes may follow these names.
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import onnx

CONSTANT = "constant"


def make_repeatable(path: Path) -> None:
    """Rewrite an ONNX file with names and an order that depend only on its graph. Its answers stay the same."""
    model = onnx.load(path)
    rename(model.graph)
    path.write_bytes(model.SerializeToString(deterministic=True))


def rename(graph: onnx.GraphProto) -> None:
    """Give a graph names and an order that depend only on what it computes.

    Its inputs and outputs keep their names. Other values are named by their operation and a number, in the order of
    first use. Nodes and constants that no output needs are left out. A graph with sparse constants, or with nodes that
    run graphs of their own, keeps its names.
    """
    graph.ClearField("doc_string")
    attributes = [attribute for node in graph.node for attribute in node.attribute]
    if graph.sparse_initializer or any(each.HasField("g") or each.graphs for each in attributes):
        return
    del graph.value_info[:], graph.quantization_annotation[:]
    order = {_first(node): number for number, node in enumerate(_needed(graph))}
    _keep(graph.node, order, _first)
    names = _names(graph)
    _keep(graph.initializer, {name: number for number, name in enumerate(names)}, lambda tensor: tensor.name)
    for node in graph.node:
        node.name = names[_first(node)]
        node.ClearField("doc_string")
        node.input[:] = [names[name] if name else "" for name in node.input]
        node.output[:] = [names[name] if name else "" for name in node.output]
        node.attribute.sort(key=lambda attribute: attribute.name)
    for tensor in graph.initializer:
        tensor.name = names[tensor.name]
    _rename_sizes(graph)


def _first(node: onnx.NodeProto) -> str:
    """Return the first output of a node that has a name."""
    return next(filter(None, node.output))


def _keep(values: Any, order: Mapping[str, int], key: Callable[[Any], str]) -> None:
    """Sort messages by ``order``, and remove those that it lacks."""
    kept = sum(key(each) in order for each in values)
    values.sort(key=lambda each: order.get(key(each), len(order)))
    del values[kept:]


def _needed(graph: onnx.GraphProto) -> Iterator[onnx.NodeProto]:
    """Yield the nodes that the outputs need, each after those that it needs itself."""
    makers = {name: node for node in graph.node for name in node.output if name}
    done: set[str] = set()
    for output in graph.output:
        waiting = [(output.name, False)]
        while waiting:
            name, is_ready = waiting.pop()
            node = makers.get(name)
            if node is None or _first(node) in done:
                continue
            if is_ready:
                done.add(_first(node))
                yield node
            else:
                waiting.append((name, True))
                waiting += [(each, False) for each in reversed(node.input)]


def _names(graph: onnx.GraphProto) -> dict[str, str]:
    """Return the new name of each value, in the order of first use."""
    names = {value.name: value.name for value in (*graph.input, *graph.output)}
    constants = {tensor.name for tensor in graph.initializer}
    public, counts = set(names), dict[str, int]()
    for node in graph.node:
        for name in (*node.input, *node.output):
            if not name or name in names:
                continue
            kind = CONSTANT if name in constants else node.op_type
            while name not in names or names[name] in public:
                counts[kind] = counts.get(kind, 0) + 1
                names[name] = f"{kind}_{counts[kind]}"
    return names


def _rename_sizes(graph: onnx.GraphProto) -> None:
    """Number the sizes that vary."""
    sizes: dict[str, str] = {}
    for value in (*graph.input, *graph.output):
        for side in value.type.tensor_type.shape.dim:
            if side.HasField("dim_param"):
                side.dim_param = sizes.setdefault(side.dim_param, f"size_{len(sizes) + 1}")
