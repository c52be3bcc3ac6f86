"""Unused shards, features and checkpoints are listed and removed. Other files stay."""

import json
from pathlib import Path

import pytest
import yaml

from configurations import labelled
from retinaflow.cli import main
from retinaflow.errors import RetinaflowError
from retinaflow.jobs.clean import find_unused, remove_unused
from retinaflow.storage.files import digest_files
from retinaflow.storage.lock import lock
from retinaflow.storage.tables import write_table

USED = [
    "shards/224-trim-keep-none/train/0.npy",
    "shards/224-trim-keep-none/train/0.csv",
    "shards/224-trim-keep-none/train/1.npy",
    "shards/224-trim-keep-none/train/.cache/0.npy",
    "shards/224-trim-keep-none/validation/0.npy",
    "features/VGG16/train.npy",
    "features/VGG16/validation.csv",
    "checkpoints/VGG16/state.json",
    "models/VGG16/training_run.json",
    "models/VGG16/model.keras",
    "scores/.cache/0a/content.json",
    "models/ResNet50/model.keras",
    "models/.cache/0a/model.keras",
    "scores/ResNet50/validation/raw_outputs.csv",
    "scores/.cache/0a/raw_outputs.csv",
    "inventory/train.csv",
]
UNUSED = [
    "shards/299-trim-keep-none/train/0.npy",
    "shards/224-trim-keep-none/test/0.npy",
    "shards/224-trim-keep-none/train/2.npy",
    "shards/224-trim-keep-none/train/2.csv",
    "shards/224-trim-keep-none/train/.cache/2.npy",
    "features/ResNet50/train.npy",
    "features/VGG16/fold-1.npy",
    "checkpoints/ResNet50/state.json",
    "checkpoints/VGG16/fold-1/state.json",
    "models/.cache/1b/model.keras",
    "checkpoints/.cache/head-0a/content.json",
    "scores/.cache/1b/raw_outputs.csv",
    "scores/.cache/VGG16.running",
]


@pytest.fixture
def config(tmp_path):
    """A configuration of one network with 80 training images in two shards, and results of this and other networks."""
    results = tmp_path / "results"
    for name in (*USED, *UNUSED):
        (results / name).parent.mkdir(parents=True, exist_ok=True)
        (results / name).write_bytes(b"1234")
    record = results / "models/VGG16/training_run.json"
    record.write_text('{"key": "0a"}')
    (results / "models/VGG16/model.keras").write_bytes(b"1234")
    content = {"files": {}, "about": {"weights": digest_files([results / "models/VGG16/model.keras"])}}
    (results / "scores/.cache/0a/content.json").write_text(json.dumps(content))
    return labelled(tmp_path, results=str(results), models={"VGG16": {}}, preprocess={"shard_size": 40})


def files_of(config):
    results = Path(config.results)
    return {path.relative_to(results).as_posix() for path in results.rglob("*") if path.is_file()} - {".lock"}


def test_unused_files_are_listed_and_stay(config):
    listed = find_unused(config)
    assert [one.path.relative_to(config.results).as_posix() for one in listed] == [
        "checkpoints/.cache",
        "checkpoints/ResNet50",
        "checkpoints/VGG16/fold-1",
        "features/ResNet50",
        "features/VGG16/fold-1.npy",
        "models/.cache/1b",
        "scores/.cache/1b",
        "scores/.cache/VGG16.running",
        "shards/224-trim-keep-none/test",
        "shards/224-trim-keep-none/train/.cache/2.npy",
        "shards/224-trim-keep-none/train/2.csv",
        "shards/224-trim-keep-none/train/2.npy",
        "shards/299-trim-keep-none",
    ]
    assert {one.size for one in listed} == {4}
    assert files_of(config) == {*USED, *UNUSED}


def test_only_unused_files_are_removed(config):
    removed = remove_unused(config)
    assert len(removed) == 13
    assert files_of(config) == set(USED)
    assert not find_unused(config)


def test_features_that_linear_models_use_stay(tmp_path):
    test = {"images": str(tmp_path / "images"), "labels": str(tmp_path / "labels.csv")}
    ridge = {"kind": "linear", "features": ["DenseNet121"], "eyes": "one"}
    models = {"VGG16": {}, "ridge": ridge}
    config = labelled(tmp_path, results=str(tmp_path / "results"), data__test={"new": test}, models=models)
    names = ["train.npy", "train.csv", "test-new.npy", "test-new.csv", "backbone.onnx", "test-old.npy"]
    for network in ("DenseNet121", "VGG16"):
        folder = tmp_path / "results/features" / network
        folder.mkdir(parents=True)
        for name in names:
            (folder / name).touch()
    found = [one.path.relative_to(tmp_path / "results/features").as_posix() for one in find_unused(config)]
    # Only the probe uses features of VGG16, and it reads no test set.
    assert found == [
        "DenseNet121/test-old.npy",
        *(f"VGG16/{name}" for name in ("backbone.onnx", "test-new.csv", "test-new.npy", "test-old.npy")),
    ]


def test_a_hard_link_counts_once(config):
    folder = Path(config.results, "shards/299-trim-keep-none/train")
    (folder / "1.npy").hardlink_to(folder / "0.npy")
    assert {one.size for one in find_unused(config)} == {4}


def test_shared_steps_stay_until_all_models_are_trained(config):
    Path(config.results, "models/VGG16/training_run.json").unlink()
    assert Path(config.results, "checkpoints/.cache") not in [one.path for one in find_unused(config)]


def test_nothing_is_removed_during_a_run(config):
    with lock(Path(config.results)), pytest.raises(RetinaflowError, match="another run is writing there"):
        remove_unused(config)
    assert files_of(config) == {*USED, *UNUSED}


def test_no_results_are_no_error(tmp_path):
    assert not find_unused(labelled(tmp_path, results=str(tmp_path / "absent")))


def test_the_command_lists_then_removes(config, tmp_path, capsys):
    file = tmp_path / "config.yaml"
    values = {
        "results": config.results,
        "data": {"train": {"images": str(tmp_path / "images"), "labels": str(tmp_path / "labels.csv")}},
        "models": {"VGG16": {}},
        "preprocess": {"shard_size": 40},
    }
    file.write_text(yaml.safe_dump(values))
    assert main(["clean", "--configfile", str(file)]) == 0
    shown = capsys.readouterr().out
    assert "shards/299-trim-keep-none" in shown
    assert "Nothing was removed" in shown
    assert files_of(config) == {*USED, *UNUSED}
    assert main(["clean", "--configfile", str(file), "--remove"]) == 0
    assert "Removed 13" in capsys.readouterr().out
    assert files_of(config) == set(USED)


def test_the_command_names_an_absent_file(tmp_path, capsys):
    assert main(["clean", "--configfile", str(tmp_path / "absent.yaml")]) == 1
    assert f"{tmp_path}/absent.yaml: No such file or directory" in capsys.readouterr().err


@pytest.mark.parametrize(("failed", "is_unused"), [("broken", True), ("VGG16", False)])
def test_ranking_beside_a_failed_model_that_left_the_configuration(config, failed, is_unused):
    ranking = Path(config.results) / "comparison/unfinished.csv"
    rows = [{"model": "other", "remark": ""}, {"model": failed, "remark": "train failed: no weights"}]
    write_table(ranking, ["model", "remark"], rows)
    ranking.with_suffix(".md").touch()
    found = {one.path.name for one in find_unused(config) if one.path.parent == ranking.parent}
    assert found == ({"unfinished.csv", ".unfinished.csv.digest", "unfinished.md"} if is_unused else set())
