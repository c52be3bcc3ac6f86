"""`retinaflow verify` finds each damaged file of a results folder, and removes what the next run must make again."""

import json
import shutil

import numpy as np
import pytest

from retinaflow.cli import main
from retinaflow.errors import RetinaflowError
from retinaflow.jobs.verification import remove_damaged, verify_results
from retinaflow.preprocessing.shards import CHECKSUM_COLUMN, ROW_COLUMNS, checksum, shard_rows
from retinaflow.storage.file_cache import FileCache
from retinaflow.storage.files import digest_files
from retinaflow.storage.integrity import check_documents, write_document
from retinaflow.storage.tables import write_table


@pytest.fixture
def results(tmp_path):
    folder = tmp_path / "results"
    write_table(folder / "inventory/train.csv", ["image"], [{"image": n} for n in range(9)])
    write_table(folder / "organized/train/index.csv", ["image"], [{"image": n} for n in range(9)])
    write_document(folder / "models/VGG16/decision_rule.json", {"thresholds": [0.5]})
    write_table(folder / "scores/VGG16/test/raw_outputs.csv", ["image"], [{"image": n} for n in range(9)])
    pixels = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 3), dtype=np.uint8)
    shard = folder / "shards/4-none-keep-none/train/0.npy"
    shard.parent.mkdir(parents=True)
    np.save(shard, pixels)
    rows = shard_rows([(f"i{n}", "d") for n in range(3)], list(map(checksum, pixels)))
    write_table(shard.with_suffix(".csv"), (*ROW_COLUMNS, CHECKSUM_COLUMN), rows)
    weights = folder / "checkpoints/VGG16/epoch-1.weights.h5"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"weights")
    state = {"key": "k", "files": {weights.name: digest_files([weights])}}
    weights.with_name("state.json").write_text(json.dumps(state))
    FileCache(folder / "models/.cache").keep("k", {"model": weights})
    shutil.rmtree(folder / "logs", ignore_errors=True)
    return folder


def damaged(path):
    """Flip a bit in the last byte."""
    content = path.read_bytes()
    path.write_bytes(content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])


FILES = [
    "inventory/train.csv",
    "organized/train/index.csv",
    "models/VGG16/decision_rule.json",
    "scores/VGG16/test/raw_outputs.csv",
    "shards/4-none-keep-none/train/0.npy",
    "shards/4-none-keep-none/train/0.csv",
]


def test_results_without_damage(results, capsys):
    assert verify_results(results) == (8, [])
    assert main(["verify", str(results)]) == 0
    assert capsys.readouterr().out == "8 files verified, 0 damaged.\n"


@pytest.mark.parametrize("name", FILES)
def test_damaged_file_is_found_and_removed(results, name, capsys):
    damaged(results / name)
    found = verify_results(results)
    assert results / name in [each.path for each in found.damaged]
    assert main(["verify", str(results)]) == 1
    assert name in capsys.readouterr().out
    assert main(["verify", str(results), "--remove"]) == 0
    assert not (results / name).exists()
    assert verify_results(results).damaged == []


def test_both_files_of_a_shard_are_removed(results):
    shard = results / "shards/4-none-keep-none/train/0.npy"
    damaged(shard)
    (found,) = verify_results(results).damaged
    assert found.fault == "the pixels of 1 images differ from their checksums, first 'i2'"
    remove_damaged([found])
    assert not shard.exists()
    assert not shard.with_suffix(".csv").exists()


def test_damaged_checkpoint_and_cache_are_found(results):
    (results / "checkpoints/VGG16/epoch-1.weights.h5").unlink()
    (results / "checkpoints/VGG16/epoch-1.weights.h5").write_bytes(b"weighty")
    cached = results / "models/.cache/k/model"
    cached.write_bytes(b"")
    found = verify_results(results).damaged
    assert {each.path.relative_to(results).as_posix() for each in found} == {
        "checkpoints/VGG16/state.json",
        "models/.cache/k/content.json",
    }
    remove_damaged(found)
    assert FileCache(results / "models/.cache").find("k") is None


def test_missing_folder_is_an_error(tmp_path, capsys):
    with pytest.raises(RetinaflowError, match="no such folder"):
        verify_results(tmp_path / "none")
    assert main(["verify", str(tmp_path / "none")]) == 1
    assert "no such folder" in capsys.readouterr().err


def test_start_of_a_run_lists_damaged_documents(results):
    paths = [str(results / name) for name in (*FILES, "missing.json")]
    check_documents(paths)
    for name in FILES[:3]:
        damaged(results / name)
    with pytest.raises(RetinaflowError) as error:
        check_documents(paths)
    assert [name in str(error.value) for name in FILES] == [True] * 3 + [False] * 3
    check_documents(paths, largest=3)
