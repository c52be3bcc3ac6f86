"""Run the real workflow in copies of the project, on few drawn images and with the smallest networks."""

import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

from common import CLASSES, SMALL, STANDARD
from retinaflow.data.demo import draw_collection
from retinaflow.storage.tables import read_table

# Rules of the bundles, which follow training and grading.
BUNDLING = ("convert_network", "convert_backbone", "model_card", "bundle")

ROOT = Path(__file__).resolve().parents[2]
# Snakemake finds the logger plugin in the copy of the project that it runs in.
os.environ["PYTHONPATH"] = "workflow"


class Project:
    """A copy of the project in ``folder`` with its own configuration."""

    def __init__(self, folder: Path, config: dict[str, Any]) -> None:
        self.folder = folder
        self.config = config

    @classmethod
    def create(cls, folder: Path, config: dict[str, Any]) -> "Project":
        """Copy the files of the workflow, without other files in the folder."""
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / "Snakefile", folder)
        for name in ("workflow", "profiles", "envs"):
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
        return cls(folder, config)

    def copy(self, folder: Path) -> "Project":
        """Copy the project with all times of its files."""
        shutil.copytree(self.folder, folder, symlinks=True)
        for source in self.folder.rglob("*"):
            if source.is_dir() and not source.is_symlink():
                shutil.copystat(source, folder / source.relative_to(self.folder))
        return Project(folder, yaml.safe_load(yaml.safe_dump(self.config)))

    def snakemake(self, *arguments: str, check: bool = True) -> str:
        """Run snakemake with the configuration of this project. Return its output."""
        (self.folder / "config").mkdir(exist_ok=True)
        (self.folder / "config/config.yaml").write_text(
            yaml.safe_dump(self.config, allow_unicode=True), encoding="utf-8"
        )
        result = subprocess.run(
            [sys.executable, "-m", "snakemake", *arguments],
            cwd=self.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            # The configuration decides the backend of Keras, not the environment.
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "none"},
        )
        if check:
            assert result.returncode == 0, result.stdout
        else:
            assert result.returncode != 0, result.stdout
        return result.stdout

    def planned(self, *arguments: str, bundles: bool = False) -> Counter[str]:
        """Count the jobs of a dry run by rule and by the wildcards that distinguish its jobs.

        Bundles follow each change of a model. Only with ``bundles`` are their jobs counted.
        """
        jobs: Counter[str] = Counter()
        for block in re.split(r"\n(?=(?:local)?rule \w+:)", self.snakemake("-n", STANDARD, *arguments))[1:]:
            rule = re.match(r"(?:local)?rule (\w+):", block).group(1)
            wildcards = dict(re.findall(r"(\w+)=([^,\n]+)", (re.search(r"wildcards: (.*)", block) or [""])[0]))
            distinguishing = [value for name, value in wildcards.items() if name not in ("variant", "shard")]
            if rule != "all" and (bundles or rule not in BUNDLING):
                jobs[" ".join([rule, *distinguishing])] += 1
        return jobs

    def read(self, name: str) -> str:
        """Return the text of a file of the project."""
        return (self.folder / name).read_text(encoding="utf-8")

    def saved_epochs(self) -> int:
        """Return the number of epochs in the checkpoint of an unfinished training of MobileNetV3Small."""
        state = self.folder / "results/checkpoints/MobileNetV3Small/state.json"
        try:
            return len(json.loads(state.read_text(encoding="utf-8"))["rows"])
        except FileNotFoundError:
            return 0

    def history(self) -> list[dict[str, str]]:
        """Return the history of MobileNetV3Small without times, which must not depend on machine or interruptions."""
        rows = read_table(self.folder / "results/models/MobileNetV3Small/history.csv")
        return [{**row, "seconds": ""} for row in rows]

    def scores(self) -> list[bytes]:
        """Return predictions and metrics of MobileNetV3Small."""
        return [
            (self.folder / "results/scores/MobileNetV3Small" / split / name).read_bytes()
            for split in ("validation", "test")
            for name in ("predictions.csv", "metrics.json")
        ]


SMALLEST = {
    "data": {
        "train": {"images": "my photographs", "labels": "labels train.csv"},
        "test": {"images": "test", "labels": "labels test.csv"},
        "grade_names": CLASSES,
    },
    "preprocess": {"shard_size": 16},
    "train": {
        "image_size": 32,
        "weights": "random",
        "batch_norm": "train",
        "dense_units": [8, 4],
        "batch_size": 16,
        "epochs": 1,
    },
    "models": {**SMALL, "VGG16": {}},
    # Models of both eyes have their own tests.
    "eyes": {"models": []},
}


@pytest.fixture(scope="session")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of drawn images and label tables, as ``SMALLEST`` names them."""
    folder = tmp_path_factory.mktemp("drawn")
    train, labels = folder / "my photographs", folder / "labels train.csv"
    draw_collection(train, labels, patients=24, first_patient=1, size=64, seed=7)
    draw_collection(folder / "test", folder / "labels test.csv", patients=16, first_patient=1001, size=64, seed=7)
    return folder


@pytest.fixture
def fresh(drawn: Path, tmp_path: Path) -> Callable[..., Project]:
    """Return a function that makes a project with images before its first run. Arguments replace sections."""

    def make(**sections: Any) -> Project:
        project = Project.create(tmp_path / "project", yaml.safe_load(yaml.safe_dump({**SMALLEST, **sections})))
        shutil.copytree(drawn, project.folder, dirs_exist_ok=True)
        return project

    return make


@pytest.fixture(scope="session")
def bare(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Project]:
    """Return a function that makes a project without images. Arguments replace sections of the configuration."""

    def make(**sections: Any) -> Project:
        config = yaml.safe_load(yaml.safe_dump({**SMALLEST, **sections}))
        return Project.create(tmp_path_factory.mktemp("bare") / "project", config)

    return make


@pytest.fixture(scope="session")
def finished_once(drawn: Path, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Return a finished project, the same for all processes of this session. Tests copy it and never change it."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        folder = folder.parent
    project = Project(folder / "finished/project", SMALLEST)
    with open(folder / "finished.lock", "ab") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # released when the file closes
        if not project.folder.exists():
            unfinished = Project.create(folder / "finished/part", SMALLEST)
            shutil.copytree(drawn, unfinished.folder, dirs_exist_ok=True)
            unfinished.snakemake()
            unfinished.folder.rename(project.folder)
    return project


@pytest.fixture
def finished(finished_once: Project, tmp_path: Path) -> Iterator[Project]:
    """Yield a copy of a finished project."""
    project = finished_once.copy(tmp_path / "project")
    yield project
    shutil.rmtree(tmp_path / "project", ignore_errors=True)


@pytest.fixture
def image_bytes() -> bytes:
    """Return the content of another JPEG image."""
    pixels = np.random.default_rng(0).integers(0, 256, (48, 64, 3), dtype=np.uint8)
    return bytes(cv2.imencode(".jpg", pixels)[1])
