"""What a run would take: each figure counted by hand."""

import json
import re
from pathlib import Path
from typing import Any

import pytest

from configurations import completed
from retinaflow.config.root import Configuration
from retinaflow.errors import RetinaflowError
from retinaflow.jobs.plan import DEVICES, FED, Device, Work, backbone_work, measured, plan
from retinaflow.jobs.resources import COSTS

PHOTOGRAPHS = {"train": 800.0, "validation": 200.0, "test": 500.0}
RESNET, INCEPTION = COSTS["ResNet50"], COSTS["InceptionV3"]
A100 = DEVICES[0]


@pytest.fixture
def config(tmp_path: Path) -> Configuration:
    """ResNet50 for 10 epochs at 224 px on 1000 photographs, tested on 500; nothing of both eyes."""
    labels = {}
    for name, count in (("train", 1000), ("test", 500)):
        labels[name] = tmp_path / f"{name}.csv"
        labels[name].write_text("image,level\n" + "".join(f"{name}{i}_left,0\n" for i in range(count)))
    given = {
        "results": str(tmp_path / "results"),
        "data": {name: {"images": "photographs", "labels": str(table)} for name, table in labels.items()},
        "preprocess": {"shard_size": 100},
        "train": {"epochs": 10, "head_epochs": 0},
        "models": {"ResNet50": {}},
        "eyes": {"models": []},
    }
    return completed(given)


def changed(config: Configuration, **training: Any) -> Configuration:
    """The same with other settings of ResNet50."""
    return config.model_copy(update={"models": {"ResNet50": config.models["ResNet50"].model_copy(update=training)}})


def replaced(config: Configuration, section: str, **values: Any) -> Configuration:
    """The same with other values in a section."""
    return config.model_copy(update={section: getattr(config, section).model_copy(update=values)})


def cells(text: str, first: str) -> list[str]:
    """The other cells of the row of a table whose first cell is ``first``."""
    return re.search(rf"^\| {re.escape(first)} \| (.*) \|$", text, re.MULTILINE)[1].split(" | ")  # type: ignore[index]


def test_a_measured_rate_counts_and_pixels_cost_in_proportion():
    device = Device("a", {"ResNet50": 100, "InceptionV3": 500}, "")
    assert device.rate("ResNet50", 224) == 100
    assert device.rate("ResNet50", 448) == pytest.approx(25)


@pytest.mark.parametrize(
    ("share", "expected"),
    [
        (1, 100 * RESNET.operations / INCEPTION.operations),
        (0, 100 * RESNET.activations / INCEPTION.activations),
    ],
)
def test_what_was_not_measured_follows_from_operations_and_outputs(share, expected):
    assert Device("a", {"ResNet50": 100}, "", share).rate("InceptionV3", 224) == pytest.approx(expected)


def test_of_several_that_were_measured_the_median_counts():
    rates = {"ResNet50": 10, "InceptionV3": 90, "ConvNeXtTiny": 1000}
    each = [Device("a", {name: rate}, "", 1).rate("VGG16", 224) for name, rate in rates.items()]
    assert Device("a", rates, "", 1).rate("VGG16", 224) == pytest.approx(sorted(each)[1])


def test_no_device_is_faster_than_it_is_fed():
    assert A100.rate("MobileNetV3Small", 224) == FED
    assert A100.rate("MobileNetV3Small", 448) == pytest.approx(FED / 4)


@pytest.mark.parametrize("device", DEVICES, ids=lambda device: device.name)
def test_measured_rates_agree_with_the_estimate_from_the_others_to_a_factor_of_two(device):
    for name, rate in device.rates.items():
        others = {other: value for other, value in device.rates.items() if other != name}
        estimate = device._replace(rates=others).rate(name, 224)
        # Whose large depthwise convolutions a CPU computes slowly: measured, so that nobody has to estimate it.
        assert 0.5 < estimate / rate < (2 if name != "ConvNeXtTiny" else 8)


def test_work_of_one_split(config):
    assert backbone_work(config, PHOTOGRAPHS, "ResNet50") == Work(1, 10 * 800, 10 * 200, 200 + 500)


def test_work_of_folds(config):
    config = replaced(config, "split", folds=4)
    folds = {**{f"fold-{i}": 250.0 for i in range(1, 5)}, "test": 500.0}
    assert backbone_work(config, folds, "ResNet50") == Work(4, 4 * 10 * 750, 4 * 10 * 250, 4 * (250 + 500))


def test_the_head_takes_a_few_passes_however_many_epochs(config):
    passes = [
        backbone_work(changed(config, head_epochs=epochs), PHOTOGRAPHS, "ResNet50").passed - 10 * 200
        for epochs in (0, 1, 4, 40)
    ]
    assert passes == [0, 800 + 200, 4 * 800 + 200, 4 * 800 + 200]


def test_views_and_features_are_scored(config):
    config = replaced(config, "score", tta_views=8)
    assert backbone_work(config, PHOTOGRAPHS, "ResNet50").scored == 8 * 700
    config = replaced(replaced(config, "features", views=3), "eyes", models=["average"])
    assert backbone_work(config, PHOTOGRAPHS, "ResNet50").scored == 8 * 700
    config = replaced(config, "eyes", models=["stacking"])
    assert backbone_work(config, PHOTOGRAPHS, "ResNet50").scored == (8 + 3) * 700


def test_disk_and_what_is_there(config):
    text = plan(config, PHOTOGRAPHS)
    assert cells(text, "train") == ["800", "8"]
    # 1500 photographs of 224 x 224 x 3 bytes.
    assert cells(text, "shards 224-trim-keep-none") == ["0.23", "0 of 15"]
    parameters = 23.6e6 + 2048 * 512 + 512 * 256
    assert cells(text, "models of ResNet50") == [f"{4e-9 * parameters:.2f}", "0 of 1"]
    checkpoints = "checkpoints, as long as a training lasts (the largest)"
    assert cells(text, checkpoints)[0] == f"{2 * 3 * 4e-9 * parameters:.2f}"
    assert cells(plan(changed(config, ema=0.9), PHOTOGRAPHS), checkpoints)[0] == f"{2 * 4 * 4e-9 * parameters:.2f}"

    for name in ("shards/224-trim-keep-none/test/4.npy", "models/ResNet50/model.keras"):
        path = Path(config.results) / name
        path.parent.mkdir(parents=True)
        path.touch()
    text = plan(config, PHOTOGRAPHS)
    assert cells(text, "shards 224-trim-keep-none")[1] == "1 of 15"
    assert cells(text, "models of ResNet50")[1] == "1 of 1"
    assert set(cells(text, "what is left")[1:]) == {"0 min"}


def test_memory_of_a_device_by_hand(config):
    # 23.6 million parameters four times, 37.1 million outputs of 16 photographs twice, of 4 bytes or half of that.
    cell = cells(plan(changed(config, batch_size=32, gpus=2), PHOTOGRAPHS), "ResNet50")
    weights = 4 * 23.6 * 4
    assert cell == ["224", "16", *(f"{1.25e-3 * (weights + 2 * size * 37.1 * 16):.0f}" for size in (2, 4))]


def test_hours_by_hand(config):
    config = changed(config, epochs=10_000)
    train, score = (cells(plan(config, PHOTOGRAPHS), f"ResNet50, {stage}") for stage in ("train", "score and features"))
    assert train[:2] == ["0 of 1", f"{10_000 * (800 + 200 / 3) / 2375 / 3600:.1f} h"]
    # Less than a second, which is still counted.
    assert score[1] == "1 min"


RECORD = {
    "backbone": "InceptionV3",
    "settings": {"image_size": 448, "head_epochs": 0},
    "photographs": {"train": 300, "validation": 90},
    "epochs_run": 2,
    "computed": {"devices": ["GPU 0 (NVIDIA A100-SXM4-40GB, GPU-7d0a)"]},
    "seconds": 66.0,
}


def recorded(results: Path, run: str, **changes: Any) -> None:
    path = results / "models" / run / "training_run.json"
    path.parent.mkdir(parents=True)
    path.write_text(json.dumps({**RECORD, **changes}))


def test_finished_trainings_say_how_fast_their_devices_are(tmp_path, config):
    recorded(tmp_path / "results", "InceptionV3")
    recorded(tmp_path / "results", "ResNet50/fold-1", backbone="ResNet50", seconds=33.0)
    recorded(tmp_path / "results", "ResNet50/fold-2", backbone="ResNet50", seconds=99.0)
    recorded(tmp_path / "results", "VGG16", backbone="VGG16", computed={"devices": ["CPU", "CPU"]})
    gpu, cpu = measured(tmp_path / "results")
    assert (gpu.name, cpu.name) == ("NVIDIA A100-SXM4-40GB, here", "2 x CPU, here")
    # Each epoch trains 300 and passes 90 forwards, a third of the work each; 448 px are four times 224.
    assert gpu.rates == pytest.approx({"InceptionV3": 4 * 2 * 330 / 66, "ResNet50": 2 * 4 * 2 * 330 / (33 + 99)})
    assert cpu.rates == pytest.approx({"VGG16": 4 * 2 * 330 / 66})
    text = plan(config, PHOTOGRAPHS)
    assert cells(text, "stage")[1:4] == [gpu.name, cpu.name, "A100"]
    assert cells(text, "ResNet50, train")[1] == f"{-(-10 * (800 + 200 / 3) / gpu.rates['ResNet50'] // 60):.0f} min"


def test_epochs_of_the_head_are_passes(tmp_path):
    recorded(tmp_path, "a", settings={"image_size": 448, "head_epochs": 1})
    # One epoch of the network; and for the head a pass of all 390.
    assert measured(tmp_path)[0].rates["InceptionV3"] == pytest.approx(4 * (300 + 90 / 3 + 390 / 3) / 66)


def test_a_damaged_record_is_an_error(tmp_path):
    recorded(tmp_path, "a", photographs=None)
    with pytest.raises(RetinaflowError, match=r"run\.json: cannot be read as the record of a training"):
        measured(tmp_path)
