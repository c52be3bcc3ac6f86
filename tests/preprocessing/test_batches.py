"""Batches of images: labels, order, augmentation, mixing, and damaged shards."""

import errno
import os
import re
import subprocess
import sys
from unittest.mock import Mock

import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common import CLASSES
from fuzz import mutated
from retinaflow.errors import RetinaflowError
from retinaflow.preprocessing.batches import Batches, Images
from retinaflow.preprocessing.shards import CHECKSUM_COLUMN, ROW_COLUMNS, checksum, open_shard, shard_rows
from retinaflow.settings.augment import AugmentSettings
from retinaflow.storage.integrity import record_of
from retinaflow.storage.tables import write_table


def numbered(count, size=8):
    """Return images that have their number in every pixel."""
    return np.broadcast_to(np.arange(count, dtype=np.uint8)[:, None, None, None], (count, size, size, 3)).copy()


@pytest.fixture
def images(make_part):
    return Images(*make_part("train", numbered(10), [n % 5 for n in range(10)]), CLASSES)


def epoch(batches):
    return [batches[number] for number in range(batches.num_batches)]


def test_labels_and_pixels_are_joined_by_name(images):
    assert images.names == [f"train{n}_left" for n in range(10)]
    assert images.filenames[3] == "train3_left.jpeg"
    assert images.grades.tolist() == [0, 1, 2, 3, 4] * 2
    assert [images[n][0, 0, 0] for n in range(10)] == list(range(10))


@pytest.mark.parametrize("settings", [{}, {"seed": 1}, {"seed": 1, "augment": AugmentSettings()}])
def test_batches_do_not_depend_on_the_number_of_shards(make_part, settings):
    def batches(shards):
        return epoch(Batches(Images(*make_part("a", numbered(7), [0, 1] * 3 + [2], shards), CLASSES), 3, **settings))

    for (pixels, grades), (others, other_grades) in zip(batches(1), batches(3), strict=True):
        assert np.array_equal(pixels, others)
        assert np.array_equal(grades, other_grades)


@given(st.integers(1, 60), st.integers(1, 10), st.integers(1, 8))
def test_each_device_gets_some_of_each_batch(count, share, devices):
    """TensorFlow cuts batches into equal parts. Only the last part may be smaller."""
    few = Mock(spec=Images, __len__=lambda _: count, names=[str(number) for number in range(count)])
    if count <= (devices - 1) * -(-count // devices):
        with pytest.raises(RetinaflowError, match=f"gpus: {devices}, but {count} images cannot be divided"):
            Batches(few, count, devices=devices)
        return
    batches = Batches(few, share * devices, devices=devices)
    sizes = [len(batches.order[batches._places(number)]) for number in range(batches.num_batches)]
    assert sum(sizes) == count
    assert all(size > (devices - 1) * -(-size // devices) for size in sizes)
    assert all(size == share * devices for size in sizes[:-1])
    if devices == 1:
        assert sizes[-1] <= share


def test_images_of_several_splits_are_joined(make_part):
    first, second = make_part("a", numbered(4), [0] * 4), make_part("b", numbered(4), [1] * 4)
    both = Images(first[0] + second[0], first[1] + second[1], CLASSES)
    assert len(both) == 8
    assert both.grades.tolist() == [0] * 4 + [1] * 4


def test_rows_missing_from_the_index_are_ignored(make_part):
    indices, shards = make_part("a", numbered(4), [0] * 4)
    lines = indices[0].read_text().splitlines(keepends=True)
    indices[0].write_text("".join(lines[:-1]))
    record_of(indices[0]).unlink()
    assert Images(indices, shards, CLASSES).names == ["a0_left", "a1_left", "a2_left"]


@pytest.mark.parametrize("settings", [{}, {"seed": 1}, {"seed": 1, "augment": AugmentSettings()}])
def test_shortened_shard_is_an_error(make_part, settings):
    indices, shards = make_part("a", numbered(4), [0] * 4, shards=1)
    batches = Batches(Images(indices, shards, CLASSES), 4, **settings)
    os.truncate(shards[0][0], shards[0][0].stat().st_size - 1)
    with pytest.raises(RetinaflowError, match=r"0\.npy: became shorter while it was read"):
        batches[0]


@pytest.mark.parametrize("settings", [{}, {"seed": 1, "augment": AugmentSettings()}])
def test_partial_reads_are_completed(images, monkeypatch, settings):
    expected = epoch(Batches(images, 4, **settings))
    whole = os.preadv
    monkeypatch.setattr(os, "preadv", lambda file, buffers, offset: whole(file, [buffers[0][:50]], offset))
    for (pixels, _), (others, _) in zip(expected, epoch(Batches(images, 4, **settings)), strict=True):
        assert np.array_equal(pixels, others)


def test_unreadable_shard_is_an_error(images, monkeypatch):
    monkeypatch.setattr(os, "preadv", Mock(side_effect=OSError(errno.EIO, "Input/output error")))
    with pytest.raises(RetinaflowError, match=r"\.npy: cannot be read \(Input/output error\)"):
        images[0]


def test_shards_of_two_sizes_are_an_error(make_part):
    first, second = make_part("a", numbered(4), [0] * 4), make_part("b", numbered(4, size=9), [1] * 4)
    with pytest.raises(RetinaflowError, match=r"0\.npy: images of 9 px, expected 8"):
        Images(first[0] + second[0], first[1] + second[1], CLASSES)


# A new process runs it, since the upper limit can only be lowered.
FEW_OPEN_FILES = """
import resource, sys
from pathlib import Path
from retinaflow.errors import RetinaflowError
from retinaflow.preprocessing.batches import Images

index, *files = map(Path, sys.argv[1:])
for limits in ((64, 300), (64, 128)):
    resource.setrlimit(resource.RLIMIT_NOFILE, limits)
    try:
        print(len(Images([index], list(zip(files[::2], files[1::2])), CLASSES)))
    except RetinaflowError as error:
        print(error)
"""


def test_too_many_shards_for_open_files_is_an_error(make_part):
    """The limit is raised to that of the system, and more shards are an error."""
    (index,), shards = make_part("a", numbered(200), [0] * 200, shards=200)
    result = subprocess.run(
        [
            sys.executable,
            "-c",
            f"CLASSES = {CLASSES}\n{FEW_OPEN_FILES}",
            index,
            *(file for pair in shards for file in pair),
        ],
        capture_output=True,
        text=True,
        check=True,
    )
    opened, message = result.stdout.splitlines()
    assert opened == "200"
    assert re.search(r"\d+\.npy: one of 200 shards, and this process may have 128 files open at most", message)


def test_shuffle_is_uniform_over_shards(make_part):
    """Each image is equally likely at each place of an epoch, for all shards."""
    count, epochs = 20, 2000
    batches = Batches(Images(*make_part("a", numbered(count), [0] * count, shards=4), CLASSES), 4, seed=1)
    seen = np.zeros((count, count))  # image, place
    for number in range(epochs):
        batches.start_epoch(number)
        order = np.concatenate([pixels[:, 0, 0, 0] for pixels, _ in epoch(batches)])
        seen[order, np.arange(count)] += 1
    surplus = ((seen - epochs / count) ** 2 / (epochs / count)).sum()
    degrees = (count - 1) ** 2
    assert abs(surplus - degrees) < 5 * (2 * degrees) ** 0.5


def test_systems_without_file_advice_have_the_same_batches(images, monkeypatch):
    with_advice = epoch(Batches(images, 4, seed=1))
    monkeypatch.delattr(os, "posix_fadvise", raising=False)
    for (pixels, _), (others, _) in zip(with_advice, epoch(Batches(images, 4, seed=1)), strict=True):
        assert np.array_equal(pixels, others)


def test_image_without_pixels_is_an_error(make_part):
    indices, shards = make_part("a", numbered(4), [0] * 4)
    with pytest.raises(RetinaflowError, match=r"2 images of .*index\.csv are in no shard, first 'a1_left'"):
        Images(indices, shards[:1], CLASSES)


def test_unknown_grade_name_is_an_error(make_part):
    indices, shards = make_part("a", numbered(4), [0, 0, 0, 4])
    with pytest.raises(RetinaflowError, match="grade '4' is none of 0, 1"):
        Images(indices, shards, CLASSES[:2])


def test_empty_split_is_an_error(make_part):
    with pytest.raises(RetinaflowError, match="no image listed"):
        Images(*make_part("a", numbered(0), []), CLASSES)


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_damaged_files_are_refused_or_fully_readable(make_part, data):
    indices, shards = make_part("a", numbered(4), [0, 1, 2, 3])  # the same files again
    path = data.draw(st.sampled_from([*indices, *shards[0], *shards[1]]))
    path.write_bytes(data.draw(mutated([path.read_bytes()], header=200)))
    try:
        images = Images(indices, shards, CLASSES)
        read = [images[number] for number in range(len(images))]
    except RetinaflowError as error:
        assert str(path.parent) in str(error)  # noqa: PT017
    else:
        assert len(read) == len(images.grades) == len(images.filenames) > 0
        assert {pixels.shape for pixels in read} == {(8, 8, 3)}


def test_each_image_occurs_once_an_epoch(images):
    batches = Batches(images, 4, seed=1)
    assert batches.num_batches == 3
    seen = [pixels[:, 0, 0, 0] for pixels, _ in epoch(batches)]
    assert [len(batch) for batch in seen] == [4, 4, 2]
    assert sorted(np.concatenate(seen)) == list(range(10))
    for pixels, grades in epoch(batches):
        assert pixels.dtype == np.uint8
        assert (pixels[:, 0, 0, 0] % 5 == grades).all()


@pytest.mark.parametrize("seed", [None, 1])
def test_targets_and_weights_belong_to_their_images(images, seed):
    numbers = np.arange(10, dtype=np.float32)
    batches = Batches(images, 4, seed=seed, targets=numbers[:, None] * [1, 2], weights=-numbers)
    for pixels, targets, weights in epoch(batches):
        shown = pixels[:, 0, 0, 0].astype(np.float32)
        assert np.array_equal(targets, shown[:, None] * [1, 2])
        assert np.array_equal(weights, -shown)
    assert len(Batches(images, 4, targets=numbers[:, None])[0]) == 2


def test_images_without_a_seed_are_in_order(images):
    pixels = np.concatenate([pixels for pixels, _ in epoch(Batches(images, 4))])
    assert np.array_equal(pixels, numbered(10))


def test_order_differs_between_epochs_and_follows_the_seed(images):
    def orders(seed):
        batches = Batches(images, 10, seed=seed)
        found = []
        for number in range(3):
            batches.start_epoch(number)
            found.append(batches[0][0][:, 0, 0, 0].tolist())
        return found

    assert orders(1) == orders(1)
    assert orders(1) != orders(2)
    assert len({tuple(order) for order in orders(1)}) == 3


def test_repeated_images_have_another_augmentation(make_part):
    scene = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    same = Images(*make_part("a", np.stack([scene] * 8), [0] * 7 + [1]), CLASSES)
    settings = {"seed": 1, "augment": AugmentSettings(), "targets": np.arange(8, dtype=np.float32), "balance": (1.0, 0)}
    ((pixels, numbers),) = epoch(Batches(same, 8, **settings))
    assert (numbers == 7).sum() == 4
    assert len({image.tobytes() for image in pixels}) == 8
    # The first occurrence of an image has the augmentation of an epoch without balance.
    ((plain, plain_numbers),) = epoch(Batches(same, 8, **{**settings, "balance": (0.0, 0)}))
    known = {plain[plain_numbers == number].tobytes() for number in set(numbers)}
    assert len(known & {image.tobytes() for image in pixels}) == len(set(numbers))


def test_balanced_epoch_does_not_depend_on_workers_or_history(images):
    settings = {"seed": 1, "augment": AugmentSettings(), "balance": (0.9, 3)}
    first, second = Batches(images, 4, threads=1, **settings), Batches(images, 4, threads=5, **settings)
    first.start_epoch(0)
    for batches in (first, second):
        batches.start_epoch(2)
    for (pixels, grades), (others, other_grades) in zip(epoch(first), epoch(second), strict=True):
        assert np.array_equal(pixels, others)
        assert np.array_equal(grades, other_grades)


def test_augmentation_differs_between_images_and_epochs(make_part):
    scene = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    same = Images(*make_part("a", np.stack([scene] * 4), [0] * 4), CLASSES)
    batches = Batches(same, 4, seed=1, augment=AugmentSettings())
    first = batches[0][0]
    assert len({image.tobytes() for image in first}) == 4
    batches.start_epoch(1)
    assert not np.array_equal(first, batches[0][0])
    # The images themselves do not change.
    assert np.array_equal(same[0], scene)


STILL = AugmentSettings(flip_horizontal=False, flip_vertical=False, shift=0, zoom=[1, 1], rotation=0)


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_images_targets_and_weights_are_mixed_alike(make_part, kind):
    """The pixels of each image equal its target and its weight before and after mixing."""
    values = np.arange(0, 240, 10)
    pixels = np.broadcast_to(values.astype(np.uint8)[:, None, None, None], (24, 16, 16, 3)).copy()
    part = Images(*make_part("a", pixels, [0] * 24), CLASSES)
    values = np.array([part[number][0, 0, 0] for number in range(24)], np.float32)  # in the order of the names
    augment = STILL.model_copy(update={kind: 1.0})
    batches = Batches(part, 8, seed=1, augment=augment, targets=values[:, None], weights=values)
    mixed = 0
    for number in range(3):
        batches.start_epoch(number)
        for found, targets, weights in epoch(batches):
            assert found.mean(axis=(1, 2, 3)) == pytest.approx(targets[:, 0], abs=0.5)
            assert np.array_equal(targets[:, 0], weights)
            assert targets.dtype == weights.dtype == np.float32
            mixed += (np.abs(targets[:, 0] - np.rint(targets[:, 0] / 10) * 10) > 0.01).sum()
    assert mixed > 50


@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_mixing_follows_from_epoch_and_seed(images, kind):
    targets = np.eye(10, dtype=np.float32)

    def found(seed, number, threads=1):
        batches = Batches(
            images, 4, threads=threads, seed=seed, augment=AugmentSettings(**{kind: 1.0}), targets=targets
        )
        batches.start_epoch(number)
        return np.concatenate([mixed for _, mixed in epoch(batches)])

    assert np.array_equal(found(1, 2), found(1, 2, threads=3))
    assert len({found(*which).tobytes() for which in ((1, 0), (1, 1), (2, 0))}) == 3
    # The partner may be any other image. An image mixes with itself only if it is alone in its batch.
    together = np.concatenate([found(1, number) for number in range(60)])
    assert ((together > 0).sum(axis=1) <= 2).all()
    pairs = {tuple(np.flatnonzero(row)) for row in together}
    assert {pair for pair in pairs if len(pair) == 2} == {(a, b) for a in range(10) for b in range(a + 1, 10)}


def test_mixed_images_need_targets(images):
    for augment in (AugmentSettings(mixup=0.4), AugmentSettings(cutmix=1)):
        with pytest.raises(ValueError, match="give targets"):
            Batches(images, 4, seed=1, augment=augment)


def test_batches_of_a_view_are_transformed(make_part):
    scenes = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), dtype=np.uint8)
    part = Images(*make_part("a", scenes, [0] * 5), CLASSES)
    mirrored = np.concatenate([pixels for pixels, _ in epoch(Batches(part, 2, view=1))])
    assert np.array_equal(mirrored, scenes[:, :, ::-1])


def test_keras_gets_the_batches_of_each_epoch(images):
    """Worker threads and prefetching do not mix epochs."""
    expected, seen = [], []
    settings = {"seed": 3, "augment": AugmentSettings(mixup=0.4, hue=20), "targets": np.eye(10, dtype=np.float32)}
    plain = Batches(images, 4, **settings)
    for number in range(3):
        plain.start_epoch(number)
        expected += [pixels.tobytes() for pixels, _ in epoch(plain)]

    class Spy(keras.Model):
        def train_step(self, *given):  # The batch is the last argument. JAX also passes a state, and expects it back.
            seen.append(np.asarray(given[-1][0]).tobytes())
            return ({"loss": 0.0}, *given[:-1]) if given[:-1] else {"loss": 0.0}

    spy = Spy()
    spy.built = True
    spy.compile(run_eagerly=True)
    batches = Batches(images, 4, threads=3, **settings)
    spy.fit(batches, epochs=2, verbose=0, shuffle=False, callbacks=[batches.follow_epochs()])
    assert seen == expected[:6]
    spy.fit(batches, initial_epoch=2, epochs=3, verbose=0, shuffle=False, callbacks=[batches.follow_epochs()])
    assert seen == expected


def test_channel_statistics_equal_numpy(make_part):
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (6, 8, 8, 3), dtype=np.uint8) // np.array([1, 2, 4], dtype=np.uint8)
    mean, deviation = Images(*make_part("a", pixels, [0] * 6), CLASSES).channel_statistics()
    assert mean == pytest.approx(pixels.reshape(-1, 3).mean(axis=0))
    assert deviation == pytest.approx(pixels.reshape(-1, 3).std(axis=0))


def checked_images(make_part):
    """Return images of one shard with checksums, and its pixel file."""
    indices, ((pixels, rows),) = make_part("train", numbered(10), [n % 5 for n in range(10)], 1)
    shard = open_shard(pixels, rows)
    keys = list(zip(shard.names, shard.digests, strict=True))
    write_table(rows, (*ROW_COLUMNS, CHECKSUM_COLUMN), shard_rows(keys, [checksum(image) for image in shard.array]))
    return Images(indices, [(pixels, rows)], CLASSES), pixels


@pytest.mark.parametrize("augment", [None, AugmentSettings()])
def test_flipped_bit_in_a_shard_ends_the_epoch(make_part, augment):
    images, pixels = checked_images(make_part)
    batches = Batches(images, 4, seed=1, augment=augment)
    epoch(batches)
    with open(pixels, "r+b") as file:
        file.seek(-192 * 3, os.SEEK_END)
        file.write(b"\x40")
    with pytest.raises(RetinaflowError, match=rf"{pixels.name}: the pixels of 'train7_left' differ .* Delete the file"):
        epoch(batches)


def test_shard_without_checksums_is_read(images):
    assert len(epoch(Batches(images, 4))) == 3


@pytest.mark.parametrize("text", ["", "xyz", "0x 1"])
def test_damaged_checksum_is_an_error(make_part, text):
    indices, ((pixels, rows),) = make_part("train", numbered(1), [0], 1)
    write_table(rows, (*ROW_COLUMNS, CHECKSUM_COLUMN), [{"image": "train0_left", "digest": "", "checksum": text}])
    with pytest.raises(RetinaflowError, match="expected eight hexadecimal digits"):
        Images(indices, [(pixels, rows)], CLASSES)
