"""Speed of scoring 10,000 rows of shards, against `model.predict` on the same pixels as one array in memory.

The network is small, at 96 px: the faster the network, the more a slow reader would show.

    python benchmarks/scoring.py
"""

import os

os.environ["CUDA_VISIBLE_DEVICES"] = ""
import tempfile
from pathlib import Path

import keras
import numpy as np

import common
from retinaflow.networks import devices
from retinaflow.preprocessing.batches import Images
from retinaflow.scoring.score import BATCH, predict_outputs

ROWS, SIZE = common.sized((10_000, 96), (100, 32))
THREADS = 2


def network() -> keras.Model:
    """Build a MobileNetV3Small from raw pixels to probabilities."""
    backbone = keras.applications.MobileNetV3Small(input_shape=(SIZE, SIZE, 3), include_top=False, weights=None)
    pixels = keras.Input((SIZE, SIZE, 3), dtype="uint8")
    features = keras.layers.GlobalAveragePooling2D()(backbone(keras.layers.Rescaling(1.0)(pixels)))
    return keras.Model(pixels, keras.layers.Dense(len(common.GRADE_NAMES), activation="softmax")(features))


def main() -> None:
    """Measure, print and write the rows."""
    devices.prepare_process(1, THREADS)
    model = network()
    with tempfile.TemporaryDirectory() as name:
        pixels = np.random.default_rng(1).integers(0, 256, (1000, SIZE, SIZE, 3), np.uint8)
        images = Images(*common.repeated(pixels, ROWS, Path(name)), common.GRADE_NAMES)
        array = np.resize(pixels, (ROWS, *pixels.shape[1:]))
        model.predict(array[:BATCH], verbose=0)
        predict_outputs(model, images, threads=THREADS)
        seconds = common.alternate(
            {
                "ours": lambda: len(predict_outputs(model, images, threads=THREADS)),
                "model.predict on an array": lambda: len(model.predict(array, batch_size=BATCH, verbose=0)),
            }
        )
    rows = common.rates(f"scoring {ROWS:,} rows", seconds, {"model.predict on an array": 0.97}, "images/s")
    common.publish("scoring", rows, {"model": f"MobileNetV3Small, {SIZE} px, batches of {BATCH}"})


if __name__ == "__main__":
    main()
