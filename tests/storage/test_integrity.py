"""Records of files: damage is noticed, and each reader names the file."""

import json
import random

import numpy as np
import pytest

from retinaflow.data.frames import read_frame, write_rows
from retinaflow.errors import RetinaflowError
from retinaflow.preprocessing.shards import ROW_COLUMNS
from retinaflow.scoring.decision_rules import DecisionRule, read_decision_rule, write_decision_rule
from retinaflow.scoring.feature_files import read_features
from retinaflow.storage import integrity
from retinaflow.storage.documents import read_own
from retinaflow.storage.integrity import damage, record_of, recorded_file, verify, write_document
from retinaflow.storage.tables import read_table, write_table

RULE = DecisionRule("softmax", ["a", "b"], [0.5], 1.0, None, 1, 0.9, 0.4, 20, 10)


def write_some_features(path):
    with recorded_file(path) as part:
        np.save(part, np.ones((4, 6), np.float16))
    write_table(path.with_suffix(".csv"), ROW_COLUMNS, [{"image": str(n), "digest": ""} for n in range(4)])


# The name, the writer and the reader of each kind of file that stages pass to each other.
KINDS = {
    "table.csv": (
        lambda path: write_table(path, ["image", "grade"], [{"image": f"i{n}", "grade": 1} for n in range(20)]),
        lambda path: read_table(path, ["image"]),
    ),
    "frame.csv": (
        lambda path: write_rows(path, ["image", "grade"], [(f"i{n}", 1) for n in range(20)]),
        lambda path: read_frame(path, ["image"], types={"grade": int}),
    ),
    "decision_rule.json": (lambda path: write_decision_rule(path, RULE), read_decision_rule),
    "record.json": (lambda path: write_document(path, {"a": 1}), read_own),
    "features.npy": (write_some_features, lambda path: read_features(path, path.with_suffix(".csv"))),
}


def cut_at_a_row(content, _):
    return b"\n".join(content.splitlines()[:-5]) + b"\n"


def flipped(content, rng):
    place = rng.randrange(len(content))
    return content[:place] + bytes([content[place] ^ 1 << rng.randrange(8)]) + content[place + 1 :]


ATTACKS = {
    "empty": lambda *_: b"",
    "cut": lambda content, rng: content[: rng.randrange(len(content))],
    "cut at a row": cut_at_a_row,
    "one bit": flipped,
    "longer": lambda content, _: content + content[-3:],
    "zeros": lambda content, _: bytes(len(content)),
    "another order": lambda content, _: content[::-1],
}


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("attack", ATTACKS)
def test_damage_is_an_error_that_names_the_file(tmp_path, name, attack):
    write, read = KINDS[name]
    path, rng = tmp_path / "folder" / name, random.Random(1)  # noqa: S311
    write(path)
    read(path)
    content = path.read_bytes()
    for _ in range(5):
        path.write_bytes(ATTACKS[attack](content, rng))
        with pytest.raises(RetinaflowError, match=rf"{name}: this file is damaged .*(again|Delete)"):
            read(path)
    # The advice works.
    path.unlink()
    write(path)
    read(path)
    assert damage(path) == ""


@pytest.mark.parametrize("name", KINDS)
def test_file_of_an_earlier_version_is_read(tmp_path, name):
    write, read = KINDS[name]
    write(tmp_path / name)
    record_of(tmp_path / name).unlink()
    read(tmp_path / name)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"bytes": "x"}', "\0"])
def test_damaged_record_is_an_error(tmp_path, content):
    write_document(tmp_path / "a.json", {})
    record_of(tmp_path / "a.json").write_text(content)
    with pytest.raises(RetinaflowError, match=r"a.json: .*.a.json.digest cannot be read"):
        verify(tmp_path / "a.json")


def test_message_counts_bytes_and_rows(tmp_path):
    path = tmp_path / "raw_outputs.csv"
    write_table(path, ["image"], [{"image": n} for n in range(20)])
    path.write_bytes(cut_at_a_row(path.read_bytes(), None))
    with pytest.raises(
        RetinaflowError, match=r"it has \d+ bytes, expected the \d+ bytes and 20 rows that were written"
    ):
        read_table(path)


def test_kill_between_file_and_record_leaves_no_wrong_record(tmp_path, monkeypatch):
    write_document(tmp_path / "a.json", {"a": 1})

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(json, "dumps", lambda *_, **__: "2")
    with recorded_file(tmp_path / "a.json") as part:
        part.write_text("2")
        monkeypatch.setattr(json, "dumps", killed)
        with pytest.raises(KeyboardInterrupt), recorded_file(tmp_path / "b.json") as other:
            other.write_text("3")
        monkeypatch.undo()
    assert (tmp_path / "b.json").read_text() == "3"
    verify(tmp_path / "b.json")
    verify(tmp_path / "a.json")


def test_file_that_a_job_replaces_meanwhile_is_no_damage(tmp_path, monkeypatch):
    path = tmp_path / "a.json"
    write_document(path, {"a": 1})
    read = integrity.content_of

    def replaced_first(name):
        monkeypatch.undo()
        write_document(path, {"a": 2, "b": 3})
        return read(name)

    monkeypatch.setattr(integrity, "content_of", replaced_first)
    assert damage(path) == ""
