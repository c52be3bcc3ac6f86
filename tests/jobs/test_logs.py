import logging
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator

import pytest

from retinaflow.errors import RetinaflowError
from retinaflow.jobs.logs import PARENT, SCREEN, job_log


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    """Restore the root logger after each test. A job has a process of its own, but tests share one."""
    root = logging.getLogger()
    before, level = root.handlers[:], root.level
    yield
    for handler in set(root.handlers) - set(before):
        handler.close()
    root.handlers[:], root.level = before, level


def test_lines_go_to_the_file_and_the_terminal(tmp_path, capsys):
    with job_log(tmp_path / "job.log"):
        logging.getLogger("retinaflow.anything").info("12 photographs: %s", "größer")
        logging.getLogger("retinaflow.anything").debug("not this")
    text = (tmp_path / "job.log").read_text(encoding="utf-8")
    assert re.fullmatch(r"\d\d:\d\d:\d\d 12 photographs: größer\n", text)
    assert capsys.readouterr().err == text


def test_retinaflow_error_is_a_message_with_traceback_in_the_file(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped, job_log(tmp_path / "job.log"):
        raise RetinaflowError("labels.csv: row 3 is wrong. Correct it.")
    assert stopped.value.code == 1
    shown = capsys.readouterr().err
    assert re.fullmatch(r"\d\d:\d\d:\d\d error: labels\.csv: row 3 is wrong\. Correct it\.\n", shown)
    text = (tmp_path / "job.log").read_text()
    assert text.startswith(shown)
    assert "Traceback" in text
    assert "test_logs.py" in text


def test_unexpected_error_is_a_traceback_everywhere(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped, job_log(tmp_path / "job.log"):
        [].pop()
    assert stopped.value.code == 1
    text = (tmp_path / "job.log").read_text()
    assert "unexpected error" in text
    assert "IndexError: pop from empty list" in text
    assert capsys.readouterr().err == text


def test_log_of_a_new_job_starts_empty(tmp_path):
    for line in ("first", "second"):
        with job_log(tmp_path / "job.log"):
            logging.info(line)
    assert (tmp_path / "job.log").read_text().endswith("second\n")
    assert "first" not in (tmp_path / "job.log").read_text()


def test_names_that_are_not_unicode_do_not_end_a_job(tmp_path):
    with job_log(tmp_path / "job.log"):
        logging.info("photograph %s", "b\udcffd.jpeg")
    assert "photograph b\\udcffd.jpeg" in (tmp_path / "job.log").read_text()


def run_job(folder, body, **options):
    """Start a process with a job that runs ``body``. The log is ``job.log`` in ``folder``."""
    code = "\n".join(
        [
            "import errno, faulthandler, logging, os, signal, sys, time",
            f"sys.path[:0] = {sys.path!r}",
            "from retinaflow.jobs.logs import PARENT, SCREEN, job_log",
            "with job_log('job.log'):",
            *(f"    {line}" for line in body.splitlines()),
        ]
    )
    return subprocess.Popen(
        [sys.executable, "-c", code], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def test_each_attempt_keeps_its_log_until_one_succeeds(tmp_path):
    """Snakemake deletes the log before another attempt."""
    log = tmp_path / "job.log"
    for attempt in (1, 2):
        with pytest.raises(SystemExit), job_log(log):
            raise RetinaflowError(f"failure {attempt}")
        log.unlink()
    with job_log(log):
        logging.info("at last")
    assert {path.name for path in tmp_path.iterdir()} == {"job.log", "job.attempt-1.log", "job.attempt-2.log"}
    for attempt in (1, 2):
        assert f"error: failure {attempt}" in (tmp_path / f"job.attempt-{attempt}.log").read_text()
    assert log.read_text().endswith("at last\n")
    assert "failure" not in log.read_text()


def test_attempts_are_kept_without_hard_links(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr("retinaflow.jobs.logs.os.link", refuse)
    log = tmp_path / "job.log"
    with pytest.raises(SystemExit), job_log(log):
        raise RetinaflowError("failure")
    assert "failure" in log.read_text()
    with job_log(log):
        logging.info("at last")
    assert not log.is_symlink()
    assert log.read_text().endswith("at last\n")
    assert "failure" in (tmp_path / "job.attempt-1.log").read_text()


@pytest.mark.parametrize(
    ("error", "message"),
    [
        ("OSError(errno.ENOSPC, 'No space left on device', 'a/b.npy')", "a/b.npy: No space left on device. Finished"),
        ("OSError(errno.EROFS, 'x', 'a')", "a: Read-only file system. Finished results are not lost: choose a"),
        ("PermissionError(errno.EACCES, 'x')", "error: Permission denied. Finished results are not lost: check"),
        ("RuntimeError(\"write failed: filename = 'a/b.h5', file descriptor = 3, errno = 28, x\")", "a/b.h5: No space"),
    ],
)
def test_refusal_of_the_system_is_one_line(tmp_path, error, message):
    body = f"try:\n    raise {error}\nexcept Exception as error:\n    raise RuntimeError('while saving') from error"
    process = run_job(tmp_path, body)
    shown = process.communicate()[1]
    assert process.returncode == 1
    assert message in shown
    assert "Traceback" not in shown
    assert "Traceback" in (tmp_path / "job.log").read_text()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_a_job_with_a_line_in_its_log(tmp_path, number):
    process = run_job(tmp_path, "try:\n    print(1, flush=True); time.sleep(60)\nfinally:\n    print('tidied')")
    process.stdout.readline()
    process.send_signal(number)
    assert process.communicate(timeout=60)[0] == "tidied\n"
    assert process.returncode == 128 + number
    assert f"ended by {number.name}; run again to resume" in (tmp_path / "job.attempt-1.log").read_text()


@pytest.mark.parametrize("crash", ["os.abort()", "faulthandler._sigsegv()"])
def test_a_crash_outside_python_leaves_a_traceback(tmp_path, crash):
    process = run_job(tmp_path, f"def inside():\n    {crash}\ninside()")
    process.communicate()
    assert process.returncode < 0
    text = (tmp_path / "job.attempt-1.log").read_text()
    assert "Fatal Python error" in text
    assert "in inside" in text


@pytest.mark.parametrize("pidfd", [True, False])
def test_job_ends_when_its_parent_is_killed(tmp_path, pidfd):
    with subprocess.Popen(["sleep", "60"]) as parent:
        body = "print(1, flush=True)\ntime.sleep(60)"
        if not pidfd:
            (tmp_path / "sitecustomize.py").write_text("import os\nif hasattr(os, 'pidfd_open'): del os.pidfd_open\n")
        environment = {**os.environ, PARENT: str(parent.pid), "PYTHONPATH": str(tmp_path)}
        process = run_job(tmp_path, body, env=environment)
        process.stdout.readline()
        assert process.poll() is None
        parent.kill()
        parent.wait()
        process.communicate(timeout=60)
    assert process.returncode == 1
    assert "the snakemake that started this job was killed" in (tmp_path / "job.attempt-1.log").read_text()


def test_job_without_a_living_parent_ends_at_once(tmp_path):
    with subprocess.Popen(["true"]) as parent:
        parent.wait()
    process = run_job(tmp_path, "time.sleep(60)", env={**os.environ, PARENT: str(parent.pid)})
    process.communicate(timeout=60)
    assert process.returncode == 1


def test_standard_error_of_other_libraries_is_only_in_the_log(tmp_path):
    job = run_job(tmp_path, "os.write(2, b'from C++\\n')\nprint('from Python', file=sys.stderr)\nlogging.info('ours')")
    shown = job.communicate(timeout=60)[1]
    assert re.fullmatch(r"\d\d:\d\d:\d\d ours\n", shown)
    text = (tmp_path / "job.log").read_text()
    assert "from C++" in text
    assert "from Python" in text
    assert "ours" in text


def test_jobs_print_nothing_if_a_screen_shows_their_progress(tmp_path):
    environment = {**os.environ, PARENT: str(os.getpid()), SCREEN: str(os.getpid())}
    job = run_job(tmp_path, "logging.warning('halved')\nraise ValueError", env=environment)
    assert job.communicate(timeout=60)[1] == ""
    assert job.returncode == 1
    assert "ValueError" in (tmp_path / "job.log").read_text()
    assert (tmp_path / "job.progress.jsonl").read_text() == '{"message": "halved"}\n'


def test_job_on_another_computer_prints_lines_and_reports_progress(tmp_path):
    job = run_job(tmp_path, "logging.warning('halved')", env={**os.environ, SCREEN: "1"})
    assert "halved" in job.communicate(timeout=60)[1]
    assert (tmp_path / "job.progress.jsonl").exists()
