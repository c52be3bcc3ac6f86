"""Files that are built to exhaust: none takes long or much memory to examine and decode."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from common import ROOT
from crafted import FAMILIES, cases

MEGAPIXELS = 16
SECONDS = 5
# `data.pixel_limit` promises 15 bytes for each pixel (config/README.md). The process itself has 200 MB.
BYTES = 2 * 15 * MEGAPIXELS * 1_000_000 + 200_000_000
# The quick test has every eighth file of each format.
FEW = [name for kind in FAMILIES for name in [name for name in cases() if name.startswith(f"{kind}: ")][::8]]

pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="memory is measured on Linux")


def examine(names):
    """Return the measurements of files by name. One that ends the process, or takes minutes, has a ``crash``."""
    found, left = {}, list(names)
    while left:
        command = [sys.executable, "-c", "import crafted; crafted.main()", str(MEGAPIXELS), *left]
        environment = {"PYTHONPATH": f"{ROOT / 'tests'}:{ROOT / 'workflow'}", "PATH": "/usr/bin:/bin"}
        try:
            done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600, check=False)
            text, crash = done.stdout, f"status {done.returncode}: {done.stderr[-500:]}"
        except subprocess.TimeoutExpired as error:
            text, crash = (error.stdout or b"").decode(), "no end in ten minutes"
        lines = [json.loads(line) for line in text.splitlines()]
        found.update((line["name"], line) for line in lines)
        if len(lines) < len(left):
            found[left[len(lines)]] = {"name": left[len(lines)], "crash": crash}
        left = left[len(lines) + 1 :]
    return found


def excessive(found):
    return [
        line
        for line in found.values()
        if "crash" in line or line["seconds"] > SECONDS or line["memory"] > BYTES + line["bytes"]
    ]


def test_few_crafted_files_take_little_time_and_memory():
    found = examine(FEW)
    assert found.keys() == set(FEW)
    assert excessive(found) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", FAMILIES)
def test_all_crafted_files_take_little_time_and_memory(kind):
    names = [name for name in cases() if name.startswith(f"{kind}: ")]
    found = examine(names)
    assert found.keys() == set(names)
    assert excessive(found) == []


def test_there_are_two_hundred_crafted_files():
    assert len(cases()) >= 200
