import json

import pytest

from retinaflow.storage.files import digest, digest_files, whole_file, write_json


def test_nothing_under_the_final_name_before_the_end(tmp_path):
    target = tmp_path / "new" / "table.csv"
    with whole_file(target) as part:
        part.write_text("half")
        assert not target.exists()
        assert part.suffix == target.suffix
    assert target.read_text() == "half"
    assert list(target.parent.iterdir()) == [target]


def test_an_error_leaves_the_old_file_and_no_debris(tmp_path):
    target = tmp_path / "table.csv"
    target.write_text("old")

    def fail():
        with whole_file(target) as part:
            part.write_text("half")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


def test_file_of_a_killed_job_is_overwritten(tmp_path):
    (tmp_path / ".part-table.csv").write_text("left behind, and longer")
    with whole_file(tmp_path / "table.csv") as part:
        assert not part.exists()
        part.write_text("new")
    assert (tmp_path / "table.csv").read_text() == "new"


def test_json_without_nan(tmp_path):
    write_json(tmp_path / "a.json", {"kappa": None, "name": "rétine"})
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"kappa": None, "name": "rétine"}
    with pytest.raises(ValueError, match="not JSON compliant"):
        write_json(tmp_path / "b.json", {"kappa": float("nan")})
    assert not (tmp_path / "b.json").exists()


def test_digests_tell_contents_apart(tmp_path):
    (tmp_path / "a").write_bytes(b"one")
    (tmp_path / "b").write_bytes(b"two")
    assert len(digest(b"one")) == 32
    assert digest(b"one") != digest(b"two")
    ab = digest_files([tmp_path / "a", tmp_path / "b"])
    assert ab != digest_files([tmp_path / "b", tmp_path / "a"])
    (tmp_path / "b").write_bytes(b"2")
    assert ab != digest_files([tmp_path / "a", tmp_path / "b"])
