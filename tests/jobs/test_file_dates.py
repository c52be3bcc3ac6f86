import os
import time
from pathlib import Path

import pytest

from retinaflow.jobs.file_dates import STAMP, date_at_present

HOUR = 3600


@pytest.fixture
def dated(tmp_path):
    """Return a function that makes a file with a date relative to the present, and returns its path."""

    def make(name, seconds):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.utime(path, (time.time() + seconds, time.time() + seconds))
        return str(path)

    return make


def date(path):
    return os.lstat(path).st_mtime


def test_only_results_that_are_dated_ahead_change(tmp_path, dated):
    ahead, past = dated("results/ahead", HOUR), dated("results/past", -HOUR)
    other, beside = dated("labels.csv", HOUR), dated("results of others/a", HOUR)
    before = {path: date(path) for path in (past, other, beside)}
    date_at_present([ahead, past, other, beside, f"{tmp_path}/results/none"], [], f"{tmp_path}/results")
    assert date(ahead) <= time.time()
    assert {path: date(path) for path in before} == before


def test_former_output_stays_older_than_changed_input(tmp_path, dated):
    changed, former, last = (dated(f"results/{name}", HOUR + s) for s, name in enumerate(("changed", "former", "last")))
    date_at_present([changed, former], [former, last], f"{tmp_path}/results")
    assert date(former) < date(changed)
    assert date(last) < date(changed)


def test_link_is_dated_and_not_its_target(tmp_path, dated):
    target = dated("elsewhere/image", HOUR)
    before = date(target)
    link = tmp_path / "results/image"
    link.parent.mkdir()
    link.symlink_to(target)
    os.utime(link, (before, before), follow_symlinks=False)
    date_at_present([str(link)], [], f"{tmp_path}/results")
    assert date(link) <= time.time()
    assert date(target) == before


def test_folder_is_dated_by_its_stamp(tmp_path, dated):
    stamp = dated(f"results/unpacked/train/{STAMP}", HOUR)
    date_at_present([str(Path(stamp).parent)], [], f"{tmp_path}/results")
    assert date(stamp) <= time.time()
