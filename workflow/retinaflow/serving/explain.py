"""Where in a photograph a network finds what it answers: Grad-CAM. Computes with TensorFlow, whatever trained it.

Selvaraju et al. 2017, Grad-CAM, arXiv:1610.02391: the feature maps of a layer, each weighed by what its mean over the
area adds to the score. Here the head itself reads such means, so this is exact to first order; where it reads several
layers, the sum of theirs is shown. It tells which regions the answer rests on, not that it is right, nor why.
"""

import functools
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import keras
import numpy as np
import tensorflow as tf
from matplotlib import colormaps

from retinaflow.reporting.illustrations import captioned_figure, shortened
from retinaflow.reporting.report import Shards, photographs
from retinaflow.storage.tables import Row, read_table, write_table
from retinaflow.training.head import split

log = logging.getLogger(__name__)

# Photographs of each grade that are explained: the most confident right answers and the most confident wrong ones.
RIGHT, WRONG = 2, 2
# Even in lightness, and the same to all kinds of colour vision.
COLOURS = "cividis"
OPACITY = 0.8
COLUMNS = ("image", "filename", "grade_name", "predicted_grade_name", "probability", "right")


class Explained(NamedTuple):
    """One photograph: its row of predictions, and how probable the predicted class is."""

    row: Row
    probability: float

    @property
    def right(self) -> bool:
        """Whether it is graded as it should be."""
        return self.row["grade_name"] == self.row["predicted_grade_name"]


def relevance(model: keras.Model, pixels: np.ndarray, objective: str, levels: np.ndarray) -> np.ndarray:
    """How much each place speaks for an answer: float32 (n, size, size), 0 to 1, where 1 is the most of a photograph.

    ``model``, made by ``model.build``, takes ``pixels`` uint8 RGB (n, size, size, 3); ``levels``, int (n,), are the
    answers. With softmax, what speaks for a level is what raises its probability; otherwise, what raises the severity,
    or lowers it for level 0. Where nothing speaks for the answer, all is 0.
    """
    maps, head = _parts(model)
    size = pixels.shape[1]
    found = maps.predict(pixels, verbose=0)
    each = [np.asarray(one, np.float32) for one in (found if isinstance(found, list) else [found])]
    features = tf.constant(np.concatenate([one.mean(axis=(1, 2)) for one in each], axis=1))
    with tf.GradientTape() as tape:
        tape.watch(features)
        score = _score(head(features, training=False), objective, levels)
    weights = tape.gradient(score, features).numpy()
    total = np.zeros((len(pixels), size, size), np.float32)
    start = 0
    for one in each:
        channels = one.shape[-1]
        # A cell of a coarser map counts for more in the mean and is larger: by area, all maps are alike.
        spoken = np.einsum("nhwc,nc->nhw", one, weights[:, start : start + channels])
        total += np.stack([cv2.resize(its, (size, size), interpolation=cv2.INTER_LINEAR) for its in spoken])
        start += channels
    return scaled(np.maximum(total, 0))


def scaled(maps: np.ndarray) -> np.ndarray:
    """``maps``, float (n, size, size) from 0 on, each so that its most is 1; where all is 0, it stays."""
    most = maps.max(axis=(1, 2), keepdims=True)
    return np.divide(maps, most, out=np.zeros_like(maps), where=most > 0)


@functools.cache  # each time, Keras would add to the layers that both share
def _parts(model: keras.Model) -> tuple[keras.Model, keras.Model]:
    """``model`` up to the maps that its features are the means of, and its head."""
    pool = model.get_layer("pool")
    means = pool.input if isinstance(pool.input, list) else [pool.output]
    maps = keras.Model(model.inputs, [mean._keras_history.operation.input for mean in means])
    maps.run_eagerly = True  # for a few photographs, tracing it takes longer
    return maps, split(model)[1]


def _score(outputs: tf.Tensor, objective: str, levels: np.ndarray) -> tf.Tensor:
    if objective == "softmax":
        return tf.math.log(tf.gather(outputs, tf.constant(levels), axis=1, batch_dims=1) + keras.config.epsilon())
    # A level, or probabilities of exceeding each: their sum is the severity.
    return tf.reduce_sum(outputs, axis=1) * tf.constant(np.where(levels > 0, 1.0, -1.0), outputs.dtype)


def overlay(photograph: np.ndarray, shares: np.ndarray) -> np.ndarray:
    """``photograph``, uint8 RGB (size, size, 3), in grey under the colours of ``shares``, (size, size), 0 to 1.

    It shows through wherever little speaks for the answer. Of a retina's own colours none would tell from yellow.
    """
    grey = cv2.cvtColor(photograph, cv2.COLOR_RGB2GRAY)[..., np.newaxis]
    colours = colormaps[COLOURS](shares)[..., :3].astype(np.float32) * 255
    cover = OPACITY * shares[..., np.newaxis]
    return np.round((1 - cover) * grey + cover * colours).astype(np.uint8)


def chosen(predictions: Path, classes: Sequence[str]) -> list[Explained]:
    """The photographs of each actual class, in their order, with the most confident right and then wrong answers."""
    rows = read_table(
        predictions, ("filename", "grade_name", "predicted_grade_name", *(f"probability_{name}" for name in classes))
    )
    judged = [Explained(row, float(row[f"probability_{row['predicted_grade_name']}"])) for row in rows]
    judged.sort(key=lambda one: (-one.probability, one.row["filename"]))
    found = []
    for name in classes:
        own = [one for one in judged if one.row["grade_name"] == name]
        found += [one for one in own if one.right][:RIGHT] + [one for one in own if not one.right][:WRONG]
    return found


def explain(
    run: str,
    model: keras.Model,
    objective: str,
    predictions: Path,
    images: Mapping[str, str],
    shards: Shards,
    classes: Sequence[str],
    figure: Path,
    table: Path,
) -> None:
    """Draw the ``chosen`` photographs beside what their answers rest on, and list them.

    ``images``: the image name of each file name. ``shards``, (pixels, rows) each, hold their pixels.
    """
    explained = chosen(predictions, classes)
    names = [images[one.row["filename"]] for one in explained]
    pixels = photographs(shards, names)
    levels = np.array([list(classes).index(one.row["predicted_grade_name"]) for one in explained])
    shares = relevance(model, np.stack(pixels), objective, levels)
    panels: list[tuple[np.ndarray, str]] = []
    lines: list[dict[str, Any]] = []
    for one, name, photograph, share in zip(explained, names, pixels, shares, strict=True):
        row = one.row
        text = (
            f"{shortened(row['filename'])}\nactual {shortened(row['grade_name'])}, "
            f"{'right' if one.right else 'wrong'}\n"
            f"predicted {shortened(row['predicted_grade_name'])}, {one.probability:.0%}"
        )
        panels.append((np.hstack([photograph, overlay(photograph, share)]), text))
        values = (
            name,
            row["filename"],
            row["grade_name"],
            row["predicted_grade_name"],
            f"{one.probability:.9g}",
            int(one.right),
        )
        lines.append(dict(zip(COLUMNS, values, strict=True)))
    captioned_figure(
        figure, panels, f"{run}: what the most confident answers rest on", "there is no photograph", RIGHT + WRONG
    )
    write_table(table, COLUMNS, lines)
    log.info("%s: %d photographs explained", run, len(panels))
