"""The script that compares results of the former layout with those of the present one."""

import json
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest

from compare_results import main

GRADES = ("no_dr", "mild", "moderate", "severe", "proliferative")
PIXELS = np.arange(2 * 4 * 4 * 3, dtype=np.uint8).reshape(2, 4, 4, 3)


def write(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode())


def write_model(path: Path, kernel: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    weights = path.with_name("weights.h5")
    with h5py.File(weights, "w") as file:
        file["layers/dense/vars/0"] = kernel
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(weights, "model.weights.h5")
    weights.unlink()


def write_shard(folder: Path) -> None:
    folder.mkdir(parents=True)
    np.save(folder / "0.npy", PIXELS)
    write(folder / "0.csv", "image,digest\n1_left,aa\n2_left,bb\n")


@pytest.fixture
def old(tmp_path) -> Path:
    results = tmp_path / "old"
    write_shard(results / "shards/32-trim-keep-none/train")
    write_model(results / "models/VGG16/model.keras", np.ones((2, 3), np.float32))
    write(results / "models/VGG16/class_indices.json", json.dumps({f"class{grade}": grade for grade in range(5)}))
    write(results / "split/train.csv", "image,path,level\n1_left,photographs/1_left.jpeg,0\n2_left,a/2_left.jpeg,1\n")
    write(
        results / "scores/VGG16+blend/test/predictions.csv",
        'filename,actual_class,actual_class_index,probability_class1\n"1,left.jpeg",class0,0,0.250\n2_left.jpeg,class1,1,0.5\n',
    )
    metrics = {"run": "VGG16+blend", "plain": {"accuracy": 0.5, "per_class": [{"class": "class0", "recall": None}]}}
    write(results / "scores/VGG16+blend/test/metrics.json", json.dumps({**metrics, "seconds": 1.5}))
    table = "rank,run,part,accuracy\n1,VGG16+blend,test,0.5\n2,average,test,0.25\n"
    write(results / "comparison/comparison.csv", table)
    return results


@pytest.fixture
def new(tmp_path) -> Path:
    results = tmp_path / "new"
    write_shard(results / "shards/32-trim-keep-none/train")
    write_model(results / "models/VGG16/model.keras", np.ones((2, 3), np.float32))
    write(results / "models/VGG16/grade_names.json", json.dumps(GRADES))
    write(results / "split/train.csv", "image,path,grade\n1_left,images/1_left.jpeg,0\n2_left,a/2_left.jpeg,1\n")
    write(
        results / "scores/VGG16+eye_average/test/predictions.csv",
        'image,filename,grade,grade_name,probability_mild\n1,"1,left.jpeg",0,no_dr,0.250\n2_left,2_left.jpeg,1,mild,0.5\n',
    )
    metrics = {"model": "VGG16+eye_average", "argmax": {"accuracy": 0.5, "per_class": [{"grade_name": "no_dr"}]}}
    metrics["argmax"]["per_class"][0]["recall"] = None
    write(results / "scores/VGG16+eye_average/test/metrics.json", json.dumps({**metrics, "seconds": 2.5}))
    table = (
        "rank,model,split,accuracy,selection_corrected_kappa\n1,VGG16+eye_average,test,0.5,\n2,ensemble,test,0.25,\n"
    )
    write(results / "comparison/comparison.csv", table)
    return results


def test_renamed_results_are_equal(old, new, capsys):
    assert main([str(old), str(new)]) == 0
    assert "0 differences" in capsys.readouterr().out
    assert main([str(old), str(old)]) == 0


METRICS, PREDICTIONS = (f"scores/VGG16+eye_average/test/{name}" for name in ("metrics.json", "predictions.csv"))
COMPARISON, SPLIT = "comparison/comparison.csv", "split/train.csv"
# File, what is replaced in it, and what the script prints.
CHANGES = {
    "metric": (METRICS, ('"accuracy": 0.5', '"accuracy": 0.6'), "0.6 instead of 0.5"),
    "missing metric": (METRICS, ('"accuracy"', '"acc"'), "accuracy is missing"),
    "whole number": (METRICS, ("null", "0"), "0 instead of None"),
    "cell": (COMPARISON, ("0.25", "0.35"), "0.35 instead of 0.25"),
    "number format": (PREDICTIONS, ("0.250", "0.25"), "0.25 instead of 0.250"),
    "quotes": (COMPARISON, ("ensemble", '"ensemble"'), '"ensemble" instead of average'),
    "line ends": (COMPARISON, ("\n", "\r\n"), "line ends"),
    "missing row": (SPLIT, ("2_left,a/2_left.jpeg,1\n", ""), "1 rows instead of 2"),
    "missing column": (SPLIT, ("path", "place"), "path is missing"),
    "reordered": (
        SPLIT,
        ("1_left,images/1_left.jpeg,0\n2_left,a/2_left.jpeg,1", "2_left,a/2_left.jpeg,1\n1_left,images/1_left.jpeg,0"),
        "row 1: 2_left instead of 1_left",
    ),
    "other model": (COMPARISON, ("ensemble", "VGG16"), "VGG16 instead of average"),
    "other grade": (PREDICTIONS, ("no_dr", "severe"), "severe instead of class0"),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_file_is_found(old, new, capsys, change):
    name, (before, after), message = CHANGES[change]
    text = (new / name).read_bytes().decode()
    assert before in text
    write(new / name, text.replace(before, after))
    assert main([str(old), str(new)]) == 1
    assert message in capsys.readouterr().out


def test_a_flipped_pixel_is_found(old, new, capsys):
    pixels = PIXELS.copy()
    pixels[1, 2, 3, 0] ^= 1
    np.save(new / "shards/32-trim-keep-none/train/0.npy", pixels)
    assert main([str(old), str(new)]) == 1
    assert "1 of 96 values differ" in capsys.readouterr().out


def test_changed_weights_are_found(old, new, capsys):
    kernel = np.ones((2, 3), np.float32)
    kernel[0, 0] = np.nextafter(kernel[0, 0], 2, dtype=np.float32)
    write_model(new / "models/VGG16/model.keras", kernel)
    assert main([str(old), str(new)]) == 1
    assert "weight layers/dense/vars/0 differs" in capsys.readouterr().out


def test_missing_files_are_found(old, new, tmp_path, capsys):
    (new / "comparison/comparison.csv").unlink()
    assert main([str(old), str(new)]) == 1
    assert "comparison/comparison.csv: no such file" in capsys.readouterr().out
    assert main([str(tmp_path / "nothing"), str(new)]) == 1
