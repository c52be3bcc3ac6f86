"""Grade images as before bundles: TensorFlow loads a Keras model. The other side of `serving.py`.

python benchmarks/former.py NETWORK.keras DECISION_RULE.json IMAGE_OR_FOLDER [--heat-maps]
"""

import gc
import os
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "workflow"))
gc.disable()  # Imports leave no garbage; the search for some takes a second.

import cv2  # noqa: E402
import numpy as np  # noqa: E402

from retinaflow.networks.backend import choose  # noqa: E402

choose("tensorflow")
from retinaflow.data.headers import Header, examine_files  # noqa: E402
from retinaflow.preprocessing.preprocess import load_image  # noqa: E402
from retinaflow.preprocessing.variant import Variant  # noqa: E402
from retinaflow.scoring.decision_rules import apply_decision_rule, read_decision_rule  # noqa: E402
from retinaflow.scoring.score import load_model, predict_outputs  # noqa: E402
from retinaflow.serving.cores import available_cores  # noqa: E402

gc.enable()

THREADS = 4  # for reading and decoding
AT_ONCE = 256  # images in memory
COMPILED = 32  # From this number of images, compilation takes less time than it saves.


class Decoded:
    """Images in memory, as ``predict_outputs`` reads them."""

    def __init__(self, pixels: np.ndarray) -> None:
        """Keep ``pixels``, uint8 RGB (n, size, size, 3)."""
        self.pixels, self.size = pixels, int(pixels.shape[1])
        self.names = [str(number) for number in range(len(pixels))]
        self.grades = np.zeros(len(pixels), np.int64)

    def __len__(self) -> int:
        """Number of images."""
        return len(self.pixels)

    def __getitem__(self, number: int) -> np.ndarray:
        """Pixels of one image."""
        return self.pixels[number]

    def read_into(self, out: np.ndarray, number: int) -> None:
        """Copy the pixels of one image to ``out``."""
        out[...] = self.pixels[number]

    def prefetch(self, numbers: np.ndarray) -> None:
        """Do nothing: the pixels are in memory."""


def decode(paths: list[Path], variant: Variant) -> np.ndarray:
    """Examine and decode files: two decodes each, uint8 RGB (n, size, size, 3)."""
    headers = examine_files([str(path) for path in paths], 100, THREADS)

    def read(path: Path, header: Header) -> np.ndarray:
        row = {"digest": header.digest, "width": str(header.width), "height": str(header.height)}
        return load_image(path, row, variant)

    cv2.setNumThreads(1)
    with ThreadPoolExecutor(THREADS) as pool:
        return np.stack(list(pool.map(read, paths, headers)))


def main() -> None:
    """Grade, and print the grade and the risk of each image."""
    rule = read_decision_rule(Path(sys.argv[2]))
    source = Path(sys.argv[3])
    model = load_model(Path(sys.argv[1]), rule.grade_names, objective=rule.objective, seed=1, threads=available_cores())
    paths = sorted(source.iterdir()) if source.is_dir() else [source]
    model.run_eagerly = len(paths) < COMPILED
    variant = Variant(model.input_shape[1], "trim", "keep", "none")
    for first in range(0, len(paths), AT_ONCE):
        chosen = paths[first : first + AT_ONCE]
        pixels = decode(chosen, variant)
        outputs = predict_outputs(model, Decoded(pixels), objective=rule.objective, threads=THREADS)
        answers = apply_decision_rule(rule, outputs)
        if "--heat-maps" in sys.argv:
            from retinaflow.serving.explain import relevance

            relevance(model, pixels, rule.objective, answers.predicted)
        risks = answers.probabilities[:, rule.referable_grade :].sum(axis=1)
        for path, grade, risk in zip(chosen, answers.predicted, risks, strict=True):
            print(f"{path.name},{grade},{risk:.6f}")


if __name__ == "__main__":
    main()
