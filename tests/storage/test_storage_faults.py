"""Each writer on a disk that fails at every place: an error of the system, no partial file, the same result afterwards.

A limit on the size of files fails a write at any byte, also within libraries, as a full disk does.
"""

import errno
import os
import random
from collections.abc import Callable
from pathlib import Path

import keras
import numpy as np
import pytest

from faults import full_at, partial
from retinaflow.data.frames import write_rows
from retinaflow.jobs.logs import job_log
from retinaflow.reporting.figures import confusion_matrix_figure
from retinaflow.reporting.pages import write_page
from retinaflow.scoring.decision_rules import DecisionRule, write_decision_rule
from retinaflow.storage import files
from retinaflow.storage.files import whole_file, write_json
from retinaflow.storage.integrity import recorded_file, verify, write_document
from retinaflow.storage.tables import write_table
from retinaflow.training.checkpoints import Checkpoint, write_array

ROWS = [{"image": f"image {n}", "grade": n % 5} for n in range(400)]
RULE = DecisionRule("softmax", ["a", "b"], [0.5], 1.0, None, 1, 0.9, 0.4, 20, 10)


def write_numbers(path: Path) -> None:
    with recorded_file(path) as part:
        write_array(part, np.arange(4000, dtype=np.float32))


def write_archive(path: Path) -> None:
    with whole_file(path) as part:
        np.savez(part, weights=np.arange(4000, dtype=np.float32))


WRITERS: dict[str, Callable[[Path], object]] = {
    "table.csv": lambda path: write_table(path, ["image", "grade"], ROWS),
    "frame.csv": lambda path: write_rows(path, ["image", "grade"], ROWS),
    "document.json": lambda path: write_document(path, ROWS),
    "state.json": lambda path: write_json(path, ROWS),
    "decision_rule.json": lambda path: write_decision_rule(path, RULE),
    "features.npy": write_numbers,
    "linear.npz": write_archive,
    "page.html": lambda path: write_page(path, "title", "text " * 2000),
    "figure.png": lambda path: confusion_matrix_figure(path, np.eye(2, dtype=int), ["a", "b"], "title"),
}


@pytest.mark.parametrize("name", WRITERS)
def test_disk_that_fills_at_any_byte(tmp_path, name):
    write, rng = WRITERS[name], random.Random(name)  # noqa: S311
    write(tmp_path / "expected" / name)
    expected = (tmp_path / "expected" / name).read_bytes()
    path = tmp_path / "made" / name
    for size in (0, 1, *(rng.randrange(len(expected)) for _ in range(4)), len(expected) - 1):
        for old in (None, b"old"):
            for stale in path.parent.glob("*" if path.parent.exists() else "none"):
                stale.unlink()
            for stale in path.parent.glob(".*" if path.parent.exists() else "none"):
                stale.unlink()
            path.parent.mkdir(exist_ok=True)
            if old:
                path.write_bytes(old)
            with full_at(size), pytest.raises(OSError, match=r"File too large|write"):
                write(path)
            assert partial(tmp_path) == []
            assert (path.read_bytes() if path.exists() else None) == old
            verify(path)
    write(path)
    assert path.read_bytes() == expected
    verify(path)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT])
@pytest.mark.parametrize("name", WRITERS)
def test_each_step_of_a_writer_fails_in_turn(tmp_path, monkeypatch, name, number):
    """The steps are moves of finished files and of their records."""
    write, path = WRITERS[name], tmp_path / "made" / name
    replace, failures = os.replace, 0
    for failing in range(3):
        calls = iter(range(10))

        def fail(source, target, failing=failing, calls=calls):
            if next(calls) == failing:
                raise OSError(number, os.strerror(number), str(target))
            replace(source, target)

        monkeypatch.setattr(files.os, "replace", fail)
        try:
            write(path)
        except OSError as error:
            assert error.errno == number  # noqa: PT017
            failures += 1
        monkeypatch.undo()
        assert partial(tmp_path) == []
        verify(path)
    assert failures >= 1
    write(path)
    verify(path)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS, errno.EDQUOT, errno.EFBIG])
def test_job_names_file_and_cure(tmp_path, capfd, number):
    with pytest.raises(SystemExit), job_log(tmp_path / "job.log"):
        raise OSError(number, os.strerror(number), "results/a.csv")
    assert f"results/a.csv: {os.strerror(number)}. Finished results are not lost: " in capfd.readouterr().err


def small_model() -> keras.Model:
    keras.utils.set_random_seed(1)
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    model.compile("sgd", "mse")
    return model


@pytest.mark.parametrize("written", [0, 1, 1000, 5000])
def test_checkpoint_on_a_full_disk_keeps_the_last_epoch(tmp_path, written):
    """HDF5 itself would end the process without a message."""
    model, checkpoint = small_model(), Checkpoint(tmp_path / "run", "key")
    checkpoint.restart(8)
    checkpoint.save(model, [{"epoch": 1}], 1, finished=False)
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()}

    with full_at(written), pytest.raises(OSError, match="File too large"):
        checkpoint.save(model, [{"epoch": 1}, {"epoch": 2}], 2, finished=False)
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").iterdir()} == before
    again = Checkpoint(tmp_path / "run", "key")
    assert again.rows == [{"epoch": 1}]
    again.save(model, [{"epoch": 1}, {"epoch": 2}], 2, finished=True)
    again.load(small_model(), 2)
    assert partial(tmp_path) == []


def test_array_of_a_checkpoint_is_that_of_numpy(tmp_path):
    for values in (np.arange(12, dtype=np.float16).reshape(3, 4).T, np.zeros((0, 3), np.float32), np.float64(2)):
        write_array(tmp_path / "a.npy", np.asarray(values))
        assert np.array_equal(np.load(tmp_path / "a.npy", allow_pickle=False), values)
