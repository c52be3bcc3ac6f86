"""Check of ONNX files before ONNX Runtime reads them. Needs no package.

A graph may come from another person. This module reads the messages of protobuf
(protobuf.dev/programming-guides/encoding). It refuses weights in other files, nodes that run other graphs, and nodes
that make large tensors of small ones. No graph of this project has any of these.
"""

from collections.abc import Iterator

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
        return next(_faults(memoryview(content)), "")
    except (ValueError, IndexError):
        return "it is damaged or no ONNX file"


def _faults(model: memoryview) -> Iterator[str]:
    graphs = 0
    for field, value in _fields(model):
        if field in (_TRAINING, _FUNCTIONS):
            yield "it has functions or training, expected one graph"
        elif field == _GRAPH and isinstance(value, memoryview):
            graphs += 1
            yield from _graph_faults(value)
    if graphs != 1:
        yield f"it has {graphs} graphs, expected 1"


def _graph_faults(graph: memoryview) -> Iterator[str]:
    nodes = 0
    for field, value in _fields(graph):
        if not isinstance(value, memoryview):
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


def _node_faults(node: memoryview) -> Iterator[str]:
    kind, domain = b"", b""
    for field, value in _fields(node):
        if not isinstance(value, memoryview):
            continue
        if field == _OP_TYPE:
            kind = bytes(value[:100])
        elif field == _DOMAIN:
            domain = bytes(value[:100])
        elif field == _ATTRIBUTE:
            yield from _attribute_faults(value)
    if kind in REFUSED or domain not in DOMAINS:
        yield f"it has a node {kind.decode(errors='replace')!r} of domain {domain.decode(errors='replace')!r}"


def _attribute_faults(attribute: memoryview) -> Iterator[str]:
    for field, value in _fields(attribute):
        if field in (_SUBGRAPH, _SUBGRAPHS):
            yield "a node runs another graph"
        elif field in (_SPARSE, _SPARSES):
            yield "it has sparse weights"
        elif field in (_TENSOR, _TENSORS) and isinstance(value, memoryview):
            yield from _tensor_faults(value)


def _tensor_faults(tensor: memoryview) -> Iterator[str]:
    for field, value in _fields(tensor):
        if field == _EXTERNAL or (field == _LOCATION and value):
            yield "weights are in another file, expected all in this one"


def _fields(message: memoryview) -> Iterator[tuple[int, memoryview | int]]:
    """Yield number and value of each field; bytes for those with a length."""
    at, end = 0, len(message)
    while at < end:
        key, at = _varint(message, at)
        field, wire = key >> 3, key & 7
        if wire == 0:
            value, at = _varint(message, at)
            yield field, value
            continue
        if wire not in (1, 2, 5):
            raise ValueError(f"wire type {wire}")
        length = {1: 8, 5: 4}.get(wire, 0)
        if wire == 2:
            length, at = _varint(message, at)
        if length > end - at:
            raise ValueError("a field is longer than its message")
        yield field, message[at : at + length]
        at += length


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("a number of more than 64 bits")
