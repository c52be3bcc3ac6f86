"""Shards: a stable shard for each image, and errors for damaged files."""

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fuzz import mutated
from retinaflow.errors import RetinaflowError
from retinaflow.preprocessing.shards import ROW_COLUMNS, read_shard, shard_of
from retinaflow.storage.tables import write_table

NAMES = [f"{patient}_{eye}" for patient in range(2000) for eye in ("left", "right")]


def write_shard(folder: Path, names: list[str], size: int = 4) -> tuple[Path, Path]:
    pixels, rows = folder / "0.npy", folder / "0.csv"
    values = np.random.default_rng(len(names)).integers(0, 256, (len(names), size, size, 3), dtype=np.uint8)
    np.save(pixels, values, allow_pickle=False)
    write_table(rows, ROW_COLUMNS, [{"image": name, "digest": "d"} for name in names])
    return pixels, rows


def test_shard_of_an_image_never_changes() -> None:
    assert [shard_of(name, 7) for name in ("10_left", "10_right", "é ü", "\udcff")] == [5, 1, 2, 6]


@given(st.text(), st.integers(1, 300))
def test_images_stay_or_move_to_the_new_shard(image: str, shards: int) -> None:
    before, after = shard_of(image, shards), shard_of(image, shards + 1)
    assert 0 <= before < shards
    assert after in (before, shards)


@pytest.mark.parametrize("shards", [2, 7, 32])
def test_shards_are_balanced_and_few_images_move(shards: int) -> None:
    counts = Counter(shard_of(name, shards) for name in NAMES)
    expected = len(NAMES) / shards
    assert len(counts) == shards
    assert all(abs(count - expected) < 5 * expected**0.5 for count in counts.values())
    moved = sum(shard_of(name, shards) != shard_of(name, shards + 1) for name in NAMES)
    assert abs(moved - len(NAMES) / (shards + 1)) < 5 * expected**0.5


@pytest.mark.parametrize("count", [0, 1, 3])
def test_written_shard_is_read_again(tmp_path: Path, count: int) -> None:
    names = [f"image, {number}" for number in range(count)]
    pixels, rows = write_shard(tmp_path, names)
    array, found = read_shard(pixels, rows)
    assert found == names
    assert array.dtype == np.uint8
    assert np.array_equal(array, np.load(pixels))
    assert not array.flags.writeable
    assert isinstance(array, np.memmap)


@pytest.mark.parametrize(
    "wrong",
    [
        np.zeros((2, 4, 4, 3), np.float32),
        np.zeros((2, 4, 4), np.uint8),
        np.zeros((2, 4, 4, 1), np.uint8),
        np.zeros((2, 4, 5, 3), np.uint8),
        np.zeros((2, 4, 4, 3), np.uint8, order="F"),
    ],
    ids=["dtype", "dimensions", "channels", "not square", "order"],
)
def test_other_arrays_are_an_error(tmp_path: Path, wrong: np.ndarray) -> None:
    pixels, rows = write_shard(tmp_path, ["a", "b"])
    np.save(pixels, wrong)
    with pytest.raises(RetinaflowError, match=r"0\.npy: found .*expected uint8.*Delete"):
        read_shard(pixels, rows)


def test_pickled_arrays_are_never_loaded(tmp_path: Path) -> None:
    pixels, rows = write_shard(tmp_path, ["a"])
    np.save(pixels, np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(RetinaflowError, match=r"0\.npy.*Delete"):
        read_shard(pixels, rows)
    with open(pixels, "wb") as file:
        np.savez(file, pixels=np.zeros((1, 4, 4, 3), np.uint8))
    with pytest.raises(RetinaflowError, match=r"0\.npy: found an archive.*Delete"):
        read_shard(pixels, rows)


def test_pixels_and_rows_of_different_shards_are_an_error(tmp_path: Path) -> None:
    pixels, rows = write_shard(tmp_path, ["a", "b"])
    write_table(rows, ROW_COLUMNS, [{"image": "a", "digest": "d"}])
    with pytest.raises(RetinaflowError, match=r"0\.npy: found 2 images, but 1 rows in .*0\.csv.*Delete both"):
        read_shard(pixels, rows)


@pytest.mark.parametrize("name", ["0.npy", "0.csv"])
def test_missing_or_empty_file_is_an_error(tmp_path: Path, name: str) -> None:
    pixels, rows = write_shard(tmp_path, ["a"])
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(RetinaflowError, match=rf"{name}: .*Delete"):
        read_shard(pixels, rows)
    (tmp_path / name).unlink()
    with pytest.raises(RetinaflowError, match=rf"{name}: .*Delete"):
        read_shard(pixels, rows)


@pytest.mark.parametrize("change", [-1, 1, 48])
def test_header_and_size_must_agree(tmp_path: Path, change: int) -> None:
    pixels, rows = write_shard(tmp_path, ["a", "b"])
    os.truncate(pixels, pixels.stat().st_size + change)
    with pytest.raises(RetinaflowError, match=r"0\.npy: .*Delete"):
        read_shard(pixels, rows)


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")  # inside NumPy
def test_header_of_a_huge_array_needs_no_memory(tmp_path: Path) -> None:
    pixels, rows = write_shard(tmp_path, ["a"])
    for shape in ((2**40, 4, 4, 3), (1, 2**20, 2**20, 3), (-1, 4, 4, 3), (2**62, 2**62, 4, 3)):
        with open(pixels, "wb") as file:
            np.lib.format.write_array_header_1_0(file, {"descr": "|u1", "fortran_order": False, "shape": shape})
        with pytest.raises(RetinaflowError, match=r"0\.npy: .*Delete"):
            read_shard(pixels, rows)


@settings(deadline=None)
@given(st.data())
def test_damaged_shard_is_an_error_or_whole(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    folder = tmp_path_factory.mktemp("damaged")
    pixels, rows = write_shard(folder, ["a", "b"])
    path = data.draw(st.sampled_from([pixels, rows]))
    path.write_bytes(data.draw(mutated([path.read_bytes()], header=140)))
    try:
        array, names = read_shard(pixels, rows)
    except RetinaflowError as error:
        assert path.name in str(error)  # noqa: PT017
    else:
        assert array.shape == (len(names), 4, 4, 3)
        assert array.dtype == np.uint8
