"""The workflow through `profiles/slurm` on a real SLURM of one node: `make test-slurm`. About fifteen minutes.

The tests are skipped with the reason if SLURM cannot start. `tests/slurm/cluster` names its requirements.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest

from common import SMALL

CLUSTER = Path(__file__).resolve().parents[1] / "slurm/cluster"
TRAIN = {
    "image_size": 32,
    "weights": "random",
    "batch_norm": "train",
    "dense_units": [8, 4],
    "batch_size": 4,
    "epochs": 16,
    "early_stopping_patience": 16,
    "cpu_threads": 2,
}
NOWHERE = "http://127.0.0.1:9"
# Tests check the jobs early and often. The standard output of Snakemake names local rules.
SLURM = ("--logger-retinaflow-standard", "--slurm-init-seconds-before-status-checks", "2", "--latency-wait", "10")

pytestmark = [pytest.mark.slurm, pytest.mark.timeout(900)]


@pytest.fixture(scope="module", autouse=True)
def cluster():
    """Start SLURM, with accounting if it is installed. Yield whether there is accounting."""
    if find_spec("snakemake_executor_plugin_slurm") is None:
        pytest.skip("snakemake-executor-plugin-slurm is not installed (envs/requirements-slurm.txt)")
    # Background processes of a shell ignore SIGINT, and their child processes inherit this.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for accounting in (["--accounting"], []):
        started = subprocess.run([CLUSTER, "start", *accounting], stderr=subprocess.PIPE, text=True, check=False)
        if not started.returncode:
            break
    else:
        pytest.skip(started.stderr.strip().splitlines()[-1])
    yield bool(accounting)
    subprocess.run([CLUSTER, "stop"], check=True)


@pytest.fixture(autouse=True)
def idle(cluster):  # noqa: ARG001
    """Empty the queue and resume the node after each test."""
    yield
    subprocess.run(["scancel", "--partition=cpu,gpu"], check=False)
    bring_back()


def slurm(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def node():
    return slurm("sinfo", "-h", "-N", "-o", "%N").split()[0]


def no_steps():
    """Return whether all processes of jobs have ended."""
    return bool(subprocess.run(["pgrep", "-x", "slurmstepd"], capture_output=True, check=False).returncode)


def bring_back():
    """Resume the node. It may have resumed already."""
    subprocess.run(["scontrol", "update", f"nodename={node()}", "state=resume"], capture_output=True, check=False)


def jobs():
    """Return the fields of each job, including finished ones, in the order of submission."""
    found = []
    for block in slurm("scontrol", "--oneliner", "show", "job").splitlines():
        fields = dict(re.findall(r"(\S+?)=(.*?)(?= \S+?=|$)", block))
        if rule := re.match(r"rule_(.+?)(_wildcards_.*)?$", fields.get("Comment", "")):
            found.append({"rule": rule[1], **{key: value.strip() for key, value in fields.items()}})
    return sorted(found, key=lambda job: int(job["JobId"]))


class Run:
    """A running `snakemake` on the submit host."""

    def __init__(self, project, *arguments, profile="--workflow-profile"):
        project.snakemake("-n", "--quiet")  # writes the configuration
        self.project = project
        self.first = max((int(job["JobId"]) for job in jobs()), default=0) + 1
        self.process = subprocess.Popen(
            [sys.executable, "-m", "snakemake", profile, "profiles/slurm", *SLURM, *arguments],
            cwd=project.folder,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            # Downloads fail, because no job may need one.
            env={**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "https_proxy": NOWHERE, "http_proxy": NOWHERE},
            start_new_session=True,
        )

    def jobs(self):
        """Return the jobs that this run submitted."""
        own = str(self.project.folder)
        return [job for job in jobs() if int(job["JobId"]) >= self.first and job["WorkDir"] == own]

    def training(self):
        """Stop the training job after three epochs and return its number."""
        self.wait_for(lambda: self.project.saved_epochs() >= 3 and len(scripts(self.project)) == 1)
        (script,) = scripts(self.project)
        os.kill(script, signal.SIGSTOP)  # SLURM continues a process before it ends it
        (job,) = [job for job in self.jobs() if job["rule"] == "train" and job["JobState"] == "RUNNING"]
        return job["JobId"]

    def wait_for(self, condition, seconds=300):
        deadline = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, self.process.stdout.read()
            assert time.monotonic() < deadline, slurm("squeue")
            time.sleep(0.1)

    def end(self, status=0):
        """Wait for the end of the run. Return its output."""
        shown = self.process.communicate(timeout=600)[0]
        assert self.process.returncode == status, shown
        return shown


@pytest.fixture(scope="module")
def preprocessed_once(drawn, bare):
    """Return a project with its shards, made without SLURM to save time. Tests copy it and never change it."""
    project = bare(train=TRAIN, models=SMALL)
    for name in ("my photographs", "test", "labels train.csv", "labels test.csv"):
        (project.folder / name).symlink_to(drawn / name)
    project.snakemake("--until", "preprocess")
    return project


@pytest.fixture(scope="module")
def undisturbed(preprocessed_once, tmp_path_factory):
    """Return the same project, finished on this machine without SLURM."""
    project = preprocessed_once.copy(tmp_path_factory.mktemp("undisturbed") / "project")
    project.snakemake()
    return project


@pytest.fixture
def preprocessed(preprocessed_once, tmp_path):
    return preprocessed_once.copy(tmp_path / "project")


def scripts(project):
    """Return the processes that train."""
    command = ["pgrep", "-f", rf"{project.folder}/\.snakemake/scripts/.*\.train\.py"]
    return [int(number) for number in subprocess.run(command, capture_output=True, check=False).stdout.split()]


def attempts(project):
    """Return the logs of failed attempts in their order."""
    return [
        path.read_text(encoding="utf-8")
        for path in sorted((project.folder / "results/logs/train").glob("MobileNetV3Small.attempt-*.log"))
    ]


def test_every_stage_is_submitted_with_its_resources(fresh, cluster, undisturbed):
    project = fresh(train=TRAIN, models=SMALL, eyes={"models": ["average", "stacking"]})
    # The default of the plugin with accounting.
    run = Run(project, *(["--slurm-status-command", "sacct"] if cluster else []))
    shown = run.end()
    submitted = run.jobs()
    numbers = {
        "inventory": 2,
        "organize": 3,
        "preprocess": 6,
        "train": 1,
        "score": 1,
        "convert_network": 1,
        "run_features": 1,
        "eye_stacking": 1,
    }
    assert Counter(job["rule"] for job in submitted) == numbers
    # The shards of the training split start together. The shard of validation may start alone.
    assert sum("ArrayTaskId" in job for job in submitted if job["rule"] == "preprocess") >= 3
    for job in submitted:
        assert job["JobState"] == "COMPLETED"
        network = job["rule"] in ("train", "score", "run_features")
        assert job["Partition"] == ("gpu" if network else "cpu")
        assert job.get("TresPerJob") == ("gres:gpu:1" if network else None)
        assert ("gres/gpu=1" in job["TRES"]) == network
        assert int(job["MinMemoryNode"].rstrip("M")) >= (5000 if network else 1000)
        cores = {"inventory": "4", "eye_stacking": "2", "convert_network": "2"}.get(job["rule"], "1")
        assert job["NumCPUs"] == ("2" if network else cores)
        assert re.fullmatch(r"00:1\d:00", job["TimeLimit"])
        assert job["Requeue"] == "1"
    # Rules that need seconds or internet are local.
    for rule in ("split", "check_problems", "eye_average", "grade", "compare"):
        assert f"localrule {rule}:" in shown
    assert "bounded by" not in shown
    if cluster:
        listed = slurm("sacct", "-X", "-n", "-P", "-o", "partition,alloctres,state,comment").splitlines()
        assert any(re.match(r"gpu\|.*gres/gpu=1.*\|COMPLETED\|rule_train", line) for line in listed)
    assert project.history() == undisturbed.history()
    assert project.scores() == undisturbed.scores()


def test_training_resumes_after_its_time_limit(preprocessed, undisturbed):
    run = Run(preprocessed, "--until", "train")
    job = run.training()
    slurm("scontrol", "update", f"JobId={job}", "EndTime=now+1")
    shown = run.end()
    assert f"SLURM-job '{job}' failed, SLURM status is: 'TIMEOUT'" in shown
    first, second = [job for job in run.jobs() if job["rule"] == "train"]
    assert (first["JobState"], second["JobState"]) == ("TIMEOUT", "COMPLETED")
    # The second attempt has more time and memory.
    assert second["TimeLimit"] == "00:22:00"
    assert int(second["MinMemoryNode"].rstrip("M")) > 1.9 * int(first["MinMemoryNode"].rstrip("M"))
    (log,) = attempts(preprocessed)
    assert "ended by SIGTERM; run again to resume" in log
    assert "resuming after epoch" in preprocessed.read("results/logs/train/MobileNetV3Small.log")
    assert preprocessed.history() == undisturbed.history()


@pytest.mark.slow
def test_training_stops_before_its_time_limit_and_resumes(preprocessed):
    """The limit reaches the script on the node. It is shorter than the reserve, so each attempt trains one epoch."""
    preprocessed.config["train"]["epochs"] = 2
    run = Run(preprocessed, "--until", "train", "--set-resources", "train:slurm_partition=gpu", "train:runtime=1")
    run.end()
    (log,) = attempts(preprocessed)
    assert "the time limit would pass within epoch 2" in log
    assert [(job["Partition"], job["TimeLimit"]) for job in run.jobs()] == [("gpu", "00:01:00")] * 2


@pytest.mark.slow
def test_training_resumes_after_requeue_and_cancel(preprocessed, undisturbed):
    """Preemption requeues jobs in this way."""
    run = Run(preprocessed, "--until", "train")
    job = run.training()
    slurm("scontrol", "requeue", job)
    run.wait_for(no_steps)
    slurm("scontrol", "update", f"JobId={job}", "StartTime=now")
    assert run.training() == job
    slurm("scancel", job)
    shown = run.end()
    assert f"SLURM-job '{job}' failed, SLURM status is: 'CANCELLED" in shown
    assert "resuming after epoch" in preprocessed.read("results/logs/train/MobileNetV3Small.log")
    assert preprocessed.history() == undisturbed.history()


@pytest.mark.slow
def test_training_resumes_after_its_node_went_down(preprocessed, undisturbed):
    run = Run(preprocessed, "--until", "train")
    job = run.training()
    slurm("scontrol", "update", f"nodename={node()}", "state=down", "reason=test")
    # SLURM drains a node that resumes while processes of its job are still ending.
    run.wait_for(no_steps)
    assert [found["JobState"] for found in run.jobs() if found["JobId"] == job] == ["PENDING"]
    bring_back()
    # SLURM delays a restarted job by two minutes, in case its node still cleans up.
    slurm("scontrol", "update", f"JobId={job}", "StartTime=now")
    run.end()
    # SLURM restarted the job, and Snakemake submitted no second one.
    (trained,) = [found for found in run.jobs() if found["rule"] == "train"]
    assert (trained["JobId"], trained["Restarts"], trained["JobState"]) == (job, "1", "COMPLETED")
    assert preprocessed.history() == undisturbed.history()


def test_more_gpus_than_available_is_one_clear_error(preprocessed):
    run = Run(
        preprocessed,
        "--until",
        "train",
        "--retries",
        "0",
        "--set-resources",
        "train:slurm_partition=gpu",
        "train:gpu=99",
    )
    shown = run.end(status=1)
    assert re.search(r"SLURM sbatch failed. The error message was 'sbatch: error: .*not available", shown)
    assert "--gpus=99" in shown
    assert "Traceback" not in shown
    assert {job["JobState"] for job in run.jobs()} <= {"FAILED"}  # SLURM records refused jobs


@pytest.mark.slow
def test_gpus_are_requested_by_model_by_gres_and_several(preprocessed):
    preprocessed.config["train"]["epochs"] = 1
    run = Run(preprocessed, "--until", "train", "--set-resources", "train:slurm_partition=gpu", "train:gpu_model=toy")
    run.end()
    assert [job["TresPerJob"] for job in run.jobs()] == ["gres:gpu:toy:1"]
    preprocessed.config["train"]["epochs"] = 2
    arguments = ("--until", "train", "--set-resources", "train:slurm_partition=gpu", "train:gpu=0", "train:gres=gpu:1")
    run = Run(preprocessed, *arguments, profile="--profile")
    assert "to the cores and GPUs of this machine" in run.end()
    (job,) = run.jobs()
    assert job["TresPerNode"] == "gres:gpu:1"
    assert "TresPerJob" not in job
    # Several GPUs for one training are on one node, with the cores of one GPU.
    preprocessed.config["train"]["gpus"] = 2
    run = Run(preprocessed, "--until", "train", "--retries", "0")
    run.end(status=1)
    assert "gpus: 2, but this job sees 1 CPU" in preprocessed.read("results/logs/train/MobileNetV3Small.log")
    (job,) = run.jobs()
    assert (job["TresPerJob"], job["NumNodes"], job["NumCPUs"]) == ("gres:gpu:2", "1", "2")


@pytest.mark.slow
def test_run_resumes_after_snakemake_is_killed_or_interrupted(preprocessed, undisturbed):
    run = Run(preprocessed, "--until", "train")
    run.wait_for(lambda: preprocessed.saved_epochs() >= 2)
    (job,) = [found["JobId"] for found in run.jobs()]
    run.process.kill()
    run.process.communicate()
    # The job continues without the snakemake of the submit host. It ends with the snakemake of its node.
    epochs, deadline = preprocessed.saved_epochs(), time.monotonic() + 60
    while preprocessed.saved_epochs() <= epochs:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    slurm("scancel", job)  # as in docs/cluster.md
    while scripts(preprocessed):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    second = Run(preprocessed, "--until", "train")
    second.training()
    second.process.send_signal(signal.SIGINT)
    second.process.communicate(timeout=120)
    assert [found["JobState"] for found in second.jobs()] == ["CANCELLED"]
    Run(preprocessed, "--until", "train").end()
    assert preprocessed.history() == undisturbed.history()
