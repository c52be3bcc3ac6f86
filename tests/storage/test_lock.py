import subprocess
import sys

import pytest

from retinaflow.errors import RetinaflowError
from retinaflow.storage.lock import lock

HOLD = (
    "import sys, pathlib; from retinaflow.storage.lock import lock; "
    "held = lock(pathlib.Path('results')); print(1, flush=True)"
)


@pytest.fixture
def holder(tmp_path):
    """Another process that has claimed ``results``."""
    code = f"import sys; sys.path[:0] = {sys.path!r}; {HOLD}; sys.stdin.read()"
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        process.stdout.readline()
        yield process
        process.kill()


def test_locked_folder_is_refused_and_the_process_named(tmp_path, holder):
    with pytest.raises(RetinaflowError, match=rf"results: another run is writing there \(process {holder.pid} on "):
        lock(tmp_path / "results")


def test_a_killed_process_leaves_nothing_to_unlock(tmp_path, holder):
    holder.kill()
    holder.wait()
    lock(tmp_path / "results").close()


@pytest.mark.usefixtures("holder")
def test_two_folders_are_two_locks(tmp_path):
    lock(tmp_path / "other").close()


def test_a_closed_lock_can_be_had_again(tmp_path):
    for _ in range(2):
        lock(tmp_path / "results").close()


def test_file_system_without_locks_is_a_warning(tmp_path, monkeypatch, caplog):
    def refuse(*_):
        raise OSError(38, "Function not implemented")

    monkeypatch.setattr("retinaflow.storage.lock.fcntl.flock", refuse)
    lock(tmp_path / "results").close()
    assert "cannot be locked" in caplog.text
