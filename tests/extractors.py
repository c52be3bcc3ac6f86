"""Small feature extractors in ONNX form, drawn for tests."""

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def write_extractor(path: Path, size: int, channels: int = 6) -> Path:
    """Write a convolution with drawn weights, from RGB (n, 3, size, size) to the mean of each channel (n, channels)."""
    kernel = np.random.default_rng(0).normal(0, 0.2, (channels, 3, 5, 5)).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["pixels", "kernel"], ["maps"], strides=[4, 4]),
            helper.make_node("Relu", ["maps"], ["positive"]),
            helper.make_node("ReduceMean", ["positive"], ["features"], axes=[2, 3], keepdims=0),
        ],
        "extractor",
        [helper.make_tensor_value_info("pixels", TensorProto.FLOAT, ["n", 3, size, size])],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, ["n", channels])],
        [numpy_helper.from_array(kernel, "kernel")],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)])
    model.ir_version = 8
    onnx.save(model, path)
    return path
