"""Grad-CAM: heat maps of the image regions that support a network's answer. Computes with TensorFlow.

Selvaraju et al. 2017, Grad-CAM, arXiv:1610.02391. The feature maps of a layer are summed with weights. The weight of a
map is the gradient of the score with respect to the mean of the map. The head reads these means, so the sum is exact to
first order. If the head reads several layers, their sums are added. A heat map shows the regions that an answer depends
on, not that the answer is right.
"""

import functools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import keras
import numpy as np
import tensorflow as tf

from retinaflow.errors import RetinaflowError
from retinaflow.reporting.illustrations import captioned_figure, shortened
from retinaflow.reporting.report import Shards, stored_pixels
from retinaflow.serving.heat_maps import overlay, scaled
from retinaflow.storage.tables import Row, read_table, write_table
from retinaflow.training.head import split

log = logging.getLogger(__name__)

# Images of each grade that are explained: the most probable right answers and the most probable wrong ones.
RIGHT, WRONG = 2, 2
EXPLAIN_COLUMNS = ("image", "filename", "grade_name", "predicted_grade_name", "probability", "right")


class Explained(NamedTuple):
    """An explained image: its row of predictions, and the probability of the predicted grade."""

    row: Row
    probability: float

    @property
    def right(self) -> bool:
        """Whether the predicted grade is the labelled one."""
        return self.row["grade_name"] == self.row["predicted_grade_name"]


def relevance(model: keras.Model, pixels: np.ndarray, objective: str, grades: np.ndarray) -> np.ndarray:
    """Compute the heat maps of answers.

    With softmax, a region supports a grade if it raises the grade's probability. Otherwise it supports grade 0 if it
    lowers the severity, and other grades if it raises it.

    Args:
        model: A model of ``building.build``.
        pixels: uint8 RGB (n, size, size, 3).
        objective: Kind of its raw outputs.
        grades: The answers, int (n,).

    Returns:
        float32 (n, size, size), 0 to 1. The largest value of each image is 1, or 0 if no region supports the answer.
    """
    maps, head = _parts(model)
    size = pixels.shape[1]
    found = maps.predict(pixels, verbose=0)
    layers = [np.asarray(layer, np.float32) for layer in (found if isinstance(found, list) else [found])]
    features = tf.constant(np.concatenate([layer.mean(axis=(1, 2)) for layer in layers], axis=1))
    with tf.GradientTape() as tape:
        tape.watch(features)
        score = _score(head(features, training=False), objective, grades)
    weights = tape.gradient(score, features).numpy()
    total = np.zeros((len(pixels), size, size), np.float32)
    start = 0
    for layer in layers:
        channels = layer.shape[-1]
        # A cell of a coarser map has more weight in the mean and more area, so all maps are alike by area.
        sums = np.einsum("nhwc,nc->nhw", layer, weights[:, start : start + channels])
        total += np.stack([cv2.resize(of_image, (size, size), interpolation=cv2.INTER_LINEAR) for of_image in sums])
        start += channels
    return scaled(np.maximum(total, 0))


@functools.cache  # Keras adds nodes to the shared layers each time.
def _parts(model: keras.Model) -> tuple[keras.Model, keras.Model]:
    """Split a model into the part up to its feature maps and the head, which reads their means."""
    pool = model.get_layer("pool")
    means = pool.input if isinstance(pool.input, list) else [pool.output]
    layers = [mean._keras_history.operation.input for mean in means]
    if any(len(layer.shape) != 4 for layer in layers):
        raise RetinaflowError(
            f"{model.name}: its backbone returns features without places in the image, so there are no heat maps. Set "
            "feature_layers to layers with maps (n, height, width, channels), and train again."
        )
    maps = keras.Model(model.inputs, layers)
    maps.run_eagerly = True  # Tracing takes longer than a few images.
    return maps, split(model)[1]


def _score(outputs: tf.Tensor, objective: str, grades: np.ndarray) -> tf.Tensor:
    if objective == "softmax":
        return tf.math.log(tf.gather(outputs, tf.constant(grades), axis=1, batch_dims=1) + keras.config.epsilon())
    # The output is a severity, or its sum is: probabilities of exceeding each grade.
    return tf.reduce_sum(outputs, axis=1) * tf.constant(np.where(grades > 0, 1.0, -1.0), outputs.dtype)


def chosen(predictions: Path, grade_names: Sequence[str]) -> list[Explained]:
    """Choose the images of each grade with the most probable right answers, then those with wrong ones."""
    columns = ("filename", "grade_name", "predicted_grade_name", *(f"probability_{name}" for name in grade_names))
    rows = read_table(predictions, columns)
    answers = [Explained(row, float(row[f"probability_{row['predicted_grade_name']}"])) for row in rows]
    answers.sort(key=lambda answer: (-answer.probability, answer.row["filename"]))
    found = []
    for name in grade_names:
        of_grade = [answer for answer in answers if answer.row["grade_name"] == name]
        found += [answer for answer in of_grade if answer.right][:RIGHT]
        found += [answer for answer in of_grade if not answer.right][:WRONG]
    return found


@dataclass(frozen=True)
class ExplainJob:
    """Input and output of the explanation of a training run's answers.

    Attributes:
        training_run: Its name.
        model: Its network.
        objective: Kind of its raw outputs.
        predictions: Its predictions.
        images: Image name of each file name.
        shards: Shards with the pixels of the images.
        grade_names: Name of each grade.
        figure: Figure of the explained images.
        table: Table of the explained images.
    """

    training_run: str
    model: keras.Model
    objective: str
    predictions: Path
    images: Mapping[str, str]
    shards: Shards
    grade_names: Sequence[str]
    figure: Path
    table: Path


def explain(job: ExplainJob) -> None:
    """Draw the chosen images beside their heat maps, and list them."""
    explained = chosen(job.predictions, job.grade_names)
    names = [job.images[answer.row["filename"]] for answer in explained]
    pixels = stored_pixels(job.shards, names)
    grades = np.array([list(job.grade_names).index(answer.row["predicted_grade_name"]) for answer in explained])
    heat_maps = relevance(job.model, np.stack(pixels), job.objective, grades)
    panels = [
        (np.hstack([image, overlay(image, heat_map)]), _caption(answer))
        for answer, image, heat_map in zip(explained, pixels, heat_maps, strict=True)
    ]
    captioned_figure(
        job.figure,
        panels,
        title=f"{job.training_run}: heat maps of the most probable answers",
        empty="there is no image",
        columns=RIGHT + WRONG,
    )
    write_table(
        job.table, EXPLAIN_COLUMNS, [_line(answer, name) for answer, name in zip(explained, names, strict=True)]
    )
    log.info("%s: %d images explained", job.training_run, len(panels))


def _caption(answer: Explained) -> str:
    row = answer.row
    return (
        f"{shortened(row['filename'])}\nactual {shortened(row['grade_name'])}, "
        f"{'right' if answer.right else 'wrong'}\n"
        f"predicted {shortened(row['predicted_grade_name'])}, {answer.probability:.0%}"
    )


def _line(answer: Explained, image: str) -> dict[str, Any]:
    row = answer.row
    values = (row["filename"], row["grade_name"], row["predicted_grade_name"], f"{answer.probability:.9g}")
    return dict(zip(EXPLAIN_COLUMNS, (image, *values, int(answer.right)), strict=True))
