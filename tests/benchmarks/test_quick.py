"""Each script in `benchmarks/` runs in its quick form: seconds, on a few small drawn images."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from bundles import write_toy_results
from common import ROOT

pytestmark = pytest.mark.slow

# Without those that need arguments or fundus images.
OTHERS = ("common", "few", "former", "gates", "load")
SCRIPTS = sorted(path.stem for path in (ROOT / "benchmarks").glob("*.py") if path.stem not in OTHERS)
# Arguments, and the files that a script writes if not NAME.json.
ARGUMENTS = {"run": ["preprocess"], "article": ["drawn"], "methods": ["drawn"]}
WRITTEN = {
    "run": ["preprocess.json", "benchmarks.json", "benchmarks.md"],
    "article": ["article-drawn.json"],
    "methods": ["methods-drawn.json", "methods.md"],
}


@pytest.fixture(scope="module")
def target(tmp_path_factory) -> Path:
    """Return the folder for all files of the scripts, including drawn images."""
    return tmp_path_factory.mktemp("benchmarks")


@pytest.mark.parametrize("script", SCRIPTS)
def test_each_benchmark_runs_in_seconds(script, target):
    environment = {**os.environ, "QUICK": "1", "BENCHMARKS": str(target)}
    command = [sys.executable, ROOT / f"benchmarks/{script}.py", *ARGUMENTS.get(script, [])]
    document = (ROOT / "docs/methods.md").read_bytes()
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert done.returncode == 0, done.stdout
    assert (ROOT / "docs/methods.md").read_bytes() == document
    for name in WRITTEN.get(script, [f"{script}.json"]):
        text = (target / name).read_text(encoding="utf-8")
        if name.endswith(".json"):
            content = json.loads(text)
            assert any(content.get(rows) for rows in ("rows", "measured", "preprocess")), name
        else:
            assert "| drawn, 128 px" in text or "| plain |" in text


@pytest.mark.parametrize("options", [["--requests", "120", "--slow"], ["--seconds", "2"]])
def test_load_of_the_service_is_measured(options, tmp_path):
    bundle = write_toy_results(tmp_path / "results") / "models/A/bundle"
    image = tmp_path / "1_left.png"
    image.write_bytes(
        cv2.imencode(".png", cv2.circle(np.zeros((90, 120, 3), np.uint8), (60, 45), 40, (9, 80, 160), -1))[1]
    )
    command = [sys.executable, ROOT / "benchmarks/load.py", bundle, image, *options]
    done = subprocess.run(command, env={**os.environ, "QUICK": "1"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"4 clients, [1-9][0-9]* answers, 0 wrong or lost\np50 ", done.stdout)
    assert ("after 100 answers: server " in done.stdout) == ("--requests" in options) == ("slow image: " in done.stdout)
