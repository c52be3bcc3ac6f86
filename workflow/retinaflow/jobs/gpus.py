"""Give each job GPUs of its own, and say which job has which: ``retinaflow gpus``, or ``make gpus``.

A job has a device as long as it holds the lock (flock) on that device's file. The lock ends with the process, so that
nothing is left to unlock, even by ``kill -9``. Files and ``CUDA_VISIBLE_DEVICES`` name devices by the UUIDs that
nvidia-smi lists, which mean the same under every mask and in whatever order CUDA counts. What a scheduler lets a job
see bounds it like any other mask; the locks do no harm there, and help where devices are not confined.
"""

import fcntl
import getpass
import json
import logging
import os
import random
import re
import shutil
import stat
import subprocess
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from retinaflow.errors import RetinaflowError

log = logging.getLogger(__name__)

# Where the jobs of all users of a machine meet: $TMPDIR and /run/user are a user's own; /tmp is a job's own on some
# clusters, and swept more often.
LOCKS = Path("/var/tmp")  # noqa: S108
MASK = "CUDA_VISIBLE_DEVICES"
RECORD = ("job", "folder", "user", "process", "since")

# Open while this process has its devices.
_held: list[int] = []


@dataclass(frozen=True)
class Device:
    """A GPU, or an instance (MIG) of one that is split up.

    ``index`` is what nvidia-smi counts, as ``0`` or ``0:1``; ``uuid`` what CUDA and lock files know the device by.
    """

    index: str
    uuid: str
    name: str

    def __str__(self) -> str:
        return f"GPU {self.index} ({', '.join(filter(None, [self.name, self.uuid]))})"


def claim(count: int, job: str) -> list[Device]:
    """Take ``count`` devices that no other job has, for as long as this process lives, and let CUDA see no others.

    Call once, before Keras is imported. ``job`` is what others are told of who has them. Waits while too few are free.
    Without a GPU, or with a ``count`` of 0, nothing is taken and ``CUDA_VISIBLE_DEVICES`` stays as it is.

    Raises ``RetinaflowError`` if this process may see fewer than ``count`` devices, or a lock file cannot be used.
    """
    if not count:
        return []
    mask = os.environ.get(MASK)
    found = visible(mask, installed())
    if not found:
        if mask is not None:
            log.info("no GPU is taken: %s is %r", MASK, mask)
        return []
    if len(found) < count:
        limit = "" if mask is None else f", which {MASK}={mask} leaves"
        raise RetinaflowError(
            f"{job} asks for {count} GPUs, but found {len(found)}{limit}: {', '.join(map(str, found))}. Ask for "
            f"{len(found)} at most (resource `gpu`)."
        )
    said = ""
    while not (taken := _take(found, count)):
        if (message := _waiting(found, count)) != said:
            log.info(said := message, extra={"screen": True})
        time.sleep(random.uniform(0.5, 1.5))  # noqa: S311  two jobs that want the same must not meet again and again
    for descriptor in taken.values():
        _sign(descriptor, job)
    _held.extend(taken.values())
    os.environ[MASK] = ",".join(device.uuid for device in taken)
    log.info("on %s", ", ".join(map(str, taken)))
    return list(taken)


def installed() -> list[Device]:
    """The devices of this machine, or those that a container or scheduler shows; none where nvidia-smi names none."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    try:
        result = subprocess.run(  # noqa: S603
            [program, "-L"], capture_output=True, text=True, errors="replace", timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        log.warning("nvidia-smi does not answer, so no GPU is known: %s", error)
        return []
    if result.returncode:
        log.warning("nvidia-smi failed: %s", " ".join((result.stdout + result.stderr).split()))
    return listed(result.stdout)


def listed(text: str) -> list[Device]:
    """The devices in what ``nvidia-smi -L`` prints; for a GPU that is split up, its instances: they alone compute."""
    found: list[Device] = []
    gpu = None
    for line in map(str.strip, text.splitlines()):
        if whole := re.fullmatch(r"GPU (\d+): (.*) \(UUID: (\S+)\)", line):
            gpu = Device(whole[1], whole[3], whole[2])
            found.append(gpu)
        elif gpu and (part := re.fullmatch(r"MIG (\S+)\s+Device\s+(\d+): \(UUID: (\S+)\)", line)):
            if gpu in found:
                found.remove(gpu)
            found.append(Device(f"{gpu.index}:{part[2]}", part[3], f"{gpu.name} MIG {part[1]}"))
    return found


def visible(mask: str | None, found: Sequence[Device]) -> list[Device]:
    """Those of ``found`` that ``mask``, a value of ``CUDA_VISIBLE_DEVICES``, leaves, in its order.

    It names devices by nvidia-smi's index or by UUID, which may be cut short where one device alone fits; what follows
    a wrong name does not count. An index stands for all instances of a GPU that is split up. Where nothing was
    ``found``, as without nvidia-smi, names are taken as they are.

    Source: https://docs.nvidia.com/cuda/cuda-programming-guide/05-appendices/environment-variables.html
    """
    if mask is None:
        return list(found)
    chosen: list[Device] = []
    for name in map(str.strip, mask.split(",")):
        if re.fullmatch(r"\d+", name):
            named = [device for device in found if device.index.split(":")[0] == name]
        elif re.fullmatch(r"(GPU|MIG)-\S+", name):
            named = [device for device in found if device.uuid.startswith(name)]
            named = named if len(named) == 1 else []
        else:
            break
        if not found:
            named = [Device(name, name, "")]
        if not named:
            break
        chosen += named
    return list(dict.fromkeys(chosen))


def holder(device: Device) -> dict[str, str] | None:
    """What the job that has ``device`` says of itself, with the keys ``RECORD``; None if no process has it.

    Raises ``RetinaflowError`` if the lock file cannot be read.
    """
    path = _lock_file(device)
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                return None
            except BlockingIOError:
                text = file.read(4096)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unusable(path, str(error.strerror)) from error
    try:
        record = json.loads(text)
        said = {key: str(record[key]) for key in RECORD}
    except (ValueError, KeyError, TypeError, RecursionError):  # the job is just signing, or the disk is full
        said = dict.fromkeys(RECORD, "?")
    # Anybody may write there; what they wrote must not reach into a terminal.
    return {key: "".join(filter(str.isprintable, value)) for key, value in said.items()}


def table() -> str:
    """A table of all devices of this machine, whatever ``CUDA_VISIBLE_DEVICES`` says, and the jobs that have them."""
    devices = installed() or visible(os.environ.get(MASK), [])
    if not devices:
        return "no GPU: nvidia-smi is not there or lists none"
    rows = [("GPU", "name", *RECORD)]
    for device in devices:
        said = holder(device)
        rows.append((device.index, device.name, *(said.values() if said else ("free", "", "", "", ""))))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _take(found: Sequence[Device], count: int) -> dict[Device, int]:
    """The first ``count`` devices that are free, with the descriptors that hold them; none if fewer are."""
    taken: dict[Device, int] = {}
    for device in found:
        descriptor = _lock(_lock_file(device))
        if descriptor is not None:
            taken[device] = descriptor
        if len(taken) == count:
            return taken
    # Kept while waiting for others, they could be what another job waits for.
    for descriptor in taken.values():
        os.close(descriptor)
    return {}


def _lock_file(device: Device) -> Path:
    return LOCKS / f"retinaflow-gpu-{device.uuid.replace('/', '-')}.lock"


def _lock(path: Path) -> int | None:
    """A descriptor that holds the lock on ``path``, or None if another has it."""
    try:
        while True:
            descriptor = _open(path)
            status = os.fstat(descriptor)
            # With a second name it could be anybody's file, put there to be written to.
            if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
                raise _unusable(path, "no plain file")
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                return None
            if os.fstat(descriptor).st_nlink:
                return descriptor
            os.close(descriptor)  # swept away in between: who comes next would lock another file
    except OSError as error:
        raise _unusable(path, str(error.strerror)) from error


def _open(path: Path) -> int:
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK
    while True:
        # Not with O_CREAT at once: where everybody may write, Linux refuses that for another user's file.
        with suppress(FileNotFoundError):
            return os.open(path, flags)
        with suppress(FileExistsError):
            descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL)
            os.fchmod(descriptor, 0o666)  # for all users, whatever the umask
            return descriptor


def _unusable(path: Path, reason: str) -> RetinaflowError:
    return RetinaflowError(
        f"{path}: {reason}. Who has which GPU is told apart there, by a plain file that all users may write to. Remove "
        f"it, or have its owner do so, and see to it that you may write to {path.parent}; or ask for no GPU (resource "
        f"`gpu` 0) and set {MASK} yourself."
    )


def _sign(descriptor: int, job: str) -> None:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # a container that has no name for its user
        user = str(os.getuid())
    process = f"{os.getpid()} on {os.uname().nodename}"
    since = datetime.now().isoformat(" ", "seconds")
    record = dict(zip(RECORD, (job, str(Path.cwd()), user, process, since), strict=True))
    with suppress(OSError):  # of a full disk: the lock holds without it
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(record).encode(), 0)


def _waiting(found: Sequence[Device], count: int) -> str:
    jobs = [
        f"{device} by {said['job']} in {said['folder']} ({said['user']}, process {said['process']}, {said['since']})"
        for device in found
        if (said := holder(device))
    ]
    return f"waiting for {count} of {len(found)} GPUs; in use: {'; '.join(jobs)}"


def _release() -> None:
    while _held:
        os.close(_held.pop())


# A lock lasts as long as any process has its descriptor: programs that this one starts do not, copies of it would.
os.register_at_fork(after_in_child=_release)
