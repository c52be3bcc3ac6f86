"""Estimates for a workflow run: each number is computed by hand."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from configurations import completed, labelled
from extractors import write_extractor
from retinaflow.errors import RetinaflowError
from retinaflow.jobs.plan import DEVICES, FED, ReferenceDevice, Work, measured, network_work, plan
from retinaflow.jobs.resources import COSTS, cost_of
from retinaflow.settings.root import Configuration

IMAGES = {"train": 800.0, "validation": 200.0, "test": 500.0}
RESNET, INCEPTION = COSTS["ResNet50"], COSTS["InceptionV3"]
A100 = DEVICES[0]


@pytest.fixture
def config(tmp_path: Path) -> Configuration:
    """ResNet50 for 10 epochs at 224 px on 1000 images, tested on 500, without models of both eyes."""
    labels = {}
    for name, count in (("train", 1000), ("test", 500)):
        labels[name] = tmp_path / f"{name}.csv"
        labels[name].write_text("image,level\n" + "".join(f"{name}{i}_left,0\n" for i in range(count)))
    given = {
        "results": str(tmp_path / "results"),
        "data": {name: {"images": "images", "labels": str(table)} for name, table in labels.items()},
        "preprocess": {"shard_size": 100},
        "train": {"epochs": 10, "head_epochs": 0},
        "models": {"ResNet50": {}},
        "eyes": {"models": []},
    }
    return completed(given)


def changed(config: Configuration, **training: Any) -> Configuration:
    """The configuration with other settings of ResNet50."""
    return config.model_copy(update={"models": {"ResNet50": config.models["ResNet50"].model_copy(update=training)}})


def replaced(config: Configuration, section: str, **values: Any) -> Configuration:
    """The configuration with other values in a section."""
    return config.model_copy(update={section: getattr(config, section).model_copy(update=values)})


def cells(text: str, first: str) -> list[str]:
    """Other cells of the table row with the first cell ``first``."""
    return re.search(rf"^\| {re.escape(first)} \| (.*) \|$", text, re.MULTILINE)[1].split(" | ")  # type: ignore[index]


def test_measured_rate_is_used_in_proportion_to_pixels():
    device = ReferenceDevice("a", {"ResNet50": 100, "InceptionV3": 500}, "")
    assert device.rate("ResNet50", 224) == 100
    assert device.rate("ResNet50", 448) == pytest.approx(25)


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        (1, 100 * RESNET.operations / INCEPTION.operations),
        (0, 100 * RESNET.activations / INCEPTION.activations),
    ],
)
def test_missing_rate_follows_from_operations_and_outputs(share, expected):
    assert ReferenceDevice("a", {"ResNet50": 100}, "", share).rate("InceptionV3", 224) == pytest.approx(expected)


def test_missing_rate_is_the_median_of_estimates():
    rates = {"ResNet50": 10, "InceptionV3": 90, "ConvNeXtTiny": 1000}
    each = [ReferenceDevice("a", {name: rate}, "", 1).rate("VGG16", 224) for name, rate in rates.items()]
    assert ReferenceDevice("a", rates, "", 1).rate("VGG16", 224) == pytest.approx(sorted(each)[1])


def test_reading_limits_the_rate_of_a_device():
    assert A100.rate("MobileNetV3Small", 224) == FED
    assert A100.rate("MobileNetV3Small", 448) == pytest.approx(FED / 4)


@pytest.mark.parametrize("device", DEVICES, ids=lambda device: device.name)
def test_estimates_agree_with_measured_rates_to_a_factor_of_two(device):
    for name, rate in device.rates.items():
        others = {other: value for other, value in device.rates.items() if other != name}
        estimate = device._replace(rates=others).rate(name, 224)
        # A CPU computes the large depthwise convolutions of ConvNeXt slowly, so this rate is measured.
        assert 0.5 < estimate / rate < (2 if name != "ConvNeXtTiny" else 8)


def test_work_of_one_split(config):
    assert network_work(config, IMAGES, "ResNet50") == Work(1, 10 * 800, 10 * 200, 200 + 500)


def test_work_of_folds(config):
    config = replaced(config, "split", folds=4)
    folds = {**{f"fold-{i}": 250.0 for i in range(1, 5)}, "test": 500.0}
    assert network_work(config, folds, "ResNet50") == Work(4, 4 * 10 * 750, 4 * 10 * 250, 4 * (250 + 500))


def test_head_epochs_need_few_passes(config):
    passes = [
        network_work(changed(config, head_epochs=epochs), IMAGES, "ResNet50").passed - 10 * 200
        for epochs in (0, 1, 4, 40)
    ]
    assert passes == [0, 800 + 200, 4 * 800 + 200, 4 * 800 + 200]


def test_views_and_features_are_scored(config):
    config = replaced(config, "score", tta_views=8)
    assert network_work(config, IMAGES, "ResNet50").scored == 8 * 700
    config = replaced(replaced(config, "features", views=3), "eyes", models=["average"])
    assert network_work(config, IMAGES, "ResNet50").scored == 8 * 700
    config = replaced(config, "eyes", models=["stacking"])
    assert network_work(config, IMAGES, "ResNet50").scored == (8 + 3) * 700


def test_disk_and_existing_files(config):
    text = plan(config, IMAGES)
    assert cells(text, "train") == ["800", "8"]
    # 1500 images of 224 x 224 x 3 bytes.
    assert cells(text, "shards 224-trim-keep-none") == ["0.23", "0 of 15"]
    parameters = 23.6e6 + 2048 * 512 + 512 * 256
    assert cells(text, "models of ResNet50") == [f"{4e-9 * parameters:.2f}", "0 of 1"]
    checkpoints = "checkpoints of the largest network, during training"
    assert cells(text, checkpoints)[0] == f"{2 * 3 * 4e-9 * parameters:.2f}"
    assert cells(plan(changed(config, ema=0.9), IMAGES), checkpoints)[0] == f"{2 * 4 * 4e-9 * parameters:.2f}"

    for name in ("shards/224-trim-keep-none/test/4.npy", "models/ResNet50/model.keras"):
        path = Path(config.results) / name
        path.parent.mkdir(parents=True)
        path.touch()
    text = plan(config, IMAGES)
    assert cells(text, "shards 224-trim-keep-none")[1] == "1 of 15"
    assert cells(text, "models of ResNet50")[1] == "1 of 1"
    assert set(cells(text, "left to do")[1:]) == {"0 min"}


def test_memory_of_a_device_by_hand(config):
    # 23.6 million parameters four times, and 37.1 million outputs of 16 images twice, of 2 or 4 bytes.
    cell = cells(plan(changed(config, batch_size=32, gpus=2), IMAGES), "ResNet50")
    weights = 4 * 23.6 * 4
    assert cell == ["224", "16", *(f"{1.25e-3 * (weights + 2 * size * 37.1 * 16):.0f}" for size in (2, 4))]


def test_hours_by_hand(config):
    config = changed(config, epochs=10_000)
    train, score = (cells(plan(config, IMAGES), f"ResNet50, {stage}") for stage in ("train", "score and features"))
    assert train[:2] == ["0 of 1", f"{10_000 * (800 + 200 / 3) / 2375 / 3600:.1f} h"]
    # Scoring takes less than a second, which rounds up.
    assert score[1] == "1 min"


RECORD = {
    "backbone": "InceptionV3",
    "settings": {"image_size": 448, "head_epochs": 0},
    "photographs": {"train": 300, "validation": 90},
    "epochs_run": 2,
    "computed": {"devices": ["GPU 0 (NVIDIA A100-SXM4-40GB, GPU-7d0a)"]},
    "seconds": 66.0,
}


def recorded(results: Path, training_run: str, **changes: Any) -> None:
    path = results / "models" / training_run / "training_run.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({**RECORD, **changes}))


def test_rates_are_measured_in_finished_training_runs(tmp_path, config):
    recorded(tmp_path / "results", "InceptionV3")
    recorded(tmp_path / "results", "ResNet50/fold-1", backbone="ResNet50", seconds=33.0)
    recorded(tmp_path / "results", "ResNet50/fold-2", backbone="ResNet50", seconds=99.0)
    recorded(tmp_path / "results", "VGG16", backbone="VGG16", computed={"devices": ["CPU", "CPU"]})
    gpu, cpu = measured(tmp_path / "results")
    assert (gpu.name, cpu.name) == ("NVIDIA A100-SXM4-40GB, here", "2 x CPU, here")
    # Each epoch trains 300 images and passes 90 forwards, a third of the work each. 448 px are four times 224 px.
    assert gpu.rates == pytest.approx({"InceptionV3": 4 * 2 * 330 / 66, "ResNet50": 2 * 4 * 2 * 330 / (33 + 99)})
    assert cpu.rates == pytest.approx({"VGG16": 4 * 2 * 330 / 66})
    text = plan(config, IMAGES)
    assert cells(text, "stage")[1:4] == [gpu.name, cpu.name, "A100"]
    assert cells(text, "ResNet50, train")[1] == f"{-(-10 * (800 + 200 / 3) / gpu.rates['ResNet50'] // 60):.0f} min"


def test_head_epochs_count_as_passes(tmp_path):
    recorded(tmp_path, "a", settings={"image_size": 448, "head_epochs": 1})
    # The network has one epoch. The head has a pass of all 390 images.
    assert measured(tmp_path)[0].rates["InceptionV3"] == pytest.approx(4 * (300 + 90 / 3 + 390 / 3) / 66)


def test_damaged_record_is_an_error(tmp_path):
    recorded(tmp_path, "a", **{"photographs": None})
    with pytest.raises(RetinaflowError, match=r"run\.json: cannot be read as the record of a training run"):
        measured(tmp_path)


def test_cost_of_a_network_in_onnx_form_follows_from_its_file(tmp_path):
    file = write_extractor(tmp_path / "a.onnx", 32, channels=100)
    assert cost_of(str(file)).parameters == pytest.approx(100 * 3 * 25 / 1e6, rel=0.05)
    linear = {"kind": "linear", "features": ["a"], "eyes": "one"}
    models = {"a": {"backbone": str(file)}, "ridge": linear}
    text = plan(labelled(tmp_path, models=models, eyes={"models": []}), {"train": 80.0, "validation": 20.0})
    assert cells(text, "a, features")[0] == "0 of 2"
