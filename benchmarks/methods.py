"""What each method adds to quadratic weighted kappa."""

import csv
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

import common

TARGET = common.TARGET / "methods"
SEED = 2015


class Dataset(NamedTuple):
    """Labelled photographs below ``RETINAFLOW_DATA``: the folder of the photographs and whether both eyes are there."""

    images: str
    pairs: bool


DATASETS = {
    "aptos-224": Dataset("images", False),
    "eyepacs-256": Dataset("images", True),
    "eyepacs-1024": Dataset("resized train 15", True),
}


def configuration(dataset: str, folds: int) -> dict[str, Any]:
    """What the workflow needs to know of a data set to split it into ``folds`` by patient."""
    source = common.DATA / dataset
    train = {"images": str(source / DATASETS[dataset].images), "labels": str(source / "labels.csv")}
    return {"data": {"train": train}, "split": {"folds": folds}, "seed": SEED}


def workflow(folder: Path, config: dict[str, Any], *arguments: str) -> None:
    """Run ``snakemake`` in ``folder``, configured by ``config``; ends with what it wrote if it fails."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(config), encoding="utf-8")
    command = [str(Path(sys.executable).with_name("snakemake")), "--snakefile", str(common.ROOT / "Snakefile")]
    profile = ["--workflow-profile", str(common.ROOT / "profiles/default"), "--configfile", "config.yaml"]
    with open(folder / "snakemake.log", "ab") as log:
        done = subprocess.run([*command, *profile, *arguments], cwd=folder, stdout=log, stderr=log)
    if done.returncode:
        sys.exit(f"{folder}: snakemake failed, see snakemake.log there and results/logs")


def split(dataset: str, folds: int) -> list[tuple[Sequence[dict[str, str]], Sequence[dict[str, str]]]]:
    """Rows of the (training, held out) photographs of each fold, as the workflow divides them."""
    folder = TARGET / dataset / "split"
    workflow(folder, configuration(dataset, folds) | {"backbones": {"VGG16": {}}}, "--until", "split")
    tables = folder / "results/split"
    return [
        (rows(tables / f"fold-{i}/train.csv"), rows(tables / f"fold-{i}/validation.csv")) for i in range(1, folds + 1)
    ]


def rows(table: Path) -> list[dict[str, str]]:
    """The rows of a CSV table."""
    with open(table, newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))
