"""Trained models in the formats of other runtimes, and how far their answers are from Keras's. Needs TensorFlow.

ONNX (onnx.ai) is converted by tf2onnx and run by onnxruntime; LiteRT (ai.google.dev/edge/litert, once TensorFlow Lite)
is converted by TensorFlow and run by ai-edge-litert, in float32 or with 8-bit integers for weights and for what layers
put out (Jacob et al. 2018, arXiv:1712.05877), whose ranges are those that some training photographs have.
"""

import json
import logging
import math
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import onnx
import onnxruntime
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from sklearn.metrics import confusion_matrix

from retinaflow.errors import RetinaflowError
from retinaflow.evaluation.bootstrap import kappa
from retinaflow.networks.objectives import impossible_rows
from retinaflow.preprocessing.batches import Batches, Images, ImageSource
from retinaflow.preprocessing.variant import Variant
from retinaflow.scoring.decision_rules import Decision, grade
from retinaflow.scoring.score import BATCH, predict_views
from retinaflow.serving.bundle import NOTICE
from retinaflow.serving.exported import COLUMNS
from retinaflow.storage.files import whole_file
from retinaflow.storage.tables import write_table

log = logging.getLogger(__name__)

# Training photographs that the ranges of 8-bit integers are taken from.
CALIBRATED = 200
# What the metadata is called, as a property in ONNX and as a file in LiteRT.
METADATA = "retinaflow.json"
KERAS = "keras"

Answer = Callable[[np.ndarray], np.ndarray]  # uint8 RGB (n, size, size, 3) to float32 (n, width)


class Exported(NamedTuple):
    """What is made of a trained model in one ``format``, keras for itself: its ``path`` and its outputs."""

    format: str
    path: Path
    outputs: np.ndarray


def export(
    run: str,
    model: keras.Model,
    keras_file: Path,
    recipe: Variant,
    decision: Decision,
    views: int,
    training: Images,
    validation: Images,
    seed: int,
    threads: int,
    files: Mapping[str, Path],
    differences: Path,
) -> None:
    """Write ``model``, which is in ``keras_file``, in each format of ``files`` and compare their answers with its own.

    Each file has ``metadata`` inside, which ``read_metadata`` reads. The table ``differences`` has a row of ``COLUMNS``
    for each file, of the photographs of ``validation`` in so many ``views``, all graded by ``decision``. The ranges of
    ``litert_int8`` are those of ``CALIBRATED`` photographs of ``training``, drawn by ``seed``.

    Raises ``RetinaflowError`` if a format cannot hold the model, or its answers are none of the objective.
    """
    told = metadata(run, recipe, decision, views)
    chosen = np.random.default_rng(seed).permutation(len(training))[:CALIBRATED]
    found = [Exported(KERAS, keras_file, predict_views(model, validation, threads, decision.objective, views)[0])]
    known = convertible(model)
    for kind, path in files.items():
        with whole_file(path) as part:
            try:
                write, start = _RUNTIMES[kind]
                write(known, part, (training[number] for number in sorted(chosen)))
                _embed(kind, part, told)
                answer = start(part, threads)
            except (OSError, MemoryError):
                raise
            except Exception as error:  # converters fail in ways of their own
                cause = " ".join(str(error).split())[-400:]
                raise RetinaflowError(
                    f"{run}: {kind} cannot hold this model ({type(error).__name__}: {cause}). Leave {kind} out of "
                    "export.formats."
                ) from error
            outputs = answers(answer, validation, threads, views)
        if impossible_rows(decision.objective, outputs).any():
            raise RetinaflowError(
                f"{path}: its answers are none of objective {decision.objective}, though those of {keras_file} are. "
                f"Leave {kind} out of export.formats."
            )
        found.append(Exported(kind, path, outputs))
    rows = [compared(run, one, found[0], validation.grades, decision) for one in found]
    write_table(differences, COLUMNS, rows)
    for row in rows[1:]:
        log.info("%s", ", ".join(f"{name} {row[name]}" for name in COLUMNS[1:]))


def metadata(run: str, recipe: Variant, decision: Decision, views: int) -> dict[str, Any]:
    """What a program needs to know that grades photographs by an exported model: what goes in, what comes out.

    ``input`` is what ``preprocess.load`` makes of a photograph by the recipe; ``decision`` reads the outputs, which
    are means over ``views``, as ``decision.grade`` does.
    """
    return {
        "training_run": run,
        "input": {
            "shape": [None, recipe.size, recipe.size, 3],
            "type": "uint8",
            "channels": "RGB",
            "values": [0, 255],
            "crop": recipe.crop,
            "aspect": recipe.aspect,
            "enhance": recipe.enhance,
            "normalisation": "inside the model",
        },
        "output": {"objective": decision.objective, "views": views},
        "decision": decision._asdict(),
        "notice": NOTICE,
    }


def compared(run: str, one: Exported, like: Exported, levels: np.ndarray, decision: Decision) -> dict[str, Any]:
    """A row of ``COLUMNS``: how ``one`` grades photographs of these ``levels``, int (n,), and how far from ``like``.

    Differences of probabilities are those of calibrated ones, over photographs and classes.
    """
    own, other = grade(decision, one.outputs), grade(decision, like.outputs)
    apart = np.abs(own.probabilities - other.probabilities)
    every = range(len(decision.grade_names))
    kappas = [float(kappa(confusion_matrix(levels, its.level, labels=every))) for its in (own, other)]
    return {
        "training_run": run,
        "format": one.format,
        "file": one.path.name,
        "bytes": one.path.stat().st_size,
        "photographs": len(levels),
        "quadratic_weighted_kappa": _written(kappas[0]),
        "kappa_difference": _written(kappas[0] - kappas[1]),
        "levels_changed": int((own.level != other.level).sum()),
        "mean_probability_difference": _written(apart.mean()),
        "largest_probability_difference": _written(apart.max()),
    }


def _written(value: float) -> str:
    """As a table has it; nothing where kappa is undefined."""
    return "" if np.isnan(value) else f"{value:.6g}"


def answers(answer: Answer, photographs: ImageSource, threads: int, views: int) -> np.ndarray:
    """Mean over ``views`` of what ``answer`` says of ``photographs``: float64 (n, width)."""
    total: np.ndarray | float = 0.0
    for view in range(views):
        batches = Batches(photographs, BATCH, threads=threads, view=view)
        said = [answer(batches[number][0]) for number in range(batches.num_batches)]
        total = total + np.concatenate(said).astype(np.float64)
    return np.asarray(total) / views


# Formats ------------------------------------------------------------------------------------------------------------


def convertible(model: keras.Model) -> keras.Model:
    """The same as ``model``, by layers that converters know.

    Of EfficientNetV2, Keras's normalisation has constants that tf2onnx takes for inputs; of ConvNeXt, the convolutions
    of one channel each are compiled by XLA.
    """

    def alike(layer: keras.layers.Layer) -> keras.layers.Layer:
        if isinstance(layer, keras.layers.Normalization) and layer.input_mean is not None:
            mean, deviation = (np.ravel(keras.ops.convert_to_numpy(one)) for one in (layer.mean, layer.variance**0.5))
            scale = 1 / np.maximum(deviation, keras.config.epsilon())
            return keras.layers.Rescaling(scale.tolist(), (-mean * scale).tolist(), name=layer.name)
        if isinstance(layer, keras.layers.Conv2D) and layer.groups == layer.filters > 1:
            known = {name: getattr(layer, name) for name in ("strides", "padding", "use_bias", "activation", "name")}
            return keras.layers.DepthwiseConv2D(layer.kernel_size, **known)
        if isinstance(layer, keras.layers.Activation) and layer.activation is keras.activations.gelu:
            return keras.layers.Activation(_gelu, name=layer.name)
        return layer.__class__.from_config(layer.get_config())

    copy = keras.models.clone_model(model, clone_function=alike, recursive=True)
    copy.set_weights(
        [
            # A kernel (height, width, 1, channels) is one (height, width, channels, 1) there.
            value if value.shape == tuple(place.shape) else np.swapaxes(value, 2, 3)
            for value, place in zip(model.get_weights(), copy.weights, strict=True)
        ]
    )
    copy(np.zeros((1, *copy.input_shape[1:]), np.uint8))  # before which Keras refuses to export it
    return copy


def _gelu(x: keras.KerasTensor) -> keras.KerasTensor:
    """Hendrycks and Gimpel 2016, arXiv:1606.08415, by the error function and not its complement."""
    return 0.5 * x * (1 + keras.ops.erf(x / math.sqrt(2)))


def _write_onnx(model: keras.Model, path: Path, _: Iterator[np.ndarray]) -> None:
    # An optimisation that does not fit is left out, and told as an error with a traceback.
    logging.getLogger("tf2onnx").setLevel(logging.CRITICAL)
    model.export(path, format="onnx", verbose=False)


def _write_litert(model: keras.Model, path: Path, _: Iterator[np.ndarray]) -> None:
    model.export(path, format="litert", verbose=False, **_BUILTINS)


def _write_litert_int8(model: keras.Model, path: Path, photographs: Iterator[np.ndarray]) -> None:
    model.export(
        path,
        format="litert",
        verbose=False,
        optimizations=[tf.lite.Optimize.DEFAULT],
        representative_dataset=lambda: ([pixels[np.newaxis]] for pixels in photographs),
        **_BUILTINS,
    )


# Without the operations of TensorFlow itself, which LiteRT's own runtime has not.
_BUILTINS = {"target_spec": {"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS]}}


def run_onnx(path: Path, threads: int) -> Answer:
    """What an ONNX file answers, on the CPU."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    (pixels,) = session.get_inputs()
    return lambda batch: session.run(None, {pixels.name: batch})[0]


def run_litert(path: Path, threads: int) -> Answer:
    """What a LiteRT file answers, on the CPU."""
    interpreter = Interpreter(str(path), num_threads=threads)
    (pixels,), (outputs,) = interpreter.get_input_details(), interpreter.get_output_details()

    def answer(batch: np.ndarray) -> np.ndarray:
        if tuple(interpreter.get_input_details()[0]["shape"]) != batch.shape:
            interpreter.resize_tensor_input(pixels["index"], batch.shape)
            interpreter.allocate_tensors()
        interpreter.set_tensor(pixels["index"], batch)
        interpreter.invoke()
        said: np.ndarray = interpreter.get_tensor(outputs["index"])
        return said

    return answer


_RUNTIMES = {
    "onnx": (_write_onnx, run_onnx),
    "litert": (_write_litert, run_litert),
    "litert_int8": (_write_litert_int8, run_litert),
}


def _embed(kind: str, path: Path, told: Mapping[str, Any]) -> None:
    text = json.dumps(told, ensure_ascii=False)
    if kind == "onnx":
        content = onnx.load(path)
        onnx.helper.set_model_props(content, {METADATA: text})
        onnx.save(content, path)
    else:
        # As LiteRT's own metadata has it: a zip archive behind the model, which the runtime does not read.
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(zipfile.ZipInfo(METADATA), text)


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What an exported file says of itself: ``metadata``."""
    if Path(path).suffix == ".onnx":
        properties = onnx.load(path, load_external_data=False).metadata_props
        text: str | bytes = {each.key: each.value for each in properties}[METADATA]
    else:
        with zipfile.ZipFile(path) as archive:
            text = archive.read(METADATA)
    told: dict[str, Any] = json.loads(text)
    return told
