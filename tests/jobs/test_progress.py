import json
import logging

import pytest

from retinaflow.jobs import progress


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture
def writer(tmp_path):
    writer = progress.start(tmp_path / "job.log")
    yield writer
    progress.stop(writer)


def report(**state):
    logging.getLogger(progress.LOGGER).debug("", extra={"progress": state})


def test_steps_are_lines_beside_the_log(tmp_path, writer):
    report(step="epoch 1/2", left=10.5)
    report(step="epoch 1/2", left=10.4)  # within a second
    report(step="epoch 2/2", left=5.0)
    assert writer.path == tmp_path / "job.progress.jsonl"
    assert lines(writer.path) == [{"step": "epoch 1/2", "left": 10.5}, {"step": "epoch 2/2", "left": 5.0}]


def test_warnings_and_lines_for_the_screen_are_messages(writer):
    log = logging.Logger("anything")
    log.addHandler(writer)
    log.info("not this")
    log.info("but %s", "this", extra={"screen": True})
    log.warning("out of memory")
    log.error("the log has it")
    assert lines(writer.path) == [{"message": "but this"}, {"message": "out of memory"}]


def test_the_file_has_a_bound(writer, monkeypatch):
    monkeypatch.setattr(progress, "_LARGEST", 1000)
    for number in range(500):
        report(step=f"epoch {number}/500")
    assert writer.path.stat().st_size <= 1000
    assert lines(writer.path)[-1] == {"step": "epoch 499/500"}


def test_read_only_folder_does_not_end_a_job(tmp_path):
    assert progress.start(tmp_path / "absent/job.log") is None
    progress.stop(None)
