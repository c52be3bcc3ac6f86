"""Ended by the system, by a limit or by a full disk: what is said, and that the same command goes on afterwards."""

import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from common import SMALL, STANDARD
from retinaflow.storage.tables import read_table

TRAIN = {
    "image_size": 32,
    "weights": "random",
    "batch_norm": "train",
    "dense_units": [8, 4],
    "batch_size": 4,
    "epochs": 12,
    "early_stopping_patience": 12,
}


def start(project, *arguments):
    """`snakemake` in a session of its own."""
    project.snakemake("-n")  # writes the configuration
    return subprocess.Popen(
        [sys.executable, "-m", "snakemake", *arguments],
        cwd=project.folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def wait_for(condition, process, seconds=120):
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, process.stdout.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.fixture(scope="module")
def undisturbed(drawn, bare):
    """A project that nothing disturbed, trained."""
    project = bare(train=TRAIN, models=SMALL)
    shutil.copytree(drawn, project.folder, dirs_exist_ok=True)
    project.snakemake("--until", "train")
    return project


def test_a_training_that_is_killed_or_terminated_goes_on_in_the_retry(fresh, undisturbed):
    """As where memory is full, and at the time limit of a cluster; `retries` does what running again would."""
    project = fresh(train=TRAIN, models=SMALL, tracking={"tensorboard": True, "mlflow": "my runs"})
    process = start(project, "--until", "train", "--retries", "2")
    for number, epochs in ((signal.SIGKILL, 2), (signal.SIGTERM, 5)):
        wait_for(lambda epochs=epochs: project.kept_epochs() >= epochs, process)
        for pid in subprocess.check_output(["pgrep", "-s", str(process.pid), "-f", "train.py"], text=True).split():
            os.kill(int(pid), number)
    shown = process.communicate(timeout=240)[0]
    assert process.returncode == 0, shown
    logs = project.folder / "results/logs/train"
    assert "epoch 2/" in (logs / "MobileNetV3Small.attempt-1.log").read_text()
    assert "ended by SIGTERM; run again to go on" in (logs / "MobileNetV3Small.attempt-2.log").read_text()
    assert "resuming after epoch" in (logs / "MobileNetV3Small.log").read_text()
    assert project.history() == undisturbed.history()
    assert not (project.folder / "results/checkpoints/MobileNetV3Small").exists()
    # Each epoch was told once: a metric of MLflow's folder is a file with a line for each.
    assert len(list((project.folder / "results/tensorboard/MobileNetV3Small").iterdir())) == 1
    (losses,) = (project.folder / "my runs").glob("*/*/metrics/val_loss")
    assert [line.split()[2] for line in losses.read_text().splitlines()] == [
        str(row["epoch"]) for row in project.history()
    ]


@pytest.mark.slow
def test_a_time_limit_ends_the_job_after_an_epoch_and_retries_continue_it(fresh, undisturbed):
    project = fresh(train={**TRAIN}, models=SMALL)
    # Less than what is put aside, so that each attempt makes one epoch.
    arguments = ("--until", "train", "--set-resources", "train:runtime=1", "--retries")
    shown = project.snakemake(*arguments, "1", check=False)
    assert "MobileNetV3Small: the time limit would pass within epoch 2, as one takes" in shown
    assert "The 2 epochs so far are saved: run again to resume" in shown
    logs = project.folder / "results/logs/train"
    assert sorted(path.name for path in logs.iterdir()) == [
        "MobileNetV3Small.attempt-1.log",
        "MobileNetV3Small.attempt-2.log",
        "MobileNetV3Small.log",
    ]
    # Another limit is no other training.
    project.snakemake("--until", "train", "--set-resources", "train:runtime=60")
    assert "resuming after epoch 2" in project.read("results/logs/train/MobileNetV3Small.log")
    assert project.history() == undisturbed.history()


def test_no_time_limit_where_no_scheduler_sets_one(bare, drawn):
    project = bare(models=SMALL)
    shutil.copytree(drawn, project.folder, dirs_exist_ok=True)
    asked = re.search(r"rule train:.*?resources: (.*?)\n", project.snakemake("-n", STANDARD), re.DOTALL)[1]
    assert "mem_mb=" in asked
    assert "runtime" not in asked
    shown = project.snakemake("-n", STANDARD, "--set-resources", "train:runtime=60")
    assert "runtime=60" in re.search(r"rule train:.*?resources: (.*?)\n", shown, re.DOTALL)[1]


def test_two_runs_at_once(fresh):
    project = fresh(train=TRAIN, models=SMALL)
    process = start(project)
    wait_for(lambda: (project.folder / "results/logs/train").exists(), process)
    shown = project.snakemake(check=False)
    assert "results: another run is writing there (process" in shown
    assert project.snakemake("-n")  # looking is allowed
    process.send_signal(signal.SIGKILL)
    process.communicate()
    project.snakemake("--until", "preprocess")


@pytest.mark.slow
def test_cores_change_nothing(fresh, undisturbed):
    undisturbed.snakemake()
    project = fresh(train=TRAIN, models=SMALL)
    project.snakemake("--cores", "1")
    assert project.history() == undisturbed.history()
    assert project.scores() == undisturbed.scores()


def test_photographs_and_labels_that_change_during_a_run(fresh, photograph):
    project = fresh(models=SMALL)
    project.snakemake("--until", "organize")
    folder = project.folder / "my photographs"
    (folder / "1_left.jpeg").unlink()
    (folder / "2_left.jpeg").write_bytes(photograph)
    # As if the change had come after the inventory of the same run.
    shards = [
        f"results/shards/32-trim-keep-none/{part}/{i}.npy"
        for part, n in (("train", 3), ("validation", 1))
        for i in range(n)
    ]
    shown = project.snakemake("--allowed-rules", "preprocess", "--", *shards, check=False)
    assert "1_left.jpeg: cannot be read, No such file or directory" in shown
    assert "2_left.jpeg: changed since the inventory" in shown
    assert not [path for path in (project.folder / "results/shards").rglob("*") if path.name.startswith(".part-")]
    # The next run looks again.
    project.config["data"]["exclude_limit"] = 0.1
    project.snakemake("--until", "preprocess")


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a disk of its own, of a size in MB, and how to mount it again with other options."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(*options):
        command = ["mount", "-t", "tmpfs", "-o", ",".join(options), "tmpfs", str(folder)]
        if shutil.which("mount") is None or subprocess.run(command, capture_output=True, check=False).returncode:
            pytest.skip("this user may not mount a disk")
        return folder

    yield mount
    subprocess.run(["umount", str(folder)], capture_output=True, check=False)


@pytest.mark.slow
def test_a_full_disk(fresh, small_disk, undisturbed):
    """Full while shards are written, and again while an epoch is kept."""
    disk = small_disk("size=40m")
    project = fresh(train=TRAIN, models=SMALL, results=str(disk / "results"))
    filler = disk / "filler"

    def fill(left):
        filler.unlink(missing_ok=True)
        free = shutil.disk_usage(disk).free
        filler.write_bytes(bytes(max(0, free - left)))

    project.snakemake("--until", "organize")
    fill(20_000)  # six photographs
    shown = project.snakemake("--until", "train", check=False)
    assert "No space left on device. Nothing that was finished is lost: free some space there" in shown
    assert not list(disk.glob("results/shards/*/*/*.npy"))

    filler.unlink()
    project.snakemake("--until", "preprocess")
    fill(160_000)  # one epoch takes 104 kB
    shown = project.snakemake("--until", "train", check=False)
    assert "No space left on device" in shown
    filler.unlink()
    assert len(list((disk / "results/checkpoints/MobileNetV3Small").glob("*.h5"))) == 1
    project.snakemake("--until", "train")
    rows = read_table(disk / "results/models/MobileNetV3Small/history.csv")
    assert [{**row, "seconds": ""} for row in rows] == undisturbed.history()
    assert "resuming after epoch 1" in (disk / "results/logs/train/MobileNetV3Small.log").read_text()


def test_a_results_folder_that_cannot_be_written_to(fresh, small_disk):
    disk = small_disk("size=40m")
    project = fresh(results=str(disk / "results"))
    project.snakemake("--until", "inventory")
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    shown = project.snakemake(check=False)
    assert f"results: '{disk}/results' may not be written to" in shown
    assert "Traceback" not in shown
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    project.snakemake("--until", "organize")
