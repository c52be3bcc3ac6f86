"""Features of images by a network in ONNX form, computed by ONNX Runtime. Imports no other backend."""

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime

from retinaflow.errors import RetinaflowError
from retinaflow.networks.backbones import pixel_scaling
from retinaflow.networks.extractor_files import (
    PIXEL_TYPES,
    backbone_name,
    onnx_input,
    onnx_outputs,
    pixel_layout,
    rank_error,
    read_onnx,
    uint8_fault,
)
from retinaflow.settings.train import NormalisationSettings


class OnnxExtractor:
    """A network from uint8 RGB (n, size, size, 3) to float32 features (n, d), with the interface of a Keras network.

    Attributes:
        name: Name of the network.
        output_shape: (None, d).
    """

    def __init__(
        self,
        file: Path,
        size: int,
        *,
        outputs: Sequence[str] = (),
        normalisation: str | NormalisationSettings = "imagenet",
        pooling: str = "mean",
        threads: int = 1,
    ) -> None:
        """Load the network. It runs on a GPU if ONNX Runtime has one, else on the CPU.

        Args:
            file: ONNX file.
            size: Side of the images in pixels.
            outputs: Names of the outputs to join. Without any, the only output.
            normalisation: As ``train.normalisation``: ``imagenet``, ``none``, or means and deviations.
            pooling: Features of tokens: their ``mean``, or the ``first`` token.
            threads: Number of threads on a CPU.

        Raises:
            RetinaflowError: The file is damaged, or its input or outputs have other shapes.
        """
        self.file, self.name, self.size, self.pooling = file, backbone_name(file.as_posix()), size, pooling
        found = read_onnx(file)
        self.pixels = onnx_input(file, found)
        self.layout = pixel_layout(file, self.pixels, size)
        self.outputs = onnx_outputs(file, found, outputs)
        self.scaling = pixel_scaling(normalisation)
        if self.pixels.type == 2 and normalisation != "none":
            raise RetinaflowError(f"{uint8_fault(file)}.")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
        options.use_deterministic_compute = True
        options.log_severity_level = 3
        wanted = ("CUDAExecutionProvider", "CPUExecutionProvider")
        providers = [name for name in wanted if name in onnxruntime.get_available_providers()]
        try:
            self.session = onnxruntime.InferenceSession(str(file), options, providers=providers)
        except Exception as error:  # ONNX Runtime has a type for each cause, and no common one.
            raise RetinaflowError(
                f"{file}: ONNX Runtime cannot load this network ({_cause(error)}); export it again, with operations of "
                "ONNX only."
            ) from error
        self.output_shape = (None, self._features(np.zeros((1, size, size, 3), np.uint8)).shape[1])

    def predict(self, batches: Any, verbose: int = 0, callbacks: Iterable[Any] = ()) -> np.ndarray:  # noqa: ARG002
        """Compute the features of all ``batches``, as ``keras.Model.predict`` does: float32 (n, d)."""
        followers, count = list(callbacks), batches.num_batches
        for follower in followers:
            follower.set_params({"steps": count})
        features = []
        # The next batch is read while this one is computed.
        with ThreadPoolExecutor(1) as reader:
            read = reader.submit(batches.__getitem__, 0)
            for number in range(count):
                pixels = read.result()[0]
                if number + 1 < count:
                    read = reader.submit(batches.__getitem__, number + 1)
                features.append(self._features(pixels))
                for follower in followers:
                    follower.on_predict_batch_end(number)
        return np.concatenate(features)

    def _features(self, pixels: np.ndarray) -> np.ndarray:
        prepared = self._prepare(pixels)
        count = self.pixels.shape[0] if self.pixels.shape and self.pixels.shape[0] else len(prepared)
        parts = []
        for start in range(0, len(prepared), count):
            some = prepared[start : start + count]
            # A network with a fixed number of images gets blank ones at the end.
            filled = np.zeros((count, *some.shape[1:]), some.dtype)
            filled[: len(some)] = some
            try:
                found = self.session.run(self.outputs, {self.pixels.name: filled})
            except Exception as error:
                raise RetinaflowError(
                    f"{self.file}: ONNX Runtime cannot compute features ({_cause(error)}); export the network again "
                    f"for images of {self.size} px."
                ) from error
            parts.append(np.concatenate(list(map(self._pooled, self.outputs, found)), axis=1)[: len(some)])
        return np.concatenate(parts)

    def _prepare(self, pixels: np.ndarray) -> np.ndarray:
        kind = PIXEL_TYPES[self.pixels.type]
        if kind == "uint8":
            prepared = pixels
        else:
            scale, offset = (np.asarray(values, np.float32) for values in self.scaling)
            prepared = (pixels.astype(np.float32) * scale + offset).astype(kind)
        return np.ascontiguousarray(prepared.transpose(0, 3, 1, 2)) if self.layout == "NCHW" else prepared

    def _pooled(self, name: str, output: Any) -> np.ndarray:
        """Average an output over tokens or area, or take its first token: float32 (n, d)."""
        array = np.asarray(output, np.float32)
        if array.ndim not in (2, 3, 4):
            raise rank_error(self.file, name, array.shape)
        if array.ndim == 4 and self.pooling == "first":
            raise RetinaflowError(f"{self.file}: output {name!r} has maps and no tokens; set pooling to mean.")
        if array.ndim == 3:
            return array[:, 0] if self.pooling == "first" else array.mean(axis=1)
        if array.ndim == 4:
            return array.mean(axis=(2, 3) if self.layout == "NCHW" else (1, 2))
        return array


def _cause(error: Exception) -> str:
    return " ".join(str(error).split())[:400]
