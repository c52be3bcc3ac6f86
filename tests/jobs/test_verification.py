"""`retinaflow verify` finds each damaged file of a results folder, and removes what the next run must make again."""

import json
import os
import shutil

import numpy as np
import pytest

from retinaflow.cli import main
from retinaflow.errors import RetinaflowError
from retinaflow.jobs.verification import remove_damaged, verify_results
from retinaflow.preprocessing.shards import CHECKSUM_COLUMN, ROW_COLUMNS, checksum, shard_rows
from retinaflow.storage.file_cache import FileCache
from retinaflow.storage.files import digest_files
from retinaflow.storage.integrity import check_documents, record_of, write_document
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


@pytest.fixture
def unrecorded(results):
    """Return scores and an index without records, as of version 0.1.0; two images refit the model."""
    write_table(results / "organized/test/index.csv", ["image"], [{"image": n} for n in range(9)])
    scores = results / "scores/VGG16/test"
    write_table(scores / "predictions.csv", ["image"], [{"image": n} for n in range(7)])
    write_document(scores / "metrics.json", {"images": 7, "recalibration": {"images": 2}})
    for table in (*scores.glob("*.*"), results / "organized/test/index.csv"):
        record_of(table).unlink(missing_ok=True)
    return results


UNRECORDED = ["scores/VGG16/test/predictions.csv", "scores/VGG16/test/raw_outputs.csv", "organized/test/index.csv"]


def test_whole_results_without_records_are_verified(unrecorded):
    assert verify_results(unrecorded) == (10, [])


@pytest.mark.parametrize("name", UNRECORDED)
def test_table_without_record_that_lost_a_row_is_found(unrecorded, name, capsys):
    table = unrecorded / name
    content, state = table.read_text(), table.stat()
    table.write_text(content[: content[:-1].rindex("\n") + 1])
    os.utime(table, ns=(state.st_atime_ns, state.st_mtime_ns - 10**9))
    (found,) = verify_results(unrecorded).damaged
    rows = len(content.splitlines()) - 1
    assert found.path == table
    assert found.fault.startswith(f"it has {rows - 1} rows, expected {rows}, one for each image of ")
    assert main(["verify", str(unrecorded), "--remove"]) == 0
    assert name in capsys.readouterr().out
    assert not table.exists()


def test_metrics_without_record_that_were_cut_are_found(unrecorded):
    metrics = unrecorded / "scores/VGG16/test/metrics.json"
    metrics.write_text(metrics.read_text()[:9])
    (found,) = verify_results(unrecorded).damaged
    assert found.path == metrics
    assert "not valid JSON" in found.fault


def test_index_of_a_run_that_was_stopped_before_the_grading_is_no_damage(unrecorded):
    index = unrecorded / "organized/test/index.csv"
    index.write_text("image\n1\n")
    os.utime(index, (2e9, 2e9))
    assert verify_results(unrecorded).damaged == []


def test_scores_of_a_model_of_former_images_are_no_damage(unrecorded):
    former = unrecorded / "scores/A/test/metrics.json"
    write_document(former, {"images": 5})
    assert verify_results(unrecorded).damaged == []
    index = unrecorded / "organized/test/index.csv"
    index.write_text("image\n1\n")
    os.utime(index, (1e9, 1e9))
    (found,) = verify_results(unrecorded).damaged
    assert found.path == index
