"""After a kill at any moment, the same command gives the same results as an undisturbed run.

Six rounds, more than fifty kills: `pytest tests/workflow/test_kills.py --rounds 6`.
"""

import csv
import json
import os
import random
import signal
import subprocess
import sys
import time
import zipfile
from contextlib import suppress
from pathlib import Path

import cv2
import numpy as np
import pytest

from common import SMALL
from retinaflow.storage.tables import read_table

# The stages in their order: most seconds of a job until the kill, and number of kills in a round. A training gets up to
# six epochs more, so that it never finishes before.
STAGES = {
    "unpack": (0.3, 1),
    "inventory": (0.5, 1),
    "split": (0.2, 1),
    "organize": (0.3, 1),
    "preprocess": (0.5, 2),
    "train": (0.3, 3),
    "score": (2, 1),
    "compare": (0.5, 1),
}


class Run:
    """A `snakemake` in its own session, to be killed."""

    def __init__(self, folder: Path) -> None:
        self.output = folder / "output.txt"
        with open(self.output, "w") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "snakemake", "--cores", "2"],
                cwd=folder,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def alive(self) -> dict[int, str]:
        """Return the processes of this session and their command lines."""
        found = {}
        for entry in Path("/proc").iterdir():
            try:
                # The name of a program can have blanks, so fields are counted after its end.
                state, _, _, session = (entry / "stat").read_text().rpartition(") ")[2].split()[:4]
                if int(session) == self.process.pid and state != "Z":
                    found[int(entry.name)] = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except (OSError, ValueError):
                continue
        return found

    def jobs(self) -> list[int]:
        """Return the processes that run the script of a rule."""
        return [number for number, command in self.alive().items() if ".snakemake/scripts/" in command]

    def kill(self, target: str, rng: random.Random) -> None:
        """Kill snakemake, one of its jobs and then snakemake, or all at once. Wait until all processes end."""
        while not (jobs := sorted(self.jobs())) and self.process.poll() is None:
            time.sleep(0.01)  # between two jobs
        with suppress(ProcessLookupError):
            if target == "all":
                os.killpg(self.process.pid, signal.SIGKILL)
            else:
                os.kill(self.process.pid if target == "snakemake" or not jobs else rng.choice(jobs), signal.SIGKILL)
            if target == "job":  # snakemake would finish all jobs that do not depend on this one
                time.sleep(0.5)
                self.process.kill()
        self.process.wait(timeout=240)
        deadline = time.monotonic() + 5
        while self.alive() and time.monotonic() < deadline:
            time.sleep(0.05)
        assert not self.alive()


def begun(folder: Path, stage: str) -> set[tuple[int, int]]:
    """Return inode and time of the logs of a stage and all later ones. A new pair shows that a job has begun."""
    logs, names = folder / "results/logs", list(STAGES)
    found = set()
    for name in names[names.index(stage) :]:
        for path in [logs / f"{name}.log", *(logs / name).rglob("*.log")]:
            with suppress(FileNotFoundError):
                found.add((path.stat().st_ino, path.stat().st_mtime_ns))
    return found


def check_files(results: Path) -> None:
    """Check that every file under its final name is complete."""
    for path in results.rglob("*"):
        name = path.relative_to(results).as_posix()
        if path.is_symlink() or not path.is_file() or name.startswith("logs/") or "/." in f"/{name}":
            continue
        match path.suffix:
            case ".json":
                json.loads(path.read_text(encoding="utf-8"))
            case ".csv":
                with open(path, encoding="utf-8", newline="") as file:
                    rows = list(csv.reader(file))
                assert len({len(row) for row in rows}) == 1, path
            case ".npy":
                assert np.load(path).dtype == np.uint8
            case ".keras":
                assert zipfile.ZipFile(path).testzip() is None
            case ".png":
                assert cv2.imread(str(path)) is not None, path


def outcome(results: Path) -> dict[str, object]:
    """Return the content of all files that must be identical in the end, without times."""
    found: dict[str, object] = {}
    for path in sorted(results.rglob("*")):
        name = path.relative_to(results).as_posix()
        if path.is_dir() or name.startswith(("logs/", "models/")) or "/." in f"/{name}":
            continue
        found[name] = path.readlink() if path.is_symlink() else path.read_bytes()
    for path in results.glob("models/*/history.csv"):
        found[str(path.relative_to(results))] = [{**row, "seconds": ""} for row in read_table(path)]
    for path in results.glob("models/*/training_run.json"):
        found[str(path.relative_to(results))] = {**json.loads(path.read_text()), "seconds": 0}
    return found


@pytest.fixture(scope="module")
def killable(drawn, bare):
    """Return a function that makes projects with an archive to unpack and trainings of several epochs."""

    def make():
        project = bare(
            data={
                "train": {"images": "train.zip", "labels": "labels train.csv"},
                "test": {"images": "test", "labels": "labels test.csv"},
            },
            train={
                "image_size": 32,
                "weights": "random",
                "batch_norm": "train",
                "dense_units": [8, 4],
                "batch_size": 4,
                "epochs": 24,
                "early_stopping_patience": 24,
                "learning_rate": 0.001,
                "monitor": "val_accuracy",
                "reduce_lr_patience": 4,
            },
            models=SMALL,
        )
        with zipfile.ZipFile(project.folder / "train.zip", "w") as archive:
            for path in sorted((drawn / "my photographs").iterdir()):
                archive.write(path, path.name)
        for name in ("labels train.csv", "labels test.csv"):
            (project.folder / name).write_bytes((drawn / name).read_bytes())
        (project.folder / "test").symlink_to(drawn / "test")
        return project

    return make


@pytest.fixture(scope="module")
def undisturbed(killable):
    project = killable()
    project.snakemake("--cores", "2")
    results = project.folder / "results"
    check_files(results)
    return outcome(results)


@pytest.mark.slow
def test_kills_in_every_stage_change_no_result(undisturbed, killable, request, capsys):
    kills, restarts = 0, 0
    for seed in range(request.config.getoption("--rounds")):
        rng = random.Random(seed)  # noqa: S311
        project = killable()
        project.snakemake("-n")  # writes the configuration
        results = project.folder / "results"
        for stage in [stage for stage, (_, times) in STAGES.items() for _ in range(times)]:
            target = rng.choice(["snakemake", "job", "all"])
            before = begun(project.folder, stage)
            run = Run(project.folder)
            restarts += 1
            while run.process.poll() is None and begun(project.folder, stage) <= before:
                time.sleep(0.02)
            epochs = project.saved_epochs() + rng.randrange(6) if stage == "train" else 0
            while run.process.poll() is None and project.saved_epochs() < epochs:
                time.sleep(0.02)
            time.sleep(rng.uniform(0, STAGES[stage][0]))
            if run.process.poll() is None:
                kills += 1
                with capsys.disabled():
                    print(f"round {seed}, {stage}: {target} killed, {len(run.jobs())} jobs running")
                run.kill(target, rng)
            if results.exists():
                check_files(results)
        shown = project.snakemake("--cores", "2")
        assert "Traceback" not in shown
        check_files(results)
        assert outcome(results) == undisturbed
        remaining = [path for path in results.rglob("*") if path.name.startswith(".part-") or path.name == "state.json"]
        assert not remaining
    with capsys.disabled():
        print(f"{kills} kills in {restarts} runs")
    assert kills >= 9 * request.config.getoption("--rounds")
