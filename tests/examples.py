"""Small tables of earlier stages that several test files use."""

from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import strategies as st

from retinaflow.data.inventory import INVENTORY_COLUMNS, PROBLEM_COLUMNS
from retinaflow.scoring.raw_outputs import RawOutputs
from retinaflow.storage.files import write_json
from retinaflow.storage.tables import write_table

SOFTMAX = np.array([[0.7, 0.2, 0.1], [0.1, 0.3, 0.6], [0.25, 0.5, 0.25], [0.5, 0.5, 0.0]])
LEVELS = np.array([0, 2, 0, 1])
NAMES = ["1_left", "1_right", "2_left", "2_right"]
OUTPUTS = RawOutputs(NAMES, [f"{name}.jpeg" for name in NAMES], list("1122"), ["left", "right"] * 2, LEVELS, SOFTMAX)


def of(count, seed=0):
    """Raw outputs of a regression for both eyes of some patients, related to their grades."""
    rng = np.random.default_rng(seed)
    grades = rng.integers(0, 3, count)
    names = [f"{seed}.{number // 2}_{'right' if number % 2 else 'left'}" for number in range(count)]
    patients, eyes = ([name.split("_")[place] for name in names] for place in (0, 1))
    outputs = (grades + rng.normal(0, 0.6, count))[:, None]
    return RawOutputs(names, [f"{name}.jpeg" for name in names], patients, eyes, grades, outputs)


Grades = dict[str, list[int]]  # By patient.

patients = st.dictionaries(
    # "/" stands only after the name of a data set.
    st.text(st.characters(codec="utf-8", exclude_characters="/"), max_size=4),
    st.lists(st.integers(0, 2), min_size=1, max_size=3),
    min_size=1,
    max_size=40,
)

Tables = tuple[Path, Path]


def tables(folder: Path, *problems: tuple[str, str], good: int = 0, data_set: str = "train") -> Tables:
    """Write an inventory: ``good`` usable images of one patient, one more for each problem that has a path.

    ``problems`` are (kind, path).
    """
    rows = [{"path": f"good{number}.jpeg", "patient": "1"} for number in range(good)]
    rows += [{"path": path, "problem": kind} for kind, path in problems if path and kind != "other_file"]
    listed = [
        {"data_set": data_set, "image": f"image{number}", "path": path, "problem": kind, "found": f"found {number}"}
        for number, (kind, path) in enumerate(problems)
    ]
    inventory, table = folder / f"{data_set}.csv", folder / f"{data_set}-problems.csv"
    write_table(inventory, INVENTORY_COLUMNS, [{**dict.fromkeys(INVENTORY_COLUMNS, ""), **row} for row in rows])
    write_table(table, PROBLEM_COLUMNS, listed)
    return inventory, table


# The parts of a training record that reports use.
TRAINING_RECORD: dict[str, Any] = {
    "training_run": "VGG16",
    "backbone": "VGG16",
    "settings": {"feature_layers": ["block3_pool", "block4_pool"], "image_size": 299, "weights": "imagenet"},
    "seed": 2015,
    "digests": {"train_index": "52dc", "weights": None},
    "environment": {"python": "3.12.1", "device": "Tesla V100", "packages": {"keras": "3.15.1"}},
    "computed": {"jit": False},
    "photographs": {"train": 1234, "validation": 60},
    "batch_size": 8,
    "epochs_run": 12,
    "best_epoch": 2,
    "parameters": 14718853,
    "trainable_parameters": 4,
    "class_weights": None,
    "seconds": 5400.0,
}


def write_record(path: Path, training_run: str = "VGG16", **values: Any) -> Path:
    """Write the record of a training run of the network that its name begins with."""
    names = {"training_run": training_run, "backbone": training_run.split("/")[0]}
    write_json(path, {**TRAINING_RECORD, **names, **values})
    return path
