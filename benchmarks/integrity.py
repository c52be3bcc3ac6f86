"""Cost of the checksums of pixels, against the same shards without checksums, in the same run.

The network is the smallest one, so that reading is as large a share as it gets. Augmented batches have no network at
all. The clock is the processor time of all threads, which other work on the machine hardly disturbs.

    python benchmarks/integrity.py
"""

import os

os.environ["CUDA_VISIBLE_DEVICES"] = ""
import tempfile
import time
from pathlib import Path

import keras
import numpy as np

import common
from retinaflow.networks import devices
from retinaflow.preprocessing.batches import Batches, Images
from retinaflow.preprocessing.shards import CHECKSUM_COLUMN, ROW_COLUMNS, checksum, open_shard, shard_rows
from retinaflow.scoring.score import predict_outputs
from retinaflow.settings.augment import AugmentSettings
from retinaflow.storage.tables import write_table

COUNT, SIZE = common.sized((160, 224), (20, 32))
FEED = common.sized(10, 1)
THREADS = 2
WITHOUT = "without checksums"


def with_checksums(indices: list[Path], shards: list[tuple[Path, Path]]) -> Images:
    """Return the images of the same pixel files, whose row tables have checksums."""
    checked = []
    for pixels, rows in shards:
        shard, own = open_shard(pixels, rows), rows.with_name(f"{rows.stem}-checked.csv")
        keys = list(zip(shard.names, shard.digests, strict=True))
        write_table(own, (*ROW_COLUMNS, CHECKSUM_COLUMN), shard_rows(keys, list(map(checksum, shard.array))))
        checked.append((pixels, own))
    return Images(indices, checked, common.GRADE_NAMES)


def network() -> keras.Model:
    """Build a MobileNetV3Small from raw pixels to probabilities."""
    backbone = keras.applications.MobileNetV3Small(input_shape=(SIZE, SIZE, 3), include_top=False, weights=None)
    pixels = keras.Input((SIZE, SIZE, 3), dtype="uint8")
    features = keras.layers.GlobalAveragePooling2D()(backbone(keras.layers.Rescaling(1.0)(pixels)))
    model = keras.Model(pixels, keras.layers.Dense(len(common.GRADE_NAMES), activation="softmax")(features))
    model.compile(optimizer="sgd", loss="sparse_categorical_crossentropy")
    return model


def main() -> None:
    """Measure, print and write the rows."""
    devices.prepare_process(1, THREADS)
    model = network()
    with tempfile.TemporaryDirectory() as name:
        pixels = np.random.default_rng(1).integers(0, 256, (COUNT, SIZE, SIZE, 3), np.uint8)
        indices, shards = common.repeated(pixels, COUNT, Path(name))
        sides = {"ours": with_checksums(indices, shards), WITHOUT: Images(indices, shards, common.GRADE_NAMES)}
        batches = {
            side: Batches(images, 32, threads=THREADS, seed=1, augment=AugmentSettings())
            for side, images in sides.items()
        }

        def feed(side: str) -> int:
            for number in range(FEED * batches[side].num_batches):
                batches[side][number % batches[side].num_batches]
            return FEED * COUNT

        def train(side: str) -> int:
            model.fit(batches[side], shuffle=False, verbose=0, callbacks=[batches[side].follow_epochs()])
            return COUNT

        def score(side: str) -> int:
            return len(predict_outputs(model, sides[side], threads=THREADS))

        rows = []
        for title, measure in (("augmented batches", feed), ("training epoch", train), ("scoring", score)):
            measure("ours"), measure(WITHOUT)
            seconds = common.alternate(
                {side: lambda side=side, measure=measure: measure(side) for side in sides}, clock=time.process_time
            )
            target = {WITHOUT: None if measure is feed else 0.97}
            rows += common.rates(f"{title} with checksums, {SIZE} px, CPU", seconds, target, "images/s of one core")
    common.publish("integrity", rows, {"model": f"MobileNetV3Small, {SIZE} px, batches of 32, {COUNT} images"})


if __name__ == "__main__":
    main()
