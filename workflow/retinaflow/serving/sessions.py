"""Sessions of ONNX Runtime, and the names of the inputs and outputs of the graphs of a bundle."""

import onnxruntime

PIXELS, OUTPUTS, MAP, RELEVANCE = "pixels", "outputs", "map_", "relevance"
ANSWERS = ("severity", "probabilities", "risk", "grade", "referable")


def graph_session(content: bytes, threads: int) -> onnxruntime.InferenceSession:
    """Load an ONNX file for the CPU. It was checked before (``graph_check``)."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    # Threads that wait would otherwise take the cores from those that decode, and from other programs.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4  # An error is an exception; its log has the same text again.
    return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
