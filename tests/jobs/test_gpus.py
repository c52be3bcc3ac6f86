"""GPUs of jobs: devices of a fake nvidia-smi, and jobs in real processes with locks in the usual folder."""

import fcntl
import os
import select
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from uuid import uuid4

import pytest

from retinaflow.errors import RetinaflowError
from retinaflow.jobs import gpus
from retinaflow.jobs.gpus import Device, claim, gpu_table, holder, installed, listed, visible

JOB = """
import logging, os, subprocess, sys
from retinaflow.jobs import gpus
logging.basicConfig(level="INFO", format="%(message)s")
{before}
gpus.claim(int(sys.argv[1]), sys.argv[2])
{after}
print(os.environ.get("CUDA_VISIBLE_DEVICES"), flush=True)
sys.stdin.read()
"""


class Machine:
    """A machine with fake devices, and jobs that request them."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.folder, self.monkeypatch = folder, monkeypatch
        self.uuids: list[str] = []
        self.jobs: list[subprocess.Popen[str]] = []
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        self.smi("exit 1")

    def smi(self, script: str) -> None:
        """Replace nvidia-smi by a shell script. No other program is on the path."""
        program = self.folder / "bin/nvidia-smi"
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        self.monkeypatch.setenv("PATH", str(program.parent))

    def give(self, count: int) -> list[str]:
        """Add ``count`` GPUs and return their UUIDs, which are unique to the test."""
        self.uuids = [f"GPU-{uuid4()}" for _ in range(count)]
        lines = [f"GPU {index}: NVIDIA Fake (80GB) (UUID: {uuid})" for index, uuid in enumerate(self.uuids)]
        self.smi("\n".join(['[ "$1" = -L ] || exit 2', *(f"echo '{line}'" for line in lines)]))
        return self.uuids

    def job(
        self, count: int = 1, name: str = "train VGG16", mask: str | None = None, before: str = "", after: str = ""
    ) -> "subprocess.Popen[str]":
        """Start a job that prints the devices that CUDA would see, and holds them until its standard input ends."""
        masked = {} if mask is None else {"CUDA_VISIBLE_DEVICES": mask}
        self.jobs.append(
            subprocess.Popen(
                [sys.executable, "-c", JOB.format(before=before, after=after), str(count), name],
                env={**os.environ, **masked},
                cwd=self.folder,
                text=True,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        )
        return self.jobs[-1]


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """A machine without a GPU."""
    faked = Machine(tmp_path, monkeypatch)
    yield faked
    for process in faked.jobs:
        process.kill()
        process.communicate()
    for uuid in faked.uuids:
        for file in gpus.LOCKS.glob(f"retinaflow-gpu-{uuid}*"):
            file.unlink()


def seen(process: "subprocess.Popen[str]") -> list[str]:
    """Devices that CUDA would see in a job, after the job has claimed them."""
    assert select.select([process.stdout], [], [], 30)[0], "still waiting"
    return process.stdout.readline().strip().split(",")


def lock_file(uuid: str) -> Path:
    return gpus.LOCKS / f"retinaflow-gpu-{uuid}.lock"


def test_jobs_at_the_same_time_have_distinct_devices(machine):
    uuids = machine.give(4)
    jobs = [machine.job() for _ in range(4)]
    assert sorted(seen(job) for job in jobs) == sorted([uuid] for uuid in uuids)


def test_job_has_and_logs_the_requested_number_of_devices(machine):
    uuids = machine.give(3)
    first, second = machine.job(2), machine.job(1)
    got, other = seen(first), seen(second)
    assert sorted(got + other) == sorted(uuids)
    assert len(got) == 2
    listed_devices = ", ".join(f"GPU {uuids.index(uuid)} (NVIDIA Fake (80GB), {uuid})" for uuid in got)
    assert first.stderr.readline() == f"on {listed_devices}\n"


def test_job_waits_for_a_device_until_a_kill_frees_it(machine):
    (uuid,) = machine.give(1)
    first = machine.job(name="train ResNet50")
    assert seen(first) == [uuid]
    second = machine.job()
    line = second.stderr.readline()
    for part in (
        uuid,
        "1 of 1",
        f"train ResNet50 in {machine.folder}",
        f"process {first.pid} on {os.uname().nodename}",
    ):
        assert part in line
    first.kill()
    assert seen(second) == [uuid]
    assert second.stderr.readline().startswith("on GPU 0")


def test_waiting_job_holds_no_device(machine):
    uuids = machine.give(2)
    assert seen(machine.job(mask="1")) == [uuids[1]]
    late = machine.job(2)
    assert "waiting for 2 of 2" in late.stderr.readline()
    assert seen(machine.job()) == [uuids[0]]
    for job in (machine.jobs[0], machine.jobs[2]):
        job.kill()
    assert seen(late) == uuids


def test_child_process_does_not_hold_the_device(machine):
    (uuid,) = machine.give(1)
    started = "other = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], close_fds=False)"
    copied = "copy = os.fork() or __import__('time').sleep(60)"
    first = machine.job(after=f"{started}\n{copied}\nopen('left', 'w').write(f'{{other.pid}} {{copy}}')")
    assert seen(first) == [uuid]
    children = [int(pid) for pid in (machine.folder / "left").read_text().split()]
    try:
        first.kill()
        first.wait()
        for child in children:
            os.kill(child, 0)
        second = machine.job()
        assert seen(second) == [uuid]
        assert "waiting" not in second.stderr.readline()
    finally:
        for child in children:
            os.kill(child, 9)


@pytest.mark.parametrize("mask", [None, "1,0"])
def test_request_of_too_many_devices_names_the_existing_ones(machine, monkeypatch, mask):
    uuids = machine.give(2)
    if mask:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", mask)
    with pytest.raises(RetinaflowError) as error:
        claim(3, "train VGG16")
    for part in ("train VGG16 requests 3 GPUs, but found 2", *uuids, "Request 2 at most", *(["=1,0"] if mask else [])):
        assert part in str(error.value)
    assert not any(lock_file(uuid).exists() for uuid in uuids)


def test_all_kinds_of_masks_select_the_same_devices(machine):
    uuids = machine.give(3)
    assert seen(machine.job(mask="2,1")) == [uuids[2]]
    assert seen(machine.job(mask=f"{uuids[2][:20]},1")) == [uuids[1]]
    late = machine.job(mask=uuids[1])
    assert "waiting for 1 of 1" in late.stderr.readline()
    assert seen(machine.job()) == [uuids[0]]


@pytest.mark.parametrize("mask", ["", "-1", "NoDevFiles", "9", "GPU-nonsense"])
def test_mask_without_devices_does_not_change(machine, mask):
    uuids = machine.give(1)
    job = machine.job(mask=mask)
    assert seen(job) == [mask]
    assert f"no GPU is claimed: CUDA_VISIBLE_DEVICES is {mask!r}" in job.stderr.readline()
    assert not lock_file(uuids[0]).exists()


def test_job_without_request_sees_all_devices(machine):
    uuids = machine.give(1)
    assert seen(machine.job(0, mask="0")) == ["0"]
    assert seen(machine.job(0)) == ["None"]
    assert not lock_file(uuids[0]).exists()


@pytest.mark.usefixtures("machine")
def test_machine_without_nvidia_smi_has_no_devices(monkeypatch, caplog):
    caplog.set_level("INFO")
    monkeypatch.setenv("PATH", "")
    assert claim(1, "train VGG16") == claim(4, "train VGG16") == []
    assert "CUDA_VISIBLE_DEVICES" not in os.environ
    assert caplog.text == ""
    assert "no GPU" in gpu_table()


def test_without_nvidia_smi_the_mask_names_the_devices(machine, monkeypatch):
    monkeypatch.setenv("PATH", "")
    machine.uuids = [f"GPU-{uuid4()}", f"MIG-{uuid4()}"]
    mask = ",".join(machine.uuids)
    jobs = [machine.job(mask=mask), machine.job(mask=mask)]
    assert sorted(seen(job) for job in jobs) == sorted([uuid] for uuid in machine.uuids)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", mask)
    assert [line.split()[0] for line in gpu_table().splitlines()] == ["GPU", *machine.uuids]


@pytest.mark.parametrize(
    ("script", "message"),
    [("echo 'driver/library version mismatch'; exit 18", "version mismatch"), ("exec sleep 60", "timed out")],
)
def test_failing_or_hanging_nvidia_smi_is_a_warning(machine, monkeypatch, caplog, script, message):
    machine.smi(f"PATH=/usr/bin:/bin\n{script}")
    run = subprocess.run
    monkeypatch.setattr(gpus.subprocess, "run", lambda *args, **kinds: run(*args, **{**kinds, "timeout": 0.5}))
    assert claim(1, "train VGG16") == []
    assert message in caplog.text


LISTING = """\
GPU 0: NVIDIA A100-SXM4-40GB (UUID: GPU-aa11)
  MIG 3g.20gb     Device  0: (UUID: MIG-bb22)
  MIG 1g.5gb      Device  1: (UUID: MIG-GPU-aa11/9/0)
Unable to determine the device handle for gpu 0000:25:00.0: Unknown Error
GPU 10: NVIDIA RTX A6000 (UUID: GPU-cc33)
GPU 11: NVIDIA RTX A6000 (UUID: GPU-cc44)
"""
LARGE, SMALL, TEN, ELEVEN = (
    Device("0:0", "MIG-bb22", "NVIDIA A100-SXM4-40GB MIG 3g.20gb"),
    Device("0:1", "MIG-GPU-aa11/9/0", "NVIDIA A100-SXM4-40GB MIG 1g.5gb"),
    Device("10", "GPU-cc33", "NVIDIA RTX A6000"),
    Device("11", "GPU-cc44", "NVIDIA RTX A6000"),
)


def test_instances_replace_their_gpu():
    assert listed(LISTING) == [LARGE, SMALL, TEN, ELEVEN]
    assert listed("No devices found.\n") == []


@pytest.mark.parametrize(
    ("mask", "devices"),
    [
        (None, [LARGE, SMALL, TEN, ELEVEN]),
        ("0", [LARGE, SMALL]),
        ("11,10", [ELEVEN, TEN]),
        ("10,10", [TEN]),
        (" 10 , 11", [TEN, ELEVEN]),
        ("10,-1,11", [TEN]),
        ("1", []),
        ("GPU-cc4", [ELEVEN]),
        ("GPU-cc", []),
        ("MIG-bb22,GPU-cc33", [LARGE, TEN]),
        ("MIG-GPU-aa11/9/0", [SMALL]),
        ("10,", [TEN]),
    ],
)
def test_masks(mask, devices):
    assert visible(mask, listed(LISTING)) == devices


def test_older_name_of_an_instance_gives_a_lock_file(machine):
    uuid = f"MIG-GPU-{uuid4()}"
    machine.uuids = [uuid]
    machine.smi(f"echo 'GPU 0: A100 (UUID: GPU-x)'\necho '  MIG 1g.5gb Device  0: (UUID: {uuid}/9/0)'")
    assert seen(machine.job()) == [f"{uuid}/9/0"]
    assert lock_file(f"{uuid}-9-0").is_file()


@pytest.mark.parametrize("trap", ["symlink", "hard link", "fifo", "folder"])
def test_other_file_in_place_of_a_lock_file_stays_unchanged(machine, trap):
    (uuid,) = machine.give(1)
    mine = gpus.LOCKS / f"retinaflow-gpu-{uuid}.precious"
    mine.write_text("precious")
    place: dict[str, Callable[[], object]] = {
        "symlink": lambda: lock_file(uuid).symlink_to(mine),
        "hard link": lambda: os.link(mine, lock_file(uuid)),
        "fifo": lambda: os.mkfifo(lock_file(uuid)),
        "folder": lambda: lock_file(uuid).mkdir(),
    }
    place[trap]()
    try:
        with pytest.raises(RetinaflowError, match=rf"{uuid}.lock: .*Remove the file"):
            claim(1, "train VGG16")
        assert mine.read_text() == "precious"
    finally:
        if trap == "folder":
            lock_file(uuid).rmdir()


def test_deleted_lock_file_is_made_again(machine, monkeypatch):
    (uuid,) = machine.give(1)
    flock, swept = fcntl.flock, []

    def sweep(descriptor: int, how: int) -> None:
        if not swept:
            swept.append(lock_file(uuid).unlink())
        flock(descriptor, how)

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", uuid)
    monkeypatch.setattr(gpus.fcntl, "flock", sweep)
    try:
        claim(1, "train VGG16")
        assert "waiting" in machine.job().stderr.readline()
    finally:
        gpus._release()


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the socket of a device is one of Linux")
def test_device_is_not_shared_after_a_sweep_of_the_folder(machine):
    (uuid,) = machine.give(1)
    first = machine.job()
    assert seen(first) == [uuid]
    lock_file(uuid).unlink()
    second = machine.job()
    assert "waiting for 1 of 1 GPUs; in use: GPU 0 " in second.stderr.readline()
    assert holder(installed()[0]) == dict.fromkeys(gpus.CLAIM_FIELDS, "?")
    first.kill()
    assert seen(second) == [uuid]


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become another user")
def test_users_share_the_lock_files(machine):
    uuids = machine.give(2)
    machine.folder.chmod(0o755)
    become = "os.setgroups([]); os.setgid({0}); os.setuid({0}); os.umask(0o077); os.environ['USER'] = 'user{0}'"
    # Past the folders of the tests, which are nobody else's: nvidia-smi is asked before.
    asked = "found = gpus.installed(); gpus.installed = lambda: found; os.chdir('/')"
    one = machine.job(before=f"{asked}; {become.format(65533)}")
    assert seen(one) == [uuids[0]]
    assert stat.S_IMODE(lock_file(uuids[0]).stat().st_mode) == 0o666
    two = machine.job(before=f"{asked}; {become.format(65534)}")
    assert seen(two) == [uuids[1]]
    late = machine.job(before=f"{asked}; {become.format(65534)}")
    assert "(user65533, process" in late.stderr.readline()
    one.kill()
    assert seen(late) == [uuids[0]]
    assert lock_file(uuids[0]).stat().st_uid == 65533
    assert holder(installed()[0])["user"] == "user65534"


def test_table_shows_every_device_and_its_job(machine):
    uuids = machine.give(3)
    command = [sys.executable, "-m", "retinaflow", "gpus"]
    where = {"env": {**os.environ, "CUDA_VISIBLE_DEVICES": "2"}}

    def shown() -> list[str]:
        return subprocess.run(command, **where, capture_output=True, text=True, check=True).stdout.splitlines()

    killed, running = machine.job(name="train VGG16/fold-1"), machine.job(name="score ResNet50", mask="1")
    assert (seen(killed), seen(running)) == ([uuids[0]], [uuids[1]])
    header, first, second, third = shown()
    assert header.split() == ["GPU", "name", "job", "folder", "user", "process", "since"]
    for line, job in ((first, killed), (second, running)):
        assert f"{machine.folder}  " in line
        assert f"  {job.pid} on " in line
        assert time.strftime("  %Y-%m-%d ") in line
    assert first.startswith("0    NVIDIA Fake (80GB)  train VGG16/fold-1  ")
    assert second.startswith("1    NVIDIA Fake (80GB)  score ResNet50      ")
    assert third == "2    NVIDIA Fake (80GB)  free"

    killed.kill()
    killed.wait()
    assert "VGG16" in lock_file(uuids[0]).read_text()
    assert [line.split()[-1] == "free" for line in shown()[1:]] == [True, False, True]
    # Looking takes nothing.
    assert seen(machine.job()) == [uuids[0]]


@pytest.mark.parametrize("text", [b"", b"\xff", b"[" * 5000, b"[]", b'{"job": "x"}'])
def test_unreadable_record_still_counts_as_a_job(machine, text):
    machine.give(1)
    job = machine.job()
    seen(job)
    (device,) = installed()
    lock_file(device.uuid).write_bytes(text)
    assert set(holder(device).values()) == {"?"}


def test_control_characters_in_a_record_are_not_printed(machine):
    machine.give(1)
    seen(machine.job(name="\x1b[2Jtrain\n\u202eVGG16"))
    assert "  [2JtrainVGG16  " in gpu_table()
