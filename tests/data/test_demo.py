"""Synthetic images: geometry, signs of each grade, no other signs of it, and collections of both eyes."""

import csv
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import cohen_kappa_score

from retinaflow.data.demo import GRADES, MINIMUM_PATIENTS, MINIMUM_SIZE, draw_collection, draw_image
from retinaflow.errors import RetinaflowError

DRAWN = {"first_patient": 1, "size": MINIMUM_SIZE}


def draw(grade: int, eye: str = "right", *, size: int = 96, seed: int = 0) -> np.ndarray:
    return draw_image(grade, eye, size=size, rng=np.random.default_rng(seed))


def changed(grade: int, size: int = 96, seed: int = 0) -> np.ndarray:
    """Pixels that differ visibly between an eye of a grade and the same healthy eye: bool (height, width)."""
    healthy = draw(0, size=size, seed=seed).astype(int)
    return np.abs(draw(grade, size=size, seed=seed) - healthy).max(axis=2) > 12


def labels_of(table: Path) -> dict[str, int]:
    with open(table, newline="") as file:
        return {row["image"]: int(row["level"]) for row in csv.DictReader(file)}


@settings(max_examples=25, deadline=None)
@given(
    grade=st.integers(0, GRADES - 1),
    eye=st.sampled_from(["left", "right"]),
    size=st.integers(MINIMUM_SIZE, 200),
    seed=st.integers(0, 2**32),
)
def test_image_is_a_lit_disc_in_a_black_frame(grade: int, eye: str, size: int, seed: int) -> None:
    image = draw(grade, eye, size=size, seed=seed)
    height = size * 3 // 4
    assert image.shape == (height, size, 3)
    assert image.dtype == np.uint8
    corners = image[[0, 0, -1, -1], [0, -1, 0, -1]]
    assert corners.mean() < 12
    middle = image[height // 3 : -height // 3, size // 3 : -size // 3]
    red, green, blue = middle.reshape(-1, 3).mean(axis=0)
    assert red > 40
    assert red > green > blue
    across = image[height // 2, :, 0] > 25
    assert 0.6 * size < across.sum() < 0.99 * size


@pytest.mark.parametrize(("eye", "sign"), [("right", 1), ("left", -1)])
def test_disc_is_on_the_nasal_side(eye: str, sign: int) -> None:
    found = []
    for seed in range(20):
        green = draw(0, eye, size=128, seed=seed)[..., 1].astype(float)
        # Light may slope across the field, so the disc is only brighter than its surroundings.
        contrast = (cv2.GaussianBlur(green, (0, 0), 2) - cv2.GaussianBlur(green, (0, 0), 5))[34:60, 22:106]
        found.append(22 + np.unravel_index(contrast.argmax(), contrast.shape)[1])
    # A bright rim can outshine a pale disc.
    assert np.mean([sign * (column - 64) > 8 for column in found]) >= 0.9


def test_fovea_is_darker_than_the_retina_around_it() -> None:
    mean = np.mean([draw(0, "right", size=128, seed=seed) for seed in range(20)], axis=0)[..., 1]
    fovea, nasal_of_fovea, temporal_of_fovea = (mean[46:54, column : column + 8].mean() for column in (56, 74, 34))
    assert fovea < 0.9 * nasal_of_fovea
    assert fovea < 0.95 * temporal_of_fovea


def test_same_generator_state_gives_same_pixels() -> None:
    assert np.array_equal(draw(3, seed=5), draw(3, seed=5))
    assert not np.array_equal(draw(3, seed=5), draw(3, seed=6))
    rng = np.random.default_rng(5)
    first, second = (draw_image(3, "right", size=96, rng=rng) for _ in range(2))
    assert np.array_equal(first, draw(3, seed=5))
    assert not np.array_equal(first, second)


def test_number_of_opencv_threads_changes_nothing() -> None:
    threads = cv2.getNumThreads()
    try:
        cv2.setNumThreads(1)
        one = draw(4, size=384)
        cv2.setNumThreads(4)
        assert np.array_equal(one, draw(4, size=384))
    finally:
        cv2.setNumThreads(threads)


def test_lesions_grow_with_the_grade() -> None:
    shares = [np.mean([changed(grade, seed=seed).mean() for seed in range(8)]) for grade in range(GRADES)]
    assert shares[0] == 0
    assert 0 < shares[1] < shares[2] / 2
    assert shares[2] < shares[3] / 2
    assert shares[4] > shares[2] * 2


def test_every_eye_with_retinopathy_shows_it_at_96_pixels() -> None:
    for grade in range(1, GRADES):
        for seed in range(8):
            assert changed(grade, seed=seed).any(), (grade, seed)


def test_only_proliferative_eyes_bleed_before_the_retina() -> None:
    def largest(grade: int, seed: int) -> int:
        # Blood before the retina is wider and darker than a blot in it or a knot of vessels.
        healthy, ill = (draw(of_eye, size=256, seed=seed)[..., 1].astype(int) for of_eye in (0, grade))
        return int(cv2.erode((ill < 0.6 * healthy).astype(np.uint8), np.ones((9, 9), np.uint8)).sum())

    for seed in range(8):
        assert largest(3, seed) < 5, seed
        assert largest(4, seed) > 10, seed


@pytest.mark.parametrize("grade", range(1, GRADES))
def test_grade_changes_only_lesions(grade: int) -> None:
    for seed in range(5):
        healthy, ill = draw(0, size=192, seed=seed), draw(grade, size=192, seed=seed)
        same = (healthy == ill).all(axis=2)
        frame = healthy.max(axis=2) < 20
        assert same[frame].mean() > 0.99
        assert same.mean() > 0.5


def test_fellow_eyes_share_camera_and_pigment_but_not_vessels() -> None:
    fields = []
    for seed in range(8):
        left, right = draw(0, "left", size=192, seed=seed), draw(0, "right", size=192, seed=seed)
        assert ((left[..., 0] > 30) != (right[..., 0] > 30)).mean() < 0.05
        assert np.median(left[left[..., 0] > 30], axis=0) == pytest.approx(
            np.median(right[right[..., 0] > 30], axis=0), rel=0.15
        )
        assert (np.abs(left[:, ::-1].astype(int) - right).max(axis=2) > 12).mean() > 0.05
        fields.append(np.median(left[left[..., 0] > 30], axis=0))
    assert np.ptp(fields, axis=0).min() > 30


@pytest.mark.parametrize(
    ("grade", "eye", "size", "message"),
    [
        (5, "left", 96, "grade: found 5"),
        (-1, "left", 96, "grade: found -1"),
        (0, "both", 96, "eye: found 'both'"),
        (0, "left", MINIMUM_SIZE - 1, f"expected {MINIMUM_SIZE} or more"),
    ],
)
def test_request_out_of_range_is_refused(grade: int, eye: str, size: int, message: str) -> None:
    with pytest.raises(RetinaflowError, match=message):
        draw(grade, eye, size=size)


@pytest.fixture(scope="module")
def collection(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    folder = tmp_path_factory.mktemp("demo")
    images, labels = folder / "some images", folder / "labels.csv"
    draw_collection(images, labels, patients=120, first_patient=10, size=MINIMUM_SIZE, seed=3)
    return images, labels


def test_collection_has_images_and_labels_of_both_eyes(collection: tuple[Path, Path]) -> None:
    images, labels = collection
    expected = [f"{patient}_{eye}" for patient in range(10, 130) for eye in ("left", "right")]
    assert list(labels_of(labels)) == expected
    assert sorted(path.name for path in images.iterdir()) == sorted(f"{image}.jpeg" for image in expected)
    assert labels.read_text().splitlines()[0] == "image,level"
    assert sorted(path.name for path in images.parent.iterdir()) == ["labels.csv", "some images"]
    image = cv2.imread(str(images / "10_left.jpeg"))
    assert image.shape == (MINIMUM_SIZE * 3 // 4, MINIMUM_SIZE, 3)
    blue, _, red = image.reshape(-1, 3).mean(axis=0)
    assert red > blue


def test_grades_have_the_proportions_of_eyepacs(collection: tuple[Path, Path]) -> None:
    _, labels = collection
    grades = labels_of(labels)
    share = np.bincount(list(grades.values()), minlength=GRADES) / len(grades)
    assert share == pytest.approx(np.array([25810, 2443, 5292, 873, 708]) / 35126, abs=0.05)
    left, right = ([grades[f"{patient}_{eye}"] for patient in range(10, 130)] for eye in ("left", "right"))
    assert 0.7 < cohen_kappa_score(left, right, weights="quadratic") < 0.97
    # Neither the worse eye nor the grades of patients follow an order.
    assert 0.2 < np.mean([a > b for a, b in zip(left, right, strict=True) if a != b]) < 0.8
    assert abs(np.corrcoef(np.arange(120), np.maximum(left, right))[0, 1]) < 0.3


@pytest.mark.parametrize("patients", [15, 16, 40])
def test_small_collections_have_enough_patients_of_every_grade(tmp_path: Path, patients: int) -> None:
    draw_collection(tmp_path / "images", tmp_path / "labels.csv", patients=patients, seed=patients, **DRAWN)
    grades = labels_of(tmp_path / "labels.csv")
    worse = Counter(max(grades[f"{patient}_left"], grades[f"{patient}_right"]) for patient in range(1, patients + 1))
    assert sum(worse.values()) == patients
    assert all(worse[grade] >= MINIMUM_PATIENTS for grade in range(GRADES))


def test_image_depends_on_seed_patient_eye_and_grade_only(tmp_path: Path) -> None:
    files, grades = [], []
    for name, patients, first, seed in (("a", 15, 0, 1), ("b", 25, 3, 1), ("c", 15, 0, 2)):
        images, labels = tmp_path / name, tmp_path / f"{name}.csv"
        draw_collection(images, labels, patients=patients, first_patient=first, size=MINIMUM_SIZE, seed=seed)
        files.append({path.name: path.read_bytes() for path in (tmp_path / name).iterdir()})
        grades.append({f"{image}.jpeg": grade for image, grade in labels_of(labels).items()})
    alike = [image for image in files[0] if image in files[1] and grades[0][image] == grades[1][image]]
    assert len(alike) >= 4
    assert all(files[0][image] == files[1][image] for image in alike)
    assert not any(files[0][image] == files[2][image] for image in files[0])
    assert grades[0] != grades[2]


def test_collections_of_other_patients_have_another_order_of_grades(tmp_path: Path) -> None:
    for name, first in (("train", 1), ("test", 1001)):
        images, labels = tmp_path / name, tmp_path / f"{name}.csv"
        draw_collection(images, labels, patients=15, first_patient=first, size=MINIMUM_SIZE, seed=0)
    train, test = (list(labels_of(tmp_path / f"{name}.csv").values()) for name in ("train", "test"))
    assert train != test


def test_collection_replaces_the_whole_folder(tmp_path: Path) -> None:
    images, labels = tmp_path / "images", tmp_path / "tables" / "labels.csv"
    images.mkdir()
    (images / "99_left.jpeg").write_bytes(b"image of an earlier run")
    abandoned = tmp_path / ".part-images" / "drawn"
    abandoned.mkdir(parents=True)
    (abandoned / "98_left.jpeg").write_bytes(b"image of a killed run")
    draw_collection(images, labels, patients=15, **DRAWN, seed=0)
    assert len(list(images.iterdir())) == 30
    assert not (images / "99_left.jpeg").exists()
    assert not (images / "98_left.jpeg").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "tables"]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"patients": 14}, "patients: found 14.*15 or more"),
        ({"first_patient": -1}, "first_patient: found -1"),
        ({"seed": -1}, "seed: found -1"),
        ({"size": 10}, "size: found 10"),
    ],
)
def test_refused_collection_leaves_existing_images(tmp_path: Path, wrong: dict[str, int], message: str) -> None:
    images = tmp_path / "images"
    images.mkdir()
    (images / "1_left.jpeg").write_bytes(b"old")
    with pytest.raises(RetinaflowError, match=message):
        draw_collection(images, tmp_path / "labels.csv", **{"patients": 15, **DRAWN, "seed": 0, **wrong})
    assert [path.name for path in tmp_path.iterdir()] == ["images"]
    assert (images / "1_left.jpeg").read_bytes() == b"old"
