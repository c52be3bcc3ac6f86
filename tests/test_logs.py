import logging
import re
from collections.abc import Iterator

import pytest

from retinaflow.errors import RetinaflowError
from retinaflow.logs import job_log


@pytest.fixture(autouse=True)
def _handlers() -> Iterator[None]:
    """A job has its process, and the root logger in it, to itself; the tests share theirs."""
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


def test_what_the_user_can_mend_is_a_message_on_the_terminal_and_a_traceback_in_the_file(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped, job_log(tmp_path / "job.log"):
        raise RetinaflowError("labels.csv: row 3 is wrong. Correct it.")
    assert stopped.value.code == 1
    shown = capsys.readouterr().err
    assert re.fullmatch(r"\d\d:\d\d:\d\d error: labels\.csv: row 3 is wrong\. Correct it\.\n", shown)
    text = (tmp_path / "job.log").read_text()
    assert text.startswith(shown)
    assert "Traceback" in text
    assert "test_logs.py" in text


def test_what_only_we_can_mend_is_a_traceback_everywhere(tmp_path, capsys):
    with pytest.raises(SystemExit) as stopped, job_log(tmp_path / "job.log"):
        [].pop()
    assert stopped.value.code == 1
    text = (tmp_path / "job.log").read_text()
    assert "unexpected error" in text
    assert "IndexError: pop from empty list" in text
    assert capsys.readouterr().err == text


def test_an_interrupt_passes_through(tmp_path):
    with pytest.raises(KeyboardInterrupt), job_log(tmp_path / "job.log"):
        raise KeyboardInterrupt


def test_a_log_begins_anew(tmp_path):
    for line in ("first", "second"):
        with job_log(tmp_path / "job.log"):
            logging.info(line)
    assert (tmp_path / "job.log").read_text().endswith("second\n")
    assert "first" not in (tmp_path / "job.log").read_text()


def test_names_that_are_not_unicode_do_not_end_a_job(tmp_path):
    with job_log(tmp_path / "job.log"):
        logging.info("photograph %s", "b\udcffd.jpeg")
    assert "photograph b\\udcffd.jpeg" in (tmp_path / "job.log").read_text()
