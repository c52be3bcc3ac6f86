"""What a run would take, before it is started: photographs, disk, GPU memory and hours. Imports nothing heavy.

Hours follow from how many photographs a second a device trains: as finished runs of the same results folder measured,
as published, or as measured for this library. What nobody measured for a backbone follows from what is known of another
one and ``resources.COSTS``. Such estimates are good to a factor of two.
"""

import json
import math
import re
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from retinaflow.config.lookups import eye_models, held_out_splits, shard_counts, variant
from retinaflow.config.root import Configuration
from retinaflow.errors import RetinaflowError
from retinaflow.jobs.resources import COSTS, FEATURES, area, device_memory
from retinaflow.settings.train import TrainingSettings
from retinaflow.storage.markdown import table
from retinaflow.training.schedule import VIEWS

# Photographs of 224 px a second that two cores read and change at random: benchmarks/README.md.
FED = 5162
# The same of photographs that one core decodes: of 1024 px, and of 5 to 16 megapixels.
DECODED = 695, 74
# Forward passes that a photograph takes in training: a backward pass takes as much as two.
PASSES = 3
# How much of its time the reference network spends on operations; the rest goes by the values that layers put out.
# VGG16 takes 1.42 times as long as ResNet50 on a P100 (tensorflow.org/performance/benchmarks: 154 and 219 images/s);
# on two CPU cores, InceptionV3 takes 0.61 times as long.
GPU_SHARE, CPU_SHARE = 0.3, 0.55
REFERENCE = COSTS["ResNet50"]


class Device(NamedTuple):
    """How fast a device is.

    ``rates``: photographs of 224 px that it trains a second, by backbone, and ``source`` who says so. ``share``: see
    ``GPU_SHARE``. ``scored``: photographs that it scores while it trains one. Scoring is in full float32: on a GPU it
    takes as long as training in 16 bit (V100, NVIDIA as below: 1,349 and 1,270 images/s).
    """

    name: str
    rates: Mapping[str, float]
    source: str
    share: float = GPU_SHARE
    scored: float = 1.0

    def rate(self, backbone: str, size: int) -> float:
        """Photographs of ``size`` px that it trains a second, no more than can be fed to it.

        Of a backbone without a measurement, the median of what those with one suggest.
        """
        suggested = [known * self._load(name) / self._load(backbone) for name, known in self.rates.items()]
        return min(self.rates.get(backbone) or statistics.median(suggested), FED) / area(size)

    def _load(self, backbone: str) -> float:
        """Time of one photograph in times of the reference network."""
        cost = COSTS[backbone]
        return (
            self.share * cost.operations / REFERENCE.operations
            + (1 - self.share) * cost.activations / REFERENCE.activations
        )


CPU_RATES = {
    "InceptionV3": 9.5,
    "ResNet50": 5.8,
    "VGG16": 1.8,
    "EfficientNetV2B0": 19,
    "EfficientNetV2S": 6.7,
    "MobileNetV3Large": 39,
    "MobileNetV3Small": 89,
    "ConvNeXtTiny": 1.0,
}
# In the median of these backbones.
CPU_SCORED = 3.8
NVIDIA = "published by NVIDIA (DeepLearningExamples, ResNet50 v1.5 and EfficientNetV2-S at 300 px), 16 bit and XLA"
DEVICES = (
    Device("A100", {"ResNet50": 2375, "EfficientNetV2S": 950 * area(300)}, NVIDIA),
    Device("V100", {"ResNet50": 1270, "EfficientNetV2S": 380 * area(300)}, NVIDIA),
    Device(
        "2 CPU cores",
        CPU_RATES,
        "measured (InceptionV3, ResNet50: benchmarks/README.md; others by the CPU time of a step against ResNet50's)",
        CPU_SHARE,
        CPU_SCORED,
    ),
)


class Work(NamedTuple):
    """What runs ask of a device: photographs that are trained on, that are passed forwards in training, and scored."""

    runs: int
    trained: float
    passed: float
    scored: float


def plan(config: Configuration, photographs: Mapping[str, float]) -> str:
    """Markdown on what the run of a complete ``config`` takes, whose parts have so many ``photographs``.

    What is there already is looked up in the results folder, by name: whether it is up to date, `snakemake -n` says.
    Raises ``RetinaflowError`` if the record of a finished training is damaged.
    """
    results = Path(config.results)
    devices = [*measured(results), *DEVICES]
    lines = ["# Plan", "", *_parts(config, photographs), "", *_disk(config, photographs, results)]
    lines += ["", *_memory(config), "", *_hours(config, photographs, results, devices), "", *_notes(devices)]
    return "\n".join(lines) + "\n"


def measured(results: Path) -> list[Device]:
    """The devices that finished trainings below ``results`` ran on, and how fast they were.

    Raises ``RetinaflowError`` if the record of one is damaged.
    """
    found: dict[str, dict[str, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    for path in sorted(results.glob("models/**/training_run.json")):
        try:
            record = json.loads(path.read_text(encoding="utf-8"))
            trained, seconds = _trained(record), float(record["seconds"])
            name = _device_name(record["computed"]["devices"])
            backbone = str(record["backbone"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RetinaflowError(
                f"{path}: cannot be read as the record of a training ({error!r}). Delete the folder and run again."
            ) from error
        if seconds and backbone in COSTS:
            found[name][backbone].append((trained, seconds))
    return [
        Device(
            f"{name}, here",
            {
                one: sum(trained for trained, _ in runs) / sum(seconds for _, seconds in runs)
                for one, runs in of.items()
            },
            f"measured in finished trainings of {results} ({', '.join(of)})",
            *((CPU_SHARE, CPU_SCORED) if "CPU" in name else ()),
        )
        for name, of in found.items()
    ]


def _trained(record: Mapping[str, Any]) -> float:
    """Photographs of 224 px whose training takes as long as all passes of a finished run."""
    # Older records know of no epochs of the head.
    counts, recorded = record["photographs"], record["settings"]
    head = recorded.get("head_epochs", 0)
    epochs = record["epochs_run"] - head
    work = work_of(head, counts["train"], counts["validation"], epochs)
    return (work.trained + work.passed / PASSES) * area(recorded["image_size"])


def _device_name(devices: Sequence[str]) -> str:
    """Maker's names, without number and UUID: ``GPU 0 (NVIDIA A100, GPU-...)`` is ``NVIDIA A100``."""
    names = [re.sub(r"^GPU \S+ \((.*), \S+\)$", r"\1", device) for device in devices]
    return names[0] if len(names) == 1 else f"{len(names)} x {names[0]}"


def work_of(head: int, train: float, validation: float, epochs: int) -> Work:
    """One training run: ``epochs`` of the network after ``head`` epochs of the head."""
    # The head sees what a few passes of all photographs have left; its own epochs cost next to nothing.
    passes = min(head, VIEWS) * train + min(head, 1) * validation
    return Work(1, epochs * train, epochs * validation + passes, 0)


def backbone_work(config: Configuration, photographs: Mapping[str, float], backbone: str) -> Work:
    """All runs of a backbone, with all of their epochs: early stopping may end them before."""
    folds, chosen = config.split.folds, config.models[backbone]
    learning = sum(photographs[part] for part in held_out_splits(config))
    validation = learning / folds if folds else photographs["validation"]
    one = work_of(chosen.head_epochs, learning - validation, validation, chosen.epochs)
    views = config.score.tta_views
    if "stacking" in eye_models(config):
        views += config.features.views
    scored = views * (validation + photographs.get("test", 0))
    runs = folds or 1
    return Work(runs, runs * one.trained, runs * one.passed, runs * scored)


def _parts(config: Configuration, photographs: Mapping[str, float]) -> Iterator[str]:
    shards = shard_counts(config)
    yield from table(
        ("split", "photographs", "shards"),
        [(part, f"{count:,.0f}", f"{shards[part]}") for part, count in photographs.items()],
    )


def _disk(config: Configuration, photographs: Mapping[str, float], results: Path) -> Iterator[str]:
    rows = list(_stored(config, photographs, results))
    yield from ["## Disk", ""]
    yield from table(
        ("what", "GB", "there"),
        [(what, f"{size:.2f}", there) for what, size, there in [*rows, ("together", sum(row[1] for row in rows), "")]],
    )


def _stored(config: Configuration, photographs: Mapping[str, float], results: Path) -> Iterator[tuple[str, float, str]]:
    """What is stored, its size in GB, and how much of it is there."""
    total = sum(photographs.values())
    shards = shard_counts(config)
    recipes = {variant(config, backbone) for backbone in config.models}
    for recipe in sorted(recipes, key=lambda recipe: recipe.name):
        there = sum(
            (results / "shards" / recipe.name / part / f"{i}.npy").exists()
            for part, n in shards.items()
            for i in range(n)
        )
        yield f"shards {recipe.name}", total * 3 * recipe.size**2 / 1e9, f"{there} of {sum(shards.values())}"
    kept = []
    for backbone in config.models:
        chosen = config.models[backbone]
        weights = 4 * (COSTS[chosen.backbone].parameters * 1e6 + _head_parameters(chosen)) / 1e9
        done = _done(config, results, backbone)
        yield f"models of {backbone}", weights * len(done), f"{sum(done)} of {len(done)}"
        # Weights, two moments and perhaps an average, of the last and the best epoch; and what the head is trained on.
        learning = sum(photographs[part] for part in held_out_splits(config))
        views = min(chosen.head_epochs, VIEWS)
        kept.append(2 * weights * (3 + bool(chosen.ema)) + 4 * FEATURES * learning * views / 1e9)
    yield "checkpoints, as long as a training lasts (the largest)", max(kept), ""


def _head_parameters(chosen: TrainingSettings) -> int:
    first, second = chosen.dense_units
    return int(FEATURES * first + first * second)


def _done(config: Configuration, results: Path, backbone: str) -> list[bool]:
    """Of each run, whether its model is there."""
    folds = config.split.folds
    runs = [f"{backbone}/fold-{i}" for i in range(1, folds + 1)] if folds else [backbone]
    return [(results / "models" / run / "model.keras").exists() for run in runs]


def _memory(config: Configuration) -> Iterator[str]:
    yield from ["## Memory of each GPU, in training", ""]
    rows = []
    for backbone in config.models:
        chosen = config.models[backbone]
        both = [f"{device_memory(chosen, bytes_a_value):.0f}" for bytes_a_value in (2, 4)]
        rows.append((backbone, f"{chosen.image_size}", f"{chosen.batch_size / chosen.gpus:g}", *both))
    yield from table(("backbone", "px", "batch", "GB in 16 bit", "GB in float32"), rows)


def _hours(
    config: Configuration, photographs: Mapping[str, float], results: Path, devices: Sequence[Device]
) -> Iterator[str]:
    yield from ["## Hours of one device, for all epochs", ""]
    rows = []
    left = [0.0] * len(devices)
    for backbone in config.models:
        done = _done(config, results, backbone)
        for stage, hours in _stages(config, photographs, backbone, devices).items():
            rows.append((f"{backbone}, {stage}", f"{sum(done)} of {len(done)}", *map(_duration, hours)))
            share = done.count(False) / len(done)
            left = [before + share * more for before, more in zip(left, hours, strict=True)]
    rows.append(("what is left", "", *map(_duration, left)))
    yield from table(("stage", "models there", *(device.name for device in devices)), rows)
    quick, slow = (sum(photographs.values()) / rate / 3600 for rate in DECODED)
    yield ""
    yield (
        f"Inventory and preprocessing: {_duration(quick)} of one core each where photographs have 1024 px, "
        f"{_duration(slow)} where they have 5 to 16 megapixels."
    )


def _stages(
    config: Configuration, photographs: Mapping[str, float], backbone: str, devices: Sequence[Device]
) -> dict[str, list[float]]:
    """Hours that each device takes for all runs of a backbone."""
    work = backbone_work(config, photographs, backbone)
    chosen = config.models[backbone]
    rates = [3600 * device.rate(chosen.backbone, chosen.image_size) for device in devices]
    scored = [device.scored * rate for device, rate in zip(devices, rates, strict=True)]
    return {
        "train": [(work.trained + work.passed / PASSES) / rate for rate in rates],
        "score and features": [work.scored / rate for rate in scored],
    }


def _duration(hours: float) -> str:
    return f"{hours:,.1f} h" if hours >= 1 else f"{math.ceil(60 * hours)} min"


def _notes(devices: Iterable[Device]) -> Iterator[str]:
    for device in devices:
        yield f"- {device.name}: {device.source}."
    yield (
        "- Backbones that are not named there are estimated from the others, by operations and outputs of layers, to a "
        "factor of two. Published rates are best cases. Early stopping may end a training before its last epoch."
    )
    yield f"- No device is taken to be fed more than {FED:,} photographs of 224 px a second, which two cores read."
    yield (
        "- Not counted: `snakemake probe`, the start of jobs, and photographs that are downloaded, unpacked, or copied "
        "by `organize.mode: copy`."
    )
