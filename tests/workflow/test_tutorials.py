"""The commands of the tutorials, in order, on few drawn images and with a small network of random weights.

A comment before a block of a page names its use here:

- ``<!-- test: run -->`` runs its commands in a copy of the project.
- ``<!-- test: FILE -->`` writes it to FILE.
- ``<!-- test: serve -->`` runs it until the page ends.
- ``<!-- test: slurm -->`` runs it if the plugin of SLURM is installed.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml

from common import SMALL
from conftest import SMALLEST, Project

ROOT = Path(__file__).resolve().parents[2]
TUTORIALS = ROOT / "docs/tutorials"
# Texts that the commands of each page print. The pages about the demo share its run.
RESULTS = {
    "first-run": ["| rank | model", "always", "Nothing to be done", "predicted_grade"],
    "new-images": ["verdict", "100001", "referred from", '"patient"'],
    "bundle": ["12 images", "answers"],
    "evidence": ["evidence.html", "endpoint,unit", "images found", "eligible"],
    "cluster": [],
    "few-images": ["image,level", "| 1 | ridge", "patient 1: "],
    "class-folders": ["| train | 80 | 80 | 40 |", "| 1 | InceptionV3"],
}
# A page that shows one run of real images, of an hour and a half.
BY_HAND = ["study"]
# Commands that make the files that a reader of the page has already.
PREPARED = {
    "bundle": """
make demo
rm -rf bundle && cp -rL results/demo/models/VGG16/bundle bundle
mkdir -p "new images" && cp results/demo/photographs/test/10000[1-6]_*.jpeg "new images"
"""
}
# Replaces sections of each configuration of a page: small and random in place of large and pretrained.
TRAIN = SMALLEST["train"]
NETWORK = {"backbone": "MobileNetV3Small", **SMALL["MobileNetV3Small"], "image_size": 32}


def blocks(page: Path) -> Iterator[tuple[str, str]]:
    """The use of each marked block of a page, and the text of the block."""
    pattern = r"^<!-- test: ([^\n]+) -->\n```\w+\n(.*?)^```$"
    yield from re.findall(pattern, page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)


def reduced(text: str) -> str:
    """A configuration with small networks."""
    config: dict[str, Any] = yaml.safe_load(text)
    if "demo" in config:
        config["demo"] = {"train_patients": 24, "test_patients": 16, "image_size": 64}
        models = {"VGG16": NETWORK}
    elif "InceptionV3" in config["models"]:  # Linear models have a page of their own.
        models = {"InceptionV3": NETWORK}
    else:  # The linear models use the features of this network, which `snakemake quick` does not train.
        models = {**config["models"], "InceptionV3": NETWORK}
    if "folds" in config.get("split", {}):
        config["split"]["folds"] = 2
    return yaml.safe_dump({**config, "models": models, "train": TRAIN, "eyes": {"models": []}}, sort_keys=False)


def environment() -> dict[str, str]:
    """The environment after `source .venv/bin/activate`."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    return {**os.environ, "PATH": path, "TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "none"}


def run(project: Path, commands: str) -> str:
    """Run the commands of a block and return all that they print."""
    commands = commands.replace("programs/bin/", f"{Path(sys.executable).parent}/")
    # make would install all packages into a new .venv.
    commands = re.sub(
        r"^make ", f"make -o .venv/.workflow BIN={Path(sys.executable).parent} ", commands, flags=re.MULTILINE
    )
    result = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", commands],
        cwd=project,
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout
    return result.stdout


@contextmanager
def serving(project: Path, command: str) -> Iterator[None]:
    """Run a service until the end of the context."""
    port = re.search(r"--port (\d+)", command)[1]  # type: ignore[index]
    service = subprocess.Popen(["bash", "-c", f"exec {command}"], cwd=project, env=environment())
    try:
        for _ in range(600):
            time.sleep(0.2)
            assert service.poll() is None
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/health", timeout=5).close()
                break
            except OSError:
                continue
        yield
    finally:
        service.send_signal(signal.SIGINT)
        service.wait(60)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a project like a checkout, with small networks in the configuration of the demo."""
    folder = Project.create(tmp_path_factory.mktemp("tutorials") / "project", {}).folder
    shutil.copytree(ROOT / "config", folder / "config")
    shutil.copytree(TUTORIALS, folder / "docs/tutorials")
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, folder)
    demo = folder / "config/demo.yaml"
    demo.write_text(reduced(demo.read_text(encoding="utf-8")), encoding="utf-8")
    return folder


def follow(project: Path, page: Path) -> str:
    """Do what the page says. Return all that its commands print."""
    printed = []
    run(project, PREPARED.get(page.stem, "true"))
    with ExitStack() as services:
        for kind, text in blocks(page):
            if kind == "serve":
                services.enter_context(serving(project, text.strip()))
            elif kind == "run" or (kind == "slurm" and find_spec("snakemake_executor_plugin_slurm")):
                printed.append(run(project, text))
            elif kind != "slurm":
                (project / kind).write_text(reduced(text), encoding="utf-8")
    return "".join(printed)


def test_every_tutorial_is_followed() -> None:
    assert sorted([*RESULTS, *BY_HAND]) == sorted(path.stem for path in TUTORIALS.glob("*.md"))


@pytest.mark.parametrize("name", RESULTS)
def test_tutorial_leads_to_its_result(project: Path, name: str) -> None:
    printed = follow(project, TUTORIALS / f"{name}.md")
    assert [words for words in RESULTS[name] if words not in printed] == []
