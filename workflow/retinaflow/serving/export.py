"""Trained models in the formats of other runtimes, compared with Keras. Needs TensorFlow.

tf2onnx converts to ONNX (onnx.ai), and onnxruntime runs it. TensorFlow converts to LiteRT
(ai.google.dev/edge/litert, formerly TensorFlow Lite), and ai-edge-litert runs it. LiteRT has float32, or 8-bit integers
for weights and outputs of layers (Jacob et al. 2018, arXiv:1712.05877). Some training images set the ranges of the
integers.

Files in float32 include TTA views, calibration and the decision rule, by the graphs of module ``graphs``. Files in
8-bit integers return raw outputs of one view alone: integers are too coarse for the decision rule. So do all files if
there are more than ``MOST_GRAPH_VIEWS`` views.
"""

import json
import logging
import os
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import keras
import numpy as np
import onnx
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from sklearn.metrics import confusion_matrix

from retinaflow.errors import RetinaflowError
from retinaflow.evaluation.bootstrap import kappa
from retinaflow.networks.objectives import impossible_rows
from retinaflow.preprocessing.batches import Batches, Images, ImageSource
from retinaflow.preprocessing.variant import Variant
from retinaflow.scoring.decision_rules import DecisionRule, apply_decision_rule
from retinaflow.scoring.score import BATCH, predict_tta
from retinaflow.serving.bundle import NOTICE
from retinaflow.serving.convert import convertible, write_onnx
from retinaflow.serving.exported import DIFFERENCE_COLUMNS
from retinaflow.serving.graphs import MOST_GRAPH_VIEWS, answer_graph, answering_graph, mean_graph, view_graph
from retinaflow.serving.keras_graphs import keras_outputs
from retinaflow.serving.sessions import ANSWERS, OUTPUTS, PIXELS, graph_session
from retinaflow.storage.disk_errors import disk_refusal
from retinaflow.storage.files import whole_file
from retinaflow.storage.tables import write_table

log = logging.getLogger(__name__)

# Training images that set the ranges of 8-bit integers.
CALIBRATED = 200
# Name of the metadata: a property in ONNX, a file in LiteRT.
METADATA = "retinaflow.json"
KERAS = "keras"

ANSWERING = ("onnx", "litert")  # formats that can include TTA views and the decision rule

# uint8 RGB (n, size, size, 3) to arrays of n rows by their names: ``outputs``, and ``ANSWERS`` if the file has them.
Predictor = Callable[[np.ndarray], Mapping[str, np.ndarray]]


class Exported(NamedTuple):
    """A trained model in one format, ``keras`` for itself.

    Attributes:
        format: The format.
        path: Its file.
        outputs: Mean raw outputs over TTA views, float (n, width).
        answers: The ``ANSWERS`` of the file; None if it has none, and the decision rule is applied to its raw outputs.
    """

    format: str
    path: Path
    outputs: np.ndarray
    answers: Mapping[str, np.ndarray] | None = None

    def grades(self, rule: DecisionRule) -> tuple[np.ndarray, np.ndarray]:
        """Return calibrated probabilities (n, k) and predicted grades (n,)."""
        if self.answers:
            return self.answers["probabilities"], self.answers["grade"]
        found = apply_decision_rule(rule, self.outputs)
        return found.probabilities, found.predicted


@dataclass(frozen=True)
class ExportJob:
    """Input, output and resources of an export.

    Attributes:
        training_run: Name of the training run.
        model: Its network.
        keras_file: File of the network.
        variant: Preprocessing variant of its images.
        decision_rule: Its decision rule.
        tta_views: Views of test-time augmentation.
        training: Training images, for the ranges of 8-bit integers.
        validation: Images of the comparison with Keras.
        seed: Seed that draws the training images.
        threads: Number of threads.
        files: File of each format.
        differences: Table of ``DIFFERENCE_COLUMNS``, a row for each file.
    """

    training_run: str
    model: keras.Model
    keras_file: Path
    variant: Variant
    decision_rule: DecisionRule
    tta_views: int
    training: Images
    validation: Images
    seed: int
    threads: int
    files: Mapping[str, Path]
    differences: Path


def export(job: ExportJob) -> None:
    """Write a model in each format, with ``metadata`` inside, and compare its answers with those of Keras.

    Raises:
        RetinaflowError: A format cannot hold the model, or its answers do not fit the objective.
    """
    rule = job.decision_rule
    of_keras = predict_tta(
        job.model, job.validation, objective=rule.objective, tta_views=job.tta_views, threads=job.threads
    )[0]
    found = [Exported(KERAS, job.keras_file, of_keras)]
    known = convertible(job.model)
    for kind, path in job.files.items():
        found.append(_write_format(job, known, kind, path))
    rows = [compared(job.training_run, other, found[0], job.validation.grades, rule) for other in found]
    write_table(job.differences, DIFFERENCE_COLUMNS, rows)
    for row in rows[1:]:
        log.info("%s", ", ".join(f"{name} {row[name]}" for name in DIFFERENCE_COLUMNS[1:]))


def includes_answers(kind: str, tta_views: int) -> bool:
    """Whether a file of a format includes TTA views, calibration and the decision rule."""
    return kind in ANSWERING and tta_views <= MOST_GRAPH_VIEWS


def _write_format(job: ExportJob, model: keras.Model, kind: str, path: Path) -> Exported:
    """Write a convertible model in one format, and compute its answers to the validation images."""
    chosen = sorted(np.random.default_rng(job.seed).permutation(len(job.training))[:CALIBRATED])
    inside = includes_answers(kind, job.tta_views)
    content = metadata(job.training_run, job.variant, job.decision_rule, tta_views=job.tta_views, inside=inside)
    with whole_file(path) as part:
        try:
            write, start = _RUNTIMES[kind]
            rule = job.decision_rule if inside else None
            write(Written(model, part, rule, job.tta_views), (job.training[number] for number in chosen))
            _embed(kind, part, content)
            answer = start(part, job.threads)
        except (OSError, MemoryError):
            raise
        except Exception as error:  # Converters raise errors of many kinds.
            if disk_refusal(error):  # TensorFlow writes to temporary files, too.
                raise
            cause = " ".join(str(error).split())[-400:]
            raise RetinaflowError(
                f"{job.training_run}: {kind} cannot hold this model ({type(error).__name__}: {cause}). Leave {kind} "
                "out of export.formats."
            ) from error
        found = answers(answer, job.validation, job.threads, 1 if inside else job.tta_views)
    objective = job.decision_rule.objective
    if impossible_rows(objective, found[OUTPUTS]).any():
        raise RetinaflowError(
            f"{path}: its answers do not fit objective {objective}; those of {job.keras_file} do. Leave {kind} out of "
            "export.formats."
        )
    return Exported(kind, path, found[OUTPUTS], found if inside else None)


def metadata(
    training_run: str, variant: Variant, decision_rule: DecisionRule, *, tta_views: int, inside: bool
) -> dict[str, Any]:
    """Describe input and output of an exported model for a program that grades images.

    ``input`` describes the result of ``preprocess.load_image``. ``decision_rule`` grades the raw outputs, which are
    means over the TTA views, as ``decision_rules.apply_decision_rule`` does. If ``inside``, the file does both.
    """
    return {
        "training_run": training_run,
        "input": {
            "shape": [None, variant.size, variant.size, 3],
            "type": "uint8",
            "channels": "RGB",
            "values": [0, 255],
            "crop": variant.crop,
            "aspect": variant.aspect,
            "enhance": variant.enhance,
            "normalisation": "inside the model",
        },
        "output": {
            "objective": decision_rule.objective,
            "tta_views": tta_views,
            "decision_rule_inside": inside,
            "names": [OUTPUTS, *(ANSWERS if inside else ())],
        },
        "decision_rule": decision_rule.document(),
        "notice": NOTICE,
    }


def compared(
    training_run: str, exported: Exported, reference: Exported, grades: np.ndarray, decision_rule: DecisionRule
) -> dict[str, Any]:
    """Compare an exported model with a reference.

    Args:
        training_run: Name of the training run.
        exported: The exported model.
        reference: The model in Keras.
        grades: Labelled grades of the images, int (n,).
        decision_rule: Decision rule of both.

    Returns:
        A row of ``DIFFERENCE_COLUMNS``. Differences of calibrated probabilities are over images and grades.
    """
    (own, predicted), (other, expected) = (each.grades(decision_rule) for each in (exported, reference))
    apart = np.abs(own - other)
    every = range(len(decision_rule.grade_names))
    kappas = [float(kappa(confusion_matrix(grades, found, labels=every))) for found in (predicted, expected)]
    return {
        "training_run": training_run,
        "format": exported.format,
        "file": exported.path.name,
        "bytes": exported.path.stat().st_size,
        "images": len(grades),
        "quadratic_weighted_kappa": _written(kappas[0]),
        "kappa_difference": _written(kappas[0] - kappas[1]),
        "grades_changed": int((predicted != expected).sum()),
        "mean_probability_difference": _written(apart.mean()),
        "largest_probability_difference": _written(apart.max()),
    }


def _written(value: float) -> str:
    """A value as the table has it; empty if kappa is undefined."""
    return "" if np.isnan(value) else f"{value:.6g}"


def answers(answer: Predictor, images: ImageSource, threads: int, tta_views: int) -> dict[str, np.ndarray]:
    """Return the arrays of a file for n images by their names. They are means over TTA views outside of the file."""
    total: dict[str, Any] = {}
    for view in range(tta_views):
        batches = Batches(images, BATCH, threads=threads, view=view)
        parts = [answer(batches[number][0]) for number in range(batches.num_batches)]
        for name in parts[0]:
            joined = np.concatenate([part[name] for part in parts])
            total[name] = total.get(name, 0.0) + joined.astype(np.float64)
    return {name: array / tta_views for name, array in total.items()}


# Formats ------------------------------------------------------------------------------------------------------------


class Written(NamedTuple):
    """A network and the file to write.

    Attributes:
        model: The network, as ``convertible`` returns it.
        path: The file.
        decision_rule: Decision rule to include, with TTA views; None for raw outputs alone.
        tta_views: Number of TTA views.
    """

    model: keras.Model
    path: Path
    decision_rule: DecisionRule | None
    tta_views: int


def _write_onnx(written: Written, _: Iterator[np.ndarray]) -> None:
    model, path, rule, tta_views = written
    named = {OUTPUTS: keras.layers.Identity(name="as_outputs")(model.output)}
    write_onnx(_called(keras.Model(model.inputs[0], named)), path)
    if rule:
        size = model.input_shape[1]
        onnx.save(answering_graph(onnx.load(path), rule, tta_views=tta_views, size=size), path)


def _write_litert(written: Written, _: Iterator[np.ndarray]) -> None:
    model, path, rule, tta_views = written
    if rule:
        keras.utils.clear_session()  # Names of the new layers are in the file, and start to count again.
        views = keras_outputs(view_graph(tta_views, model.input_shape[1]), model.inputs[0])
        of_views = model(*views.values())
        means = keras_outputs(mean_graph(rule.objective, len(rule.grade_names), tta_views), of_views)
        found = {**means, **keras_outputs(answer_graph(rule), means[OUTPUTS])}
        named = {name: keras.layers.Identity(name=f"as_{name}")(tensor) for name, tensor in found.items()}
        model = _called(keras.Model(model.inputs[0], named))
    model.export(path, format="litert", verbose=False, **_BUILTINS)


def _write_litert_int8(written: Written, images: Iterator[np.ndarray]) -> None:
    written.model.export(
        written.path,
        format="litert",
        verbose=False,
        optimizations=[tf.lite.Optimize.DEFAULT],
        representative_dataset=lambda: ([pixels[np.newaxis]] for pixels in images),
        **_BUILTINS,
    )


def _called(model: keras.Model) -> keras.Model:
    """Call a model once. Keras exports no other."""
    model(np.zeros((1, *model.input_shape[1:]), np.uint8))
    return model


# LiteRT's own runtime lacks the operations of TensorFlow.
_BUILTINS = {"target_spec": {"supported_ops": [tf.lite.OpsSet.TFLITE_BUILTINS]}}


def run_onnx(path: Path, threads: int) -> Predictor:
    """Load an ONNX file for the CPU."""
    session = graph_session(path.read_bytes(), threads)
    names = [each.name for each in session.get_outputs()]
    return lambda batch: dict(zip(names, session.run(None, {PIXELS: batch}), strict=True))


def run_litert(path: Path, threads: int) -> Predictor:
    """Load a LiteRT file for the CPU. A single output of it is named ``outputs``."""
    runner = Interpreter(str(path), num_threads=threads).get_signature_runner()
    (pixels,) = runner.get_input_details()

    def answer(batch: np.ndarray) -> dict[str, np.ndarray]:
        found = runner(**{pixels: batch})
        return {OUTPUTS if len(found) == 1 else name: array for name, array in found.items()}

    return answer


_RUNTIMES = {
    "onnx": (_write_onnx, run_onnx),
    "litert": (_write_litert, run_litert),
    "litert_int8": (_write_litert_int8, run_litert),
}


def _embed(kind: str, path: Path, content: Mapping[str, Any]) -> None:
    text = json.dumps(content, ensure_ascii=False)
    if kind == "onnx":
        model = onnx.load(path)
        onnx.helper.set_model_props(model, {METADATA: text})
        onnx.save(model, path)
    else:
        # Like LiteRT's own metadata: a zip archive after the model. The runtime does not read it.
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr(zipfile.ZipInfo(METADATA), text)


def read_metadata(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Read the ``metadata`` of an exported file."""
    if Path(path).suffix == ".onnx":
        properties = onnx.load(path, load_external_data=False).metadata_props
        text: str | bytes = {each.key: each.value for each in properties}[METADATA]
    else:
        with zipfile.ZipFile(path) as archive:
            text = archive.read(METADATA)
    content: dict[str, Any] = json.loads(text)
    return content
