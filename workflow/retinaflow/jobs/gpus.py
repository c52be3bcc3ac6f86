"""GPUs of jobs: each job gets its own, and ``retinaflow gpus`` (``make gpus``) lists the job of each GPU.

A job has a device as long as it holds the lock (flock) on the file of the device and, on Linux, the socket of the
device. The socket has a name without a file, so it survives a sweep of the folder. Both end with the process, even
after ``kill -9``. Files and ``CUDA_VISIBLE_DEVICES`` name devices by the UUIDs of nvidia-smi, which are the same under
every mask and in every order of CUDA. A scheduler can limit a job to some devices by a mask. The locks are harmless
there, and they help if the scheduler does not confine devices.
"""

import errno
import fcntl
import getpass
import json
import logging
import os
import random
import re
import shutil
import socket
import stat
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from retinaflow.errors import RetinaflowError

log = logging.getLogger(__name__)

# Folder of the lock files, which jobs of all users share. $TMPDIR and /run/user belong to one user. On some clusters,
# /tmp belongs to one job, and it is swept more often.
LOCKS = Path("/var/tmp")  # noqa: S108
MASK = "CUDA_VISIBLE_DEVICES"
CLAIM_FIELDS = ("job", "folder", "user", "process", "since")

# Descriptors of the lock files and sockets, open while this process has its devices.
_held: list[int] = []


@dataclass(frozen=True)
class Device:
    """A GPU, or an instance (MIG) of a GPU.

    Attributes:
        index: Index of nvidia-smi, such as ``0``, or ``0:1`` for an instance.
        uuid: Identifier in CUDA and in the names of lock files.
        name: Name of the product.
    """

    index: str
    uuid: str
    name: str

    def __str__(self) -> str:
        return f"GPU {self.index} ({', '.join(filter(None, [self.name, self.uuid]))})"


def claim(count: int, job: str) -> list[Device]:
    """Claim devices that no other job has until this process ends, and hide all others from CUDA.

    The call waits while too few devices are free. Call it once, before the import of Keras. Without a GPU, or with a
    ``count`` of 0, nothing is claimed and ``CUDA_VISIBLE_DEVICES`` does not change.

    Args:
        count: Number of devices.
        job: Name of this job for messages to other jobs.

    Returns:
        The claimed devices.

    Raises:
        RetinaflowError: This process may see fewer than ``count`` devices, or a lock file cannot be used.
    """
    if not count:
        return []
    mask = os.environ.get(MASK)
    found = visible(mask, installed())
    if not found:
        if mask is not None:
            log.info("no GPU is claimed: %s is %r", MASK, mask)
        return []
    if len(found) < count:
        limit = "" if mask is None else f" under {MASK}={mask}"
        raise RetinaflowError(
            f"{job} requests {count} GPUs, but found {len(found)}{limit}: {', '.join(map(str, found))}. Request "
            f"{len(found)} at most (resource `gpu`)."
        )
    last = ""
    while not (taken := _take(found, count)):
        if (message := _waiting(found, count)) != last:
            log.info(last := message, extra={"screen": True})
        time.sleep(random.uniform(0.5, 1.5))  # noqa: S311  Random times keep two jobs from meeting again and again.
    for descriptors in taken.values():
        _sign(descriptors[0], job)
        _held.extend(descriptors)
    os.environ[MASK] = ",".join(device.uuid for device in taken)
    log.info("on %s", ", ".join(map(str, taken)))
    return list(taken)


def installed() -> list[Device]:
    """List the devices of this machine, or those that a container or scheduler shows. Empty without nvidia-smi."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return []
    try:
        result = subprocess.run(  # noqa: S603
            [program, "-L"], capture_output=True, text=True, errors="replace", timeout=60, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        log.warning("nvidia-smi does not answer, so no GPU is used: %s", error)
        return []
    if result.returncode:
        log.warning("nvidia-smi failed: %s", " ".join((result.stdout + result.stderr).split()))
    return listed(result.stdout)


def listed(text: str) -> list[Device]:
    """List the devices in the output of ``nvidia-smi -L``. A GPU with instances is replaced by them."""
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
    """Select the devices that ``mask``, a value of ``CUDA_VISIBLE_DEVICES``, allows, in its order.

    The mask names devices by the index of nvidia-smi or by UUID. A UUID can be shortened if only one device matches.
    Names after a wrong one do not count. An index selects all instances of a GPU. If nothing was ``found``, as without
    nvidia-smi, the names themselves are returned as devices.

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
    """Return the record of the job that has ``device``, with the keys ``CLAIM_FIELDS``. None if no process has it.

    Raises:
        RetinaflowError: The lock file cannot be read.
    """
    path = _lock_file(device)
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
                if not _is_bound(device):
                    return None
                text = b""
            except BlockingIOError:
                text = file.read(4096)
    except FileNotFoundError:
        if not _is_bound(device):
            return None
        text = b""
    except OSError as error:
        raise _unusable(path, str(error.strerror)) from error
    try:
        record = json.loads(text)
        entries = {key: str(record[key]) for key in CLAIM_FIELDS}
    except (ValueError, KeyError, TypeError, RecursionError):  # The job is writing it, or the disk is full.
        entries = dict.fromkeys(CLAIM_FIELDS, "?")
    # Every user may write to the file. Control characters must not reach a terminal.
    return {key: "".join(filter(str.isprintable, value)) for key, value in entries.items()}


def _is_bound(device: Device) -> bool:
    """Whether another process has the socket of ``device``."""
    bound = _bind(device)
    for descriptor in bound or []:
        os.close(descriptor)
    return bound is None


def gpu_table() -> str:
    """Text table of all devices of this machine, without regard to ``CUDA_VISIBLE_DEVICES``, and of their jobs."""
    devices = installed() or visible(os.environ.get(MASK), [])
    if not devices:
        return "no GPU: nvidia-smi is missing or lists none"
    rows = [("GPU", "name", *CLAIM_FIELDS)]
    for device in devices:
        record = holder(device)
        rows.append((device.index, device.name, *(record.values() if record else ("free", "", "", "", ""))))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _take(found: Sequence[Device], count: int) -> dict[Device, list[int]]:
    """Lock the first ``count`` free devices and return their descriptors. Empty if fewer are free."""
    taken: dict[Device, list[int]] = {}
    for device in found:
        descriptor = _lock(_lock_file(device))
        if descriptor is not None:
            bound = _bind(device)
            if bound is None:
                os.close(descriptor)
            else:
                taken[device] = [descriptor, *bound]
        if len(taken) == count:
            return taken
    # Another job could wait for these devices while this job waits for others.
    for descriptors in taken.values():
        for descriptor in descriptors:
            os.close(descriptor)
    return {}


def _bind(device: Device) -> list[int] | None:
    """Return the descriptor of the socket of ``device``, or None if another process has it.

    A sweep of the folder deletes lock files that are held, and the next job would lock new ones. The socket is in the
    abstract namespace of Linux, which has no files. The list is empty on other systems, and without Unix sockets.
    """
    if not sys.platform.startswith("linux"):
        return []
    own = None
    try:
        own = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        own.bind(f"\0retinaflow-gpu-{device.uuid}"[:100])
    except OSError as error:
        if own is not None:
            own.close()
        return None if error.errno == errno.EADDRINUSE else []
    return [own.detach()]


def _lock_file(device: Device) -> Path:
    return LOCKS / f"retinaflow-gpu-{device.uuid.replace('/', '-')}.lock"


def _lock(path: Path) -> int | None:
    """Return a descriptor that holds the lock on ``path``, or None if another process has it."""
    try:
        while True:
            descriptor = _open(path)
            status = os.fstat(descriptor)
            # A file with a second name can be a link to the file of another user.
            if not stat.S_ISREG(status.st_mode) or status.st_nlink > 1:
                raise _unusable(path, "this is not a plain file")
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                os.close(descriptor)
                return None
            if os.fstat(descriptor).st_nlink:
                return descriptor
            os.close(descriptor)  # The file was deleted meanwhile. The next job would lock a new one.
    except OSError as error:
        raise _unusable(path, str(error.strerror)) from error


def _open(path: Path) -> int:
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK
    while True:
        # Open without O_CREAT first. In folders that all users may write to, Linux refuses O_CREAT for files of others.
        with suppress(FileNotFoundError):
            return os.open(path, flags)
        with suppress(FileExistsError):
            descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL)
            os.fchmod(descriptor, 0o666)  # All users may write, independent of the umask.
            return descriptor


def _unusable(path: Path, reason: str) -> RetinaflowError:
    return RetinaflowError(
        f"{path}: {reason}. Jobs record there which GPU they use, in a plain file that all users may write to. Remove "
        f"the file, or ask its owner to do so, and check that you may write to {path.parent}. Or request no GPU "
        f"(resource `gpu` 0) and set {MASK} yourself."
    )


def _sign(descriptor: int, job: str) -> None:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):  # The container has no name for its user.
        user = str(os.getuid())
    process = f"{os.getpid()} on {os.uname().nodename}"
    since = datetime.now().isoformat(" ", "seconds")
    record = dict(zip(CLAIM_FIELDS, (job, str(Path.cwd()), user, process, since), strict=True))
    with suppress(OSError):  # On a full disk, the lock works without the record.
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(record).encode(), 0)


def _waiting(found: Sequence[Device], count: int) -> str:
    jobs = [
        f"{device} by {job['job']} in {job['folder']} ({job['user']}, process {job['process']}, {job['since']})"
        for device in found
        if (job := holder(device))
    ]
    return f"waiting for {count} of {len(found)} GPUs; in use: {'; '.join(jobs)}"


def _release() -> None:
    while _held:
        os.close(_held.pop())


# A lock lasts as long as any process has its descriptor. Forked processes inherit it, started programs do not.
os.register_at_fork(after_in_child=_release)
