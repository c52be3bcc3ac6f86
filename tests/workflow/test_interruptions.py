"""Runs that a signal, a time limit or a full disk ends: their messages, and that the same command resumes them."""

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
    """Start `snakemake` in its own session."""
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
    """Return a trained project without an interruption."""
    project = bare(train=TRAIN, models=SMALL)
    shutil.copytree(drawn, project.folder, dirs_exist_ok=True)
    project.snakemake("--until", "train")
    return project


def test_retry_resumes_a_killed_or_terminated_training(fresh, undisturbed):
    """Full memory ends a job by SIGKILL, the time limit of a cluster by SIGTERM."""
    project = fresh(train=TRAIN, models=SMALL, tracking={"tensorboard": True, "mlflow": "my runs"})
    process = start(project, "--until", "train", "--retries", "2")
    for number, epochs in ((signal.SIGKILL, 2), (signal.SIGTERM, 5)):
        wait_for(lambda epochs=epochs: project.saved_epochs() >= epochs, process)
        for pid in subprocess.check_output(["pgrep", "-s", str(process.pid), "-f", "train.py"], text=True).split():
            os.kill(int(pid), number)
    shown = process.communicate(timeout=240)[0]
    assert process.returncode == 0, shown
    logs = project.folder / "results/logs/train"
    assert "epoch 2/" in (logs / "MobileNetV3Small.attempt-1.log").read_text()
    assert "ended by SIGTERM; run again to resume" in (logs / "MobileNetV3Small.attempt-2.log").read_text()
    assert "resuming after epoch" in (logs / "MobileNetV3Small.log").read_text()
    assert project.history() == undisturbed.history()
    assert not (project.folder / "results/checkpoints/MobileNetV3Small").exists()
    # Each epoch was reported once: MLflow stores a metric as a file with a line an epoch.
    assert len(list((project.folder / "results/tensorboard/MobileNetV3Small").iterdir())) == 1
    (losses,) = (project.folder / "my runs").glob("*/*/metrics/val_loss")
    assert [line.split()[2] for line in losses.read_text().splitlines()] == [
        str(row["epoch"]) for row in project.history()
    ]


@pytest.mark.slow
def test_retries_resume_a_training_after_its_time_limit(fresh, undisturbed):
    project = fresh(train={**TRAIN}, models=SMALL)
    # The limit is shorter than the reserve, so each attempt trains one epoch.
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
    # Another limit continues the same training.
    project.snakemake("--until", "train", "--set-resources", "train:runtime=60")
    assert "resuming after epoch 2" in project.read("results/logs/train/MobileNetV3Small.log")
    assert project.history() == undisturbed.history()


def test_local_run_has_no_time_limit_by_default(bare, drawn):
    project = bare(models=SMALL)
    shutil.copytree(drawn, project.folder, dirs_exist_ok=True)
    asked = re.search(r"rule train:.*?resources: (.*?)\n", project.snakemake("-n", STANDARD), re.DOTALL)[1]
    assert "mem_mb=" in asked
    assert "runtime" not in asked
    shown = project.snakemake("-n", STANDARD, "--set-resources", "train:runtime=60")
    assert "runtime=60" in re.search(r"rule train:.*?resources: (.*?)\n", shown, re.DOTALL)[1]


def test_second_run_at_once_is_refused(fresh):
    project = fresh(train=TRAIN, models=SMALL)
    process = start(project)
    wait_for(lambda: (project.folder / "results/logs/train").exists(), process)
    shown = project.snakemake(check=False)
    assert "results: another run is writing there (process" in shown
    assert project.snakemake("-n")  # dry runs are allowed
    process.send_signal(signal.SIGKILL)
    process.communicate()
    project.snakemake("--until", "preprocess")


@pytest.mark.slow
def test_number_of_cores_changes_no_result(fresh, undisturbed):
    undisturbed.snakemake()
    project = fresh(train=TRAIN, models=SMALL)
    project.snakemake("--cores", "1")
    assert project.history() == undisturbed.history()
    assert project.scores() == undisturbed.scores()


def test_images_that_change_during_a_run_are_errors(fresh, image_bytes):
    project = fresh(models=SMALL)
    project.snakemake("--until", "organize")
    folder = project.folder / "my photographs"
    (folder / "1_left.jpeg").unlink()
    (folder / "2_left.jpeg").write_bytes(image_bytes)
    # The change follows the inventory of the same run.
    shards = [
        f"results/shards/32-trim-keep-none/{split}/{i}.npy"
        for split, n in (("train", 3), ("validation", 1))
        for i in range(n)
    ]
    shown = project.snakemake("--allowed-rules", "preprocess", "--", *shards, check=False)
    assert "1_left.jpeg: cannot be read, No such file or directory" in shown
    assert "2_left.jpeg: changed since the inventory" in shown
    assert not [path for path in (project.folder / "results/shards").rglob("*") if path.name.startswith(".part-")]
    # The next run makes the inventory again.
    project.config["data"]["exclude_limit"] = 0.1
    project.snakemake("--until", "preprocess")


@pytest.fixture
def small_disk(tmp_path):
    """Yield a function that mounts a small disk with the given options and returns its folder."""
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
def test_full_disk_loses_no_finished_work(fresh, small_disk, undisturbed):
    """The disk is full while shards are written, and again while a checkpoint is written."""
    disk = small_disk("size=40m")
    project = fresh(train=TRAIN, models=SMALL, results=str(disk / "results"))
    filler = disk / "filler"

    def fill(remaining):
        filler.unlink(missing_ok=True)
        free = shutil.disk_usage(disk).free
        filler.write_bytes(bytes(max(0, free - remaining)))

    project.snakemake("--until", "organize")
    fill(20_000)  # six images
    shown = project.snakemake("--until", "train", check=False)
    assert "No space left on device. Finished results are not lost: free some space there" in shown
    assert not list(disk.glob("results/shards/*/*/*.npy"))

    filler.unlink()
    project.snakemake("--until", "preprocess")
    fill(160_000)  # a checkpoint has 104 kB
    shown = project.snakemake("--until", "train", check=False)
    assert "No space left on device" in shown
    filler.unlink()
    assert len(list((disk / "results/checkpoints/MobileNetV3Small").glob("*.h5"))) == 1
    project.snakemake("--until", "train")
    rows = read_table(disk / "results/models/MobileNetV3Small/history.csv")
    assert [{**row, "seconds": ""} for row in rows] == undisturbed.history()
    assert "resuming after epoch 1" in (disk / "results/logs/train/MobileNetV3Small.log").read_text()


def test_read_only_results_folder_is_one_clear_error(fresh, small_disk):
    disk = small_disk("size=40m")
    project = fresh(results=str(disk / "results"))
    project.snakemake("--until", "inventory")
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    shown = project.snakemake(check=False)
    assert f"results: '{disk}/results' may not be written to" in shown
    assert "Traceback" not in shown
    subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
    project.snakemake("--until", "organize")
