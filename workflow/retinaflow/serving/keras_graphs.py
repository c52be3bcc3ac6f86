"""The ONNX graphs of module ``graphs`` as operations of Keras, for formats that are converted from Keras.

LiteRT computes in float32, so wide numbers become float32 here.
"""

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np
import onnx
from onnx import helper, numpy_helper

Value = Any  # keras.KerasTensor or np.ndarray


def keras_outputs(graph: onnx.ModelProto, source: keras.KerasTensor) -> dict[str, keras.KerasTensor]:
    """Apply a graph with one input to ``source``. Return its outputs by name.

    Raises:
        KeyError: It has an operation that no graph of module ``graphs`` has.
    """
    values: dict[str, Value] = {each.name: _constant(each) for each in graph.graph.initializer}
    values[graph.graph.input[0].name] = source
    for node in graph.graph.node:
        attributes = {each.name: helper.get_attribute_value(each) for each in node.attribute}
        values[node.output[0]] = _OPERATIONS[node.op_type]([values[name] for name in node.input], attributes)
    return {each.name: values[each.name] for each in graph.graph.output}


def _constant(tensor: onnx.TensorProto) -> np.ndarray:
    array = numpy_helper.to_array(tensor)
    return array.astype(np.float32) if array.dtype == np.float64 else array


def _cast(values: list[Value], attributes: Mapping[str, Any]) -> Value:
    kind = helper.tensor_dtype_to_np_dtype(attributes["to"])
    return keras.ops.cast(values[0], {"float64": "float32", "int64": "int32"}.get(kind.name, kind.name))


def _slice(values: list[Value], _: Mapping[str, Any]) -> Value:
    array, (start,), (stop,), (axis,), *steps = values
    if steps:
        return keras.ops.flip(array, axis=int(axis))
    return array[(slice(None),) * int(axis) + (slice(int(start), int(stop)),)]


def _sum(values: list[Value], attributes: Mapping[str, Any]) -> Value:
    return keras.ops.sum(values[0], axis=int(values[1][0]), keepdims=bool(attributes["keepdims"]))


def _pad(values: list[Value], _: Mapping[str, Any]) -> Value:
    array, widths, value = values
    sides = np.reshape(widths, (2, -1)).T.tolist()
    return keras.ops.pad(array, sides, constant_values=float(value))


def _erf(values: list[Value], _: Mapping[str, Any]) -> Value:
    """Error function, to 2e-7: Abramowitz and Stegun 1964, formula 7.1.26. LiteRT has none."""
    size = keras.ops.abs(values[0])
    t = 1 / (1 + 0.3275911 * size)
    series = ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592) * t
    return keras.ops.sign(values[0]) * (1 - series * keras.ops.exp(-size * size))


_OPERATIONS: dict[str, Callable[[list[Value], Mapping[str, Any]], Value]] = {
    "Identity": lambda values, _: values[0],
    "Cast": _cast,
    "Slice": _slice,
    "Concat": lambda values, attributes: keras.ops.concatenate(values, axis=attributes["axis"]),
    "Transpose": lambda values, attributes: keras.ops.transpose(values[0], attributes["perm"]),
    "Reshape": lambda values, _: keras.ops.reshape(values[0], values[1].tolist()),
    "Unsqueeze": lambda values, _: keras.ops.expand_dims(values[0], int(values[1][0])),
    "Pad": _pad,
    "ReduceSum": _sum,
    "MatMul": lambda values, _: keras.ops.matmul(*values),
    "Add": lambda values, _: keras.ops.add(*values),
    "Sub": lambda values, _: keras.ops.subtract(*values),
    "Mul": lambda values, _: keras.ops.multiply(*values),
    "Div": lambda values, _: keras.ops.divide(*values),
    "Max": lambda values, _: keras.ops.maximum(*values),
    "Min": lambda values, _: keras.ops.minimum(*values),
    "Greater": lambda values, _: keras.ops.greater(*values),
    "GreaterOrEqual": lambda values, _: keras.ops.greater_equal(*values),
    "Log": lambda values, _: keras.ops.log(values[0]),
    "Sigmoid": lambda values, _: keras.ops.sigmoid(values[0]),
    "Softmax": lambda values, attributes: keras.ops.softmax(values[0], axis=attributes["axis"]),
    "Erf": _erf,
}
