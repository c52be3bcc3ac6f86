"""Speed of a training epoch on the CPU, against the same model with no input work.

Both sides call `fit` on the same compiled model with the same number of images. Ours reads shards and augments. The
other side has all batches in memory.

    python benchmarks/training.py
"""

import os

os.environ["CUDA_VISIBLE_DEVICES"] = ""
import tempfile
from pathlib import Path

import numpy as np

import common
from retinaflow.config.loading import load
from retinaflow.networks import devices
from retinaflow.networks.building import build, compile_model
from retinaflow.networks.objectives import targets
from retinaflow.preprocessing.batches import Batches, Images
from retinaflow.settings.train import TrainingSettings

CASES = common.sized(("InceptionV3", "ResNet50"), ("MobileNetV3Small",))
SIZE, COUNT = common.sized((224, 64), (32, 16))
THREADS = 2


def configured(backbone: str) -> TrainingSettings:
    """Return the default settings of a backbone, with random weights, which have the same speed."""
    data = {"train": {"images": "images", "labels": "labels.csv"}}
    train = {"image_size": SIZE, "weights": "random", "batch_norm": "train"}
    return load({"data": data, "train": train, "models": {backbone: {}}}).models[backbone]


def compare(backbone: str, images: Images) -> list[common.Row]:
    """Measure epochs of one backbone and return the rows."""
    settings = configured(backbone)
    model = build(settings, len(common.GRADE_NAMES))
    compile_model(model, settings, len(common.GRADE_NAMES), jit=devices.compiles())
    answers = targets(settings.objective, images.grades, len(common.GRADE_NAMES))
    batches = Batches(images, settings.batch_size, threads=THREADS, seed=1, augment=settings.augment, targets=answers)
    pixels = np.stack([images[number] for number in range(COUNT)])
    model.train_on_batch(pixels[: settings.batch_size], answers[: settings.batch_size])

    def ours() -> int:
        model.fit(batches, shuffle=False, verbose=0, callbacks=[batches.follow_epochs()])
        return COUNT

    def memory() -> int:
        model.fit(pixels, answers, batch_size=settings.batch_size, shuffle=False, verbose=0)
        return COUNT

    ours(), memory()
    seconds = common.alternate({"ours": ours, "the same model, batches in memory": memory})
    return common.rates(
        f"training epoch, {backbone}, {SIZE} px, CPU", seconds, {"the same model, batches in memory": 0.97}, "images/s"
    )


def main() -> None:
    """Measure, print and write the rows."""
    devices.prepare_process(1, THREADS)
    collection = common.collection()
    used = common.Collection(collection.name, collection.paths[:COUNT], collection.grades[:COUNT])
    with tempfile.TemporaryDirectory() as folder:
        images = Images(*common.shards(used, SIZE, COUNT, Path(folder)), common.GRADE_NAMES)
        rows = [row for backbone in CASES for row in compare(backbone, images)]
    common.publish("training", rows, {"epoch": f"{COUNT} images"})


if __name__ == "__main__":
    main()
