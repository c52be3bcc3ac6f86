"""Damage to the files of each stage: a message that names the file, and the same results after its deletion.

The other faults of the matrix in docs/storage.md have tests of their own.
"""

import os
import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

# Files of each stage, and a result of the next stage that needs them.
FILES = {
    "inventory": ("inventory/test.csv", "organized/test/index.csv"),
    "problems": ("inventory/test-problems.csv", "organized/test/index.csv"),
    "organize": ("organized/test/index.csv", "shards/{variant}/test/0.npy"),
    "preprocess, pixels": ("shards/{variant}/test/0.npy", "scores/VGG16/test/raw_outputs.csv"),
    "preprocess, rows": ("shards/{variant}/test/0.csv", "scores/VGG16/test/raw_outputs.csv"),
    "score": ("scores/VGG16/test/raw_outputs.csv", "scores/VGG16/test/metrics.json"),
    "grade, predictions": ("scores/VGG16/test/predictions.csv", "comparison/comparison.csv"),
    "grade, metrics": ("scores/VGG16/test/metrics.json", "comparison/comparison.csv"),
    "grade, decision rule": ("models/VGG16/decision_rule.json", "comparison/comparison.csv"),
    "compare": ("comparison/pairs.csv", None),
}


def one_bit(content, rng):
    place = rng.randrange(128, len(content)) if len(content) > 1000 else rng.randrange(len(content))
    return content[:place] + bytes([content[place] ^ 1 << rng.randrange(8)]) + content[place + 1 :]


def cut(content, rng):
    return content[: rng.randrange(1, len(content))]


def whole_rows(content, rng):
    lines = content.splitlines(keepends=True)
    # A table of problems without a problem has its header alone, of which nothing can be left out.
    return b"".join(lines[: rng.randrange(1, max(2, len(lines)))])


DAMAGE = {"one bit": one_bit, "cut": cut, "whole rows": whole_rows}


@pytest.mark.slow
@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("stage", FILES)
def test_damage_is_named_and_made_again(finished, stage, damage):
    results = finished.folder / "results"
    variant = next((results / "shards").iterdir()).name
    name, result = (part and part.format(variant=variant) for part in FILES[stage])
    path, rng = results / name, random.Random(f"{stage} {damage}")  # noqa: S311
    before = {file: (results / file).read_bytes() for file in filter(None, (name, result))}
    with open(path, "r+b") as file:  # The same inode, as damage by a disk.
        file.write(DAMAGE[damage](before[name], rng))
        file.truncate(len(DAMAGE[damage](before[name], random.Random(f"{stage} {damage}"))))  # noqa: S311
    if path.read_bytes() == before[name]:
        pytest.skip("the file has one line")
    if result:
        (results / result).unlink()
    shown = finished.snakemake(check=False)
    assert Path(name).name in shown
    assert "Traceback" not in shown
    path.unlink()
    finished.snakemake()
    for file, content in before.items():
        assert (results / file).read_bytes() == content
    assert not finished.planned()


# Script of the job that writes the file of a stage.
SCRIPTS = {
    "inventory": "inventory",
    "organize": "organize",
    "preprocess, pixels": "preprocess",
    "score": "score",
    "grade, metrics": "grade",
    "compare": "compare",
}
# Runs at the start of each Python process: the disk of one job fails when it opens a new file below the results.
FAILING_DISK = """
import errno, os, sys
script = os.environ.get("FAILING_SCRIPT")
if script and any(argument.endswith(f".{script}.py") for argument in sys.orig_argv):
    def fail(event, arguments):
        if event == "open" and isinstance(arguments[0], (str, os.PathLike)):
            path, flags = os.fspath(arguments[0]), arguments[2]
            if "results/" in path and "/logs/" not in path and flags & (os.O_WRONLY | os.O_RDWR):
                raise OSError(errno.EIO, os.strerror(errno.EIO), path)
    sys.addaudithook(fail)
"""


@pytest.mark.parametrize(
    "stage", [stage if stage == "compare" else pytest.param(stage, marks=pytest.mark.slow) for stage in SCRIPTS]
)
def test_disk_error_of_a_job_is_one_message(finished, stage, tmp_path, monkeypatch):
    results = finished.folder / "results"
    variant = next((results / "shards").iterdir()).name
    name = FILES[stage][0].format(variant=variant)
    before = (results / name).read_bytes()
    (results / name).unlink()
    (tmp_path / "sitecustomize.py").write_text(FAILING_DISK)
    with monkeypatch.context() as patched:
        patched.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}workflow")
        patched.setenv("FAILING_SCRIPT", SCRIPTS[stage])
        shown = finished.snakemake(check=False)
    assert "Input/output error" in shown
    assert "Traceback" not in shown
    assert not [path for path in results.rglob(".part-*") if "checkpoints" not in path.parts]
    finished.snakemake()
    assert (results / name).read_bytes() == before
    assert not finished.planned()


@pytest.mark.slow
@pytest.mark.parametrize("minutes", [10, -10])
@pytest.mark.parametrize("stage", [stage for stage in FILES if FILES[stage][1]])
def test_clock_step_changes_nothing(finished, stage, minutes):
    """A file was written by a host whose clock is ahead or behind, and then the next stage runs."""
    results = finished.folder / "results"
    variant = next((results / "shards").iterdir()).name
    name, result = (part.format(variant=variant) for part in FILES[stage])
    before = (results / result).read_bytes()
    moment = time.time() + 60 * minutes
    os.utime(results / name, (moment, moment))
    (results / result).unlink()
    finished.snakemake()
    assert (results / result).read_bytes() == before
    assert not finished.planned()


def test_verify_names_what_the_next_run_makes_again(finished):
    """One case of the matrix by the command, without a run."""
    rule = finished.folder / "results/models/VGG16/decision_rule.json"
    rule.write_bytes(cut(rule.read_bytes(), random.Random(1)))  # noqa: S311
    command = [sys.executable, "-m", "retinaflow", "verify", "results"]
    done = subprocess.run(command, cwd=finished.folder, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "results/models/VGG16/decision_rule.json: it has" in done.stdout
    assert subprocess.run([*command, "--remove"], cwd=finished.folder, check=False).returncode == 0
    assert finished.planned().keys() == {"grade VGG16", "compare"}
