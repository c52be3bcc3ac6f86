"""Output of dry runs and runs in a terminal, through the logger plugin of both profiles."""

import os
import subprocess
import sys

import pytest
import yaml

from common import ROOT, SMALL

DEFAULT = yaml.safe_load((ROOT / "config/config.yaml").read_text(encoding="utf-8"))


def shown(text):
    """Return the lines without the line that Snakemake prints before it has a logger."""
    return [line for line in text.splitlines() if not line.startswith("Using workflow specific profile")]


@pytest.fixture
def default(fresh):
    """Return a function that makes a project with the default models and shards of a given size."""

    def make(shard_size):
        models = {"models": DEFAULT["models"]}
        return fresh(train={}, preprocess={"shard_size": shard_size}, eyes={}, **models)

    return make


def test_dry_run_of_any_size_fits_on_a_screen(default):
    project = default(20)
    few = shown(project.snakemake("-n"))
    project.config["preprocess"]["shard_size"] = 2
    many = shown(project.snakemake("-n"))
    assert len(few) == len(many) <= 80
    assert max(map(len, [*few, *many])) <= 120
    assert [line for line in few if line.startswith("all ")] == [few[-2]]
    shards = [[line.split() for line in lines if line.startswith("preprocess")] for lines in (few, many)]
    assert [[line[:3] for line in lines] for lines in shards] == [
        [["preprocess", "224", "px"], ["preprocess", "299", "px"]]
    ] * 2
    # 32 test images, and 48 images for training and validation.
    assert [line[3:] for line in shards[1]] == [["41", "shards", "new"]] * 2
    each = shown(project.snakemake("-n", "--logger-retinaflow-list-jobs"))
    # A line for each job, and the last one.
    assert len(each) == int(many[-1].split()[0]) + 1
    assert all(line.endswith(" new") for line in many[:-2])


def test_dry_run_names_the_causes(finished):
    assert shown(finished.snakemake("-n"))[-1].startswith("Nothing to be done")
    finished.config["train"]["epochs"] = 2
    lines = [line.split() for line in shown(finished.snakemake("-n"))]
    causes = {" ".join(line[:2]): " ".join(line[2:]) for line in lines}
    assert causes["train VGG16"] == "parameter changed: epochs 1 -> 2"
    assert causes["score VGG16"] == "after train VGG16"
    assert not any(line[0] in ("inventory", "preprocess") for line in lines)


def test_run_on_a_pipe_ends_with_the_ranking(fresh):
    project = fresh(models=SMALL)
    lines = shown(project.snakemake())
    assert "\x1b" not in "".join(lines)
    assert sum(line.startswith("train ") and ": done in " in line for line in lines) == 1
    assert lines[-1] == "All metrics: results/comparison"
    assert any(line.startswith("1     ") for line in lines)
    logs = list((project.folder / ".snakemake/log").iterdir())
    assert any("rule train:" in log.read_text() for log in logs)
    assert not list(project.folder.rglob("*.progress.jsonl"))


def test_failed_job_is_shown_by_its_message_alone(fresh):
    project = fresh(models=SMALL)
    with open(project.folder / "labels train.csv", "a") as table:
        table.write("1_left,7\n")
    lines = shown(project.snakemake("preflight", check=False))
    start = lines.index("check problems failed")
    assert lines[start + 1].startswith("  error: the images and labels cannot be used as they are")
    assert any(line == "  log: results/logs/inventory/preflight.log" for line in lines[start:])
    assert "CalledProcessError" not in "".join(lines)


def test_read_only_home_is_one_clear_error(fresh):
    project = fresh()
    project.snakemake("-n")  # writes the configuration
    away = {name: value for name, value in os.environ.items() if name != "XDG_CACHE_HOME"}
    result = subprocess.run(
        [sys.executable, "-m", "snakemake", "-n"],
        cwd=project.folder,
        env={**away, "HOME": "/dev/null/home", "PYTHONPATH": "workflow"},
        capture_output=True,
        text=True,
        check=False,
    )
    text = result.stdout + result.stderr
    assert result.returncode == 1
    assert "unless XDG_CACHE_HOME names another folder" in text
    assert "Traceback" not in text
