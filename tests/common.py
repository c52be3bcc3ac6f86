"""What several test files name. Not in conftest.py: tests/workflow has one too, and a new process would find either."""

import os
from pathlib import Path

import numpy as np

from retinaflow.grades import Grades

ROOT = Path(__file__).resolve().parents[1]
DATA = Path(os.environ.get("RETINAFLOW_DATA", ROOT.parent / "shared" / "data"))
CLASSES = ["class0", "class1", "class2", "class3", "class4"]

# Index tables of a part, and its shards as (pixels, rows).
Part = tuple[list[Path], list[tuple[Path, Path]]]
# For the workflow: the first block of the smallest network is compiled in a quarter of the time that the whole takes.
SMALL = {"MobileNetV3Small": {"feature_layers": ["expanded_conv_project_bn"]}}
# The article's augmentation, which is the default of `train.augment`.
AUGMENT = {
    **{"flip_horizontal": True, "flip_vertical": True, "shift": 0.1, "zoom": [0.8, 1.2], "rotation": 20},
    **{"crop": 1, "brightness": 0, "contrast": 0, "saturation": 0, "hue": 0, "mixup": 0, "cutmix": 0},
}


def grades_of(probabilities: np.ndarray, referable_level: int) -> Grades:
    """Grades (n,) by the most probable class of ``probabilities`` (n, k), as if there were no thresholds."""
    level = probabilities.argmax(axis=1)
    return Grades(
        probabilities @ np.arange(probabilities.shape[1]), probabilities, level, level, level >= referable_level
    )
