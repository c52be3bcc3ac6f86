"""Check of ONNX files before ONNX Runtime reads them. Needs no package.

A graph may come from another person. This module refuses weights in other files, nodes that run other graphs, and nodes
that make large tensors of small ones. No graph of this project has any of these.
"""

from collections.abc import Iterator

from retinaflow.storage.protobuf import Message, is_message, message_of

MOST_NODES = 50_000
# Fields of the messages in onnx.proto, by their numbers.
_GRAPH, _TRAINING, _FUNCTIONS = 7, 20, 25  # of ModelProto
_NODE, _INITIALIZER, _SPARSE_INITIALIZER = 1, 5, 15  # of GraphProto
_OP_TYPE, _ATTRIBUTE, _DOMAIN = 4, 5, 7  # of NodeProto
_TENSOR, _SUBGRAPH, _TENSORS, _SUBGRAPHS, _SPARSE, _SPARSES = 5, 6, 10, 11, 22, 23  # of AttributeProto
_EXTERNAL, _LOCATION = 13, 14  # of TensorProto
DOMAINS = (b"", b"ai.onnx")
# They repeat values, so a few bytes may become gigabytes; or they make random values, or compute without an end.
REFUSED = {
    *(b"ConstantOfShape", b"Expand", b"EyeLike", b"OneHot", b"Range", b"Tile", b"Upsample", b"CenterCropPad"),
    *(b"RandomNormal", b"RandomUniform", b"Multinomial", b"Bernoulli", b"RandomNormalLike", b"RandomUniformLike"),
    *(b"If", b"Loop", b"Scan", b"SequenceMap", b"StringSplit", b"RegexFullMatch"),
}


def graph_fault(content: bytes) -> str:
    """Return why an ONNX file is refused; empty if it is not."""
    try:
        return next(_faults(message_of(content)), "")
    except ValueError:
        return "it is damaged or no ONNX file"


def _faults(model: Message) -> Iterator[str]:
    graphs = 0
    for field, value in model.fields():
        if field in (_TRAINING, _FUNCTIONS):
            yield "it has functions or training, expected one graph"
        elif field == _GRAPH and is_message(value):
            graphs += 1
            yield from _graph_faults(value)
    if graphs != 1:
        yield f"it has {graphs} graphs, expected 1"


def _graph_faults(graph: Message) -> Iterator[str]:
    nodes = 0
    for field, value in graph.fields():
        if not is_message(value):
            continue
        if field == _NODE:
            nodes += 1
            if nodes > MOST_NODES:
                yield f"it has more than {MOST_NODES} nodes"
                return
            yield from _node_faults(value)
        elif field == _INITIALIZER:
            yield from _tensor_faults(value)
        elif field == _SPARSE_INITIALIZER:
            yield "it has sparse weights"


def _node_faults(node: Message) -> Iterator[str]:
    kind, domain = b"", b""
    for field, value in node.fields():
        if not is_message(value):
            continue
        if field == _OP_TYPE:
            kind = value.bytes(100)
        elif field == _DOMAIN:
            domain = value.bytes(100)
        elif field == _ATTRIBUTE:
            yield from _attribute_faults(value)
    if kind in REFUSED or domain not in DOMAINS:
        yield f"it has a node {kind.decode(errors='replace')!r} of domain {domain.decode(errors='replace')!r}"


def _attribute_faults(attribute: Message) -> Iterator[str]:
    for field, value in attribute.fields():
        if field in (_SUBGRAPH, _SUBGRAPHS):
            yield "a node runs another graph"
        elif field in (_SPARSE, _SPARSES):
            yield "it has sparse weights"
        elif field in (_TENSOR, _TENSORS) and is_message(value):
            yield from _tensor_faults(value)


def _tensor_faults(tensor: Message) -> Iterator[str]:
    for field, value in tensor.fields():
        if field == _EXTERNAL or (field == _LOCATION and value != 0):
            yield "weights are in another file, expected all in this one"
