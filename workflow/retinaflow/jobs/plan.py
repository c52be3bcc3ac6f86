"""Estimates for a workflow run before it starts: images, disk, GPU memory and hours. This module imports nothing heavy.

Hours follow from the number of images that a device trains per second. These rates are measured in finished training
runs of the same results folder, published, or measured for this library. A backbone without a rate has an estimate from
the rates of others and ``resources.COSTS``. Such an estimate is right to a factor of two.
"""

import json
import math
import re
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from retinaflow.config.lookups import (
    eye_models,
    feature_networks,
    held_out_splits,
    left_out_sets,
    linear_networks,
    scored_sets,
    set_splits,
    shard_counts,
    training_runs,
    variant,
)
from retinaflow.errors import RetinaflowError
from retinaflow.jobs.resources import COSTS, FEATURES, area, cost_of, device_memory
from retinaflow.settings.root import Configuration
from retinaflow.settings.train import TrainingSettings
from retinaflow.storage.markdown import table
from retinaflow.training.schedule import VIEWS

# Images of 224 px that two cores read and augment per second: benchmarks/README.md.
FED = 5162
# Images that one core decodes per second: of 1024 px, and of 5 to 16 megapixels.
DECODE_RATES = 695, 74
# Training of an image takes as long as three forward passes. The backward pass takes as long as two.
PASSES = 3
# Share of its time that the reference network spends on operations. The rest is in proportion to outputs of layers.
# VGG16 takes 1.42 times as long as ResNet50 on a P100 (tensorflow.org/performance/benchmarks: 154 and 219 images/s).
# On two CPU cores, InceptionV3 takes 0.61 times as long.
GPU_SHARE, CPU_SHARE = 0.3, 0.55
REFERENCE = COSTS["ResNet50"]


class ReferenceDevice(NamedTuple):
    """Speed of a device.

    Attributes:
        name: Name for the user.
        rates: Images of 224 px that it trains per second, by backbone.
        source: Source of the rates.
        share: Share of the time that depends on operations, see ``GPU_SHARE``.
        scored: Images that it scores in the time of training one. Scoring is in float32. On a GPU it takes as long as
            training in 16 bit (V100, ``NVIDIA`` below: 1,349 and 1,270 images/s).
    """

    name: str
    rates: Mapping[str, float]
    source: str
    share: float = GPU_SHARE
    scored: float = 1.0

    def rate(self, backbone: str, size: int) -> float:
        """Images of ``size`` px that the device trains per second, limited by the rate of reading.

        For a backbone without a rate, the result is the median of the estimates from all others.
        """
        suggested = [known * self._load(name) / self._load(backbone) for name, known in self.rates.items()]
        return min(self.rates.get(backbone) or statistics.median(suggested), FED) / area(size)

    def _load(self, backbone: str) -> float:
        """Time for one image, relative to the reference network."""
        cost = cost_of(backbone)
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
# Median of these backbones.
CPU_SCORED = 3.8
NVIDIA = "published by NVIDIA (DeepLearningExamples, ResNet50 v1.5 and EfficientNetV2-S at 300 px), 16 bit and XLA"
DEVICES = (
    ReferenceDevice("A100", {"ResNet50": 2375, "EfficientNetV2S": 950 * area(300)}, NVIDIA),
    ReferenceDevice("V100", {"ResNet50": 1270, "EfficientNetV2S": 380 * area(300)}, NVIDIA),
    ReferenceDevice(
        "2 CPU cores",
        CPU_RATES,
        "measured (InceptionV3, ResNet50: benchmarks/README.md; others from the CPU time of a step against ResNet50's)",
        CPU_SHARE,
        CPU_SCORED,
    ),
)


class Work(NamedTuple):
    """Work of training runs: their number, and numbers of images trained, passed forwards in training, and scored."""

    training_runs: int
    trained: float
    passed: float
    scored: float


def plan(config: Configuration, images: Mapping[str, float]) -> str:
    """Estimate disk, memory and hours of a workflow run.

    Files that exist in the results folder are counted by name. ``snakemake -n`` shows whether they are up to date.

    Args:
        config: The complete configuration.
        images: Number of images of each split.

    Returns:
        Markdown text.

    Raises:
        RetinaflowError: The record of a finished training run is damaged.
    """
    results = Path(config.results)
    devices = [*measured(results), *DEVICES]
    lines = ["# Plan", "", *_splits(config, images), "", *_disk(config, images, results)]
    lines += ["", *_memory(config), "", *_hours(config, images, results=results, devices=devices)]
    lines += ["", *_notes(devices)]
    return "\n".join(lines) + "\n"


def measured(results: Path) -> list[ReferenceDevice]:
    """Devices of the finished training runs below ``results``, with their measured rates.

    Raises:
        RetinaflowError: The record of a training run is damaged.
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
                f"{path}: cannot be read as the record of a training run ({error!r}). Delete the folder and run again."
            ) from error
        if seconds and backbone in COSTS:
            found[name][backbone].append((trained, seconds))
    return [
        ReferenceDevice(
            f"{name}, here",
            {backbone: _mean_rate(training_runs) for backbone, training_runs in by_backbone.items()},
            f"measured in finished training runs of {results} ({', '.join(by_backbone)})",
            *((CPU_SHARE, CPU_SCORED) if "CPU" in name else ()),
        )
        for name, by_backbone in found.items()
    ]


def _mean_rate(training_runs: Sequence[tuple[float, float]]) -> float:
    """Images per second of all training runs, each given as images and seconds."""
    return sum(trained for trained, _ in training_runs) / sum(seconds for _, seconds in training_runs)


def _trained(record: Mapping[str, Any]) -> float:
    """Number of images of 224 px whose training takes as long as all passes of a finished training run."""
    # Older records have no epochs of the head.
    counts, recorded = record["photographs"], record["settings"]
    head = recorded.get("head_epochs", 0)
    epochs = record["epochs_run"] - head
    work = work_of(head, counts["train"], validation=counts["validation"], epochs=epochs)
    return (work.trained + work.passed / PASSES) * area(recorded["image_size"])


def _device_name(devices: Sequence[str]) -> str:
    """Name of the devices without number and UUID: ``GPU 0 (NVIDIA A100, GPU-...)`` becomes ``NVIDIA A100``."""
    names = [re.sub(r"^GPU \S+ \((.*), \S+\)$", r"\1", device) for device in devices]
    return names[0] if len(names) == 1 else f"{len(names)} x {names[0]}"


def work_of(head: int, train: float, *, validation: float, epochs: int) -> Work:
    """Work of one training run with numbers of training and validation images.

    The network trains for ``epochs`` after ``head`` epochs of the head.
    """
    # The head trains on features of a few passes. Its own epochs take almost no time.
    passes = min(head, VIEWS) * train + min(head, 1) * validation
    return Work(1, epochs * train, epochs * validation + passes, 0)


def network_work(config: Configuration, images: Mapping[str, float], network: str) -> Work:
    """Work of all training runs of a network, with all epochs. Early stopping can end them sooner."""
    settings = config.models[network]
    views = config.score.tta_views
    if "stacking" in eye_models(config):
        views += config.features.views
    works = []
    for train, validation, tested in _run_images(config, images):
        single = work_of(settings.head_epochs, train, validation=validation, epochs=settings.epochs)
        works.append(single._replace(scored=views * (validation + tested)))
    return Work(*map(sum, zip(*works, strict=True)))


def _run_images(config: Configuration, images: Mapping[str, float]) -> list[tuple[float, float, float]]:
    """Numbers of images that each training run of a network trains, validates and is tested on."""
    folds, left_out = config.split.folds, left_out_sets(config)
    learning = sum(images[split] for split in held_out_splits(config))
    if left_out:
        parts = {name: [images[split] for split in set_splits(name)] for name in left_out}
        totals = [sum(of_sets) for of_sets in zip(*parts.values(), strict=True)]
        return [(totals[0] - own[0], totals[1] - own[1], sum(own)) for own in parts.values()]
    validation = learning / folds if folds else images["validation"]
    return [(learning - validation, validation, sum(images[name] for name in scored_sets(config)))] * (folds or 1)


def _splits(config: Configuration, images: Mapping[str, float]) -> Iterator[str]:
    shards = shard_counts(config)
    yield from table(
        ("split", "images", "shards"),
        [(split, f"{count:,.0f}", f"{shards[split]}") for split, count in images.items()],
    )


def _disk(config: Configuration, images: Mapping[str, float], results: Path) -> Iterator[str]:
    rows = list(_stored(config, images, results))
    total = ("total", sum(size for _, size, _ in rows), "")
    yield from ["## Disk", ""]
    yield from table(("files", "GB", "present"), [(name, f"{size:.2f}", done) for name, size, done in [*rows, total]])


def _stored(config: Configuration, images: Mapping[str, float], results: Path) -> Iterator[tuple[str, float, str]]:
    """Kinds of stored files, their size in GB, and how many of them exist."""
    total = sum(images.values())
    shards = shard_counts(config)
    variants = {variant(config, network) for network in feature_networks(config)}
    for used in sorted(variants, key=lambda used: used.name):
        folder = results / "shards" / used.name
        files = [folder / split / f"{number}.npy" for split, count in shards.items() for number in range(count)]
        present = sum(file.exists() for file in files)
        yield f"shards {used.name}", total * 3 * used.size**2 / 1e9, f"{present} of {len(files)}"
    checkpoints = []
    for network, settings in config.models.items():
        weights = 4 * (cost_of(settings.backbone).parameters * 1e6 + _head_parameters(settings)) / 1e9
        done = _finished(config, results, network)
        yield f"models of {network}", weights * len(done), f"{sum(done)} of {len(done)}"
        # The last and the best epoch have weights, two moments and an optional average. The head has its features.
        learning = sum(images[split] for split in held_out_splits(config))
        views = min(settings.head_epochs, VIEWS)
        checkpoints.append(2 * weights * (3 + bool(settings.ema)) + 4 * FEATURES * learning * views / 1e9)
    if checkpoints:
        yield "checkpoints of the largest network, during training", max(checkpoints), ""
    for network in linear_networks(config):
        files = [results / "features" / network / f"{split}.npy" for split in images]
        size = total * len(config.features.poolings) * 2 * 2 * FEATURES / 1e9
        yield f"features of {network}", size, f"{sum(file.exists() for file in files)} of {len(files)}"


def _head_parameters(settings: TrainingSettings) -> int:
    first, second = settings.dense_units
    return int(FEATURES * first + first * second)


def _finished(config: Configuration, results: Path, network: str) -> list[bool]:
    """Whether the model of each training run exists."""
    return [(results / "models" / run / "model.keras").exists() for run in training_runs(config, network)]


def _memory(config: Configuration) -> Iterator[str]:
    yield from ["## Memory of each GPU, in training", ""]
    rows = []
    for network, settings in config.models.items():
        both = [f"{device_memory(settings, value):.0f}" for value in (2, 4)]
        rows.append((network, f"{settings.image_size}", f"{settings.batch_size / settings.gpus:g}", *both))
    yield from table(("network", "px", "batch", "GB in 16 bit", "GB in float32"), rows)


def _hours(
    config: Configuration, images: Mapping[str, float], *, results: Path, devices: Sequence[ReferenceDevice]
) -> Iterator[str]:
    yield from ["## Hours of one device, for all epochs", ""]
    rows = []
    left = [0.0] * len(devices)
    for network in config.models:
        done = _finished(config, results, network)
        for stage, hours in _stages(config, images, network=network, devices=devices).items():
            rows.append((f"{network}, {stage}", f"{sum(done)} of {len(done)}", *map(_duration, hours)))
            share = done.count(False) / len(done)
            left = [before + share * more for before, more in zip(left, hours, strict=True)]
    for network, settings in linear_networks(config).items():
        files = [results / "features" / network / f"{split}.npy" for split in images]
        done = [file.exists() for file in files]
        rates = [3600 * device.scored * device.rate(settings.backbone, settings.image_size) for device in devices]
        hours = [config.features.views * sum(images.values()) / rate for rate in rates]
        rows.append((f"{network}, features", f"{sum(done)} of {len(done)}", *map(_duration, hours)))
        left = [before + (not all(done)) * more for before, more in zip(left, hours, strict=True)]
    rows.append(("left to do", "", *map(_duration, left)))
    yield from table(("stage", "models present", *(device.name for device in devices)), rows)
    quick, slow = (sum(images.values()) / rate / 3600 for rate in DECODE_RATES)
    yield ""
    yield (
        f"Inventory and preprocessing take {_duration(quick)} of one core each for images of 1024 px, and "
        f"{_duration(slow)} for images of 5 to 16 megapixels."
    )


def _stages(
    config: Configuration, images: Mapping[str, float], *, network: str, devices: Sequence[ReferenceDevice]
) -> dict[str, list[float]]:
    """Hours of each device for all training runs of a network."""
    work = network_work(config, images, network)
    settings = config.models[network]
    rates = [3600 * device.rate(settings.backbone, settings.image_size) for device in devices]
    scored = [device.scored * rate for device, rate in zip(devices, rates, strict=True)]
    return {
        "train": [(work.trained + work.passed / PASSES) / rate for rate in rates],
        "score and features": [work.scored / rate for rate in scored],
    }


def _duration(hours: float) -> str:
    return f"{hours:,.1f} h" if hours >= 1 else f"{math.ceil(60 * hours)} min"


def _notes(devices: Iterable[ReferenceDevice]) -> Iterator[str]:
    for device in devices:
        yield f"- {device.name}: {device.source}."
    yield (
        "- Rates of other backbones are estimates from operations and outputs of layers, to a factor of two. Published "
        "rates are best cases. Those of a backbone by path follow from the size of its file. Early "
        "stopping can end a training run before its last epoch."
    )
    yield f"- The estimate limits each device to {FED:,} images of 224 px per second, which two cores read."
    yield (
        "- Not counted: `snakemake probe`, the start of jobs, and images that are downloaded, unpacked, or copied "
        "(`organize.mode: copy`)."
    )
