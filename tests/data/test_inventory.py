"""Inventory: images found, their labels, and every kind of problem."""

import io
import itertools
import os
import time
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from dicom_files import dicom_file
from retinaflow.data import dicom_pixels
from retinaflow.data.inventory import (
    INVENTORY_COLUMNS,
    PROBLEM_COLUMNS,
    InventoryJob,
    InventoryReport,
    read_usable,
    take_inventory,
)
from retinaflow.data.labels import LabelRow, read_labels
from retinaflow.data.problem_policy import NOTES, check_data_set
from retinaflow.errors import RetinaflowError
from retinaflow.settings.data import ProblemSettings
from retinaflow.storage.files import digest
from retinaflow.storage.tables import Row, read_table, write_table

DATA = Path(os.environ.get("RETINAFLOW_DATA", Path(__file__).parents[2] / "../shared/data"))
GRADE_NAMES = ["none", "mild", "moderate", "severe", "proliferative"]
PATTERN = "(?P<patient>.+)_(?P<eye>left|right)"


def picture(suffix: str = "jpeg", size: tuple[int, int] = (8, 6), color: tuple[int, int, int] = (180, 90, 40)) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", size, color).save(content, suffix)
    return content.getvalue()


class Setup:
    """A folder of images, and the inventory of it."""

    def __init__(self, root: Path) -> None:
        self.folder = root / "resized train 15"
        self.folder.mkdir()
        self.inventory, self.problems = root / "out" / "train.csv", root / "out" / "problems.csv"
        self.numbers = itertools.count(1000)

    def add(self, name: str, content: bytes | None = None) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        # The bytes of each file differ, unless they are given.
        path.write_bytes(picture() + b"%d" % next(self.numbers) if content is None else content)
        return path

    def take(self, *labels: tuple[str, str], **options: Any) -> InventoryReport:
        settings = {
            "data_set": "train",
            "folders": [self.folder],
            "labels": [LabelRow(image, grade, row) for row, (image, grade) in enumerate(labels, start=2)],
            "grade_names": GRADE_NAMES,
            "patient_pattern": PATTERN,
            "exclude": [],
            "megapixels": 1,
            "train": None,
            "inventory": self.inventory,
            "problems": self.problems,
            "cache": self.inventory.parent / ".cache" / "train.json",
            "code": "code 1",
            "threads": 2,
        }
        return take_inventory(InventoryJob(**(settings | options)))

    def rows(self) -> dict[str, Row]:
        return {row["path"]: row for row in read_table(self.inventory, INVENTORY_COLUMNS)}

    def listed(self) -> list[tuple[str, str, str]]:
        """Name of the file, image and problem of each row of problems."""
        table = read_table(self.problems, PROBLEM_COLUMNS)
        return [(Path(row["path"]).name, row["image"], row["problem"]) for row in table]

    def found(self, kind: str) -> list[str]:
        """Descriptions of all problems of a kind."""
        return [row["found"] for row in read_table(self.problems) if row["problem"] == kind]

    def reasons(self, exclude_limit: float = 1.0, **on_problem: str) -> list[str]:
        """Reasons of the problem policy against the data set."""
        policy = ProblemSettings(**on_problem)
        check = check_data_set(self.inventory, self.problems, on_problem=policy, exclude_limit=exclude_limit)
        return [reason.text for reason in check.reasons]

    def usable(self) -> list[str]:
        """Names of the usable images."""
        return list(read_usable(self.inventory)["image"])


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    return Setup(tmp_path)


def test_every_image_has_a_row_with_its_properties(setup: Setup) -> None:
    content = picture("png", (5, 7))
    setup.add("10_left.PNG", content)
    setup.add("deeper/still/9_right.jpg", picture("jpeg", (9, 3)))
    setup.add(".hidden.jpeg")
    setup.add(".cache/8_left.jpeg")
    report = setup.take(("10_left", "2.0"), ("9_right", "mild"))
    assert report == InventoryReport(2, 2, 2, {})
    first = read_table(setup.inventory)[0]
    assert all(0 <= float(first.pop(figure)) <= 1 for figure in ("focus", "exposure", "field", "quality"))
    assert first == {
        "image": "10_left",
        "path": f"{setup.folder}/10_left.PNG",
        "grade": "2",
        "patient": "10",
        "eye": "left",
        "bytes": str(len(content)),
        "width": "5",
        "height": "7",
        "digest": digest(content),
        "camera": "",
        "problem": "",
    }
    second = setup.rows()[f"{setup.folder}/deeper/still/9_right.jpg"]
    assert (second["grade"], second["width"], second["height"]) == ("1", "9", "3")
    assert setup.listed() == []


def test_rows_of_all_folders_are_sorted_by_name(setup: Setup, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for name in ("b.jpeg", "sub/a.jpeg", "10.jpeg"):
        setup.add(name)
    (other / "9.jpeg").write_bytes(picture())
    labels = [(name, "0") for name in ("a", "b", "10", "9")]
    setup.take(*labels, folders=[other, setup.folder, setup.folder / "sub"])
    assert [row["image"] for row in read_table(setup.inventory)] == ["10", "9", "a", "b"]


def test_patient_and_eye_of_tags_replace_those_of_the_name(setup: Setup) -> None:
    setup.add("1_left.dcm", dicom_file(PatientID="P7", ImageLaterality="R"))
    setup.add("2_left.dcm", dicom_file(PatientID="", ImageLaterality=""))
    setup.add("1.2.840.3", dicom_file(PatientID="P7", ImageLaterality="L", Manufacturer="Zeiss"))
    setup.add("DICOMDIR", dicom_file())
    setup.add("notes")
    report = setup.take(("1_left", "0"), ("2_left", "0"), ("1.2.840.3", "1"))
    assert report.problems == {"other_file": 2}
    found = {row["image"]: (row["patient"], row["eye"], row["camera"]) for row in setup.rows().values()}
    assert found == {
        "1_left": ("P7", "right", "Topcon NW400"),
        "2_left": ("2", "left", "Topcon NW400"),
        "1.2.840.3": ("P7", "left", "Zeiss NW400"),
    }


def test_one_patient_in_all_dicom_files_is_a_warning(setup: Setup, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(3):
        setup.add(f"{number}.dcm", dicom_file(StudyID=str(number)))
    setup.take(("0", "0"), ("1", "0"), ("2", "0"))
    assert "all 3 DICOM files have the same PatientID" in caplog.text


def test_dicom_files_without_the_extra_are_one_error(setup: Setup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dicom_pixels, "find_spec", lambda _: None)
    setup.add("1.dcm", dicom_file())
    setup.add("2.dcm", dicom_file(PatientID="P2"))
    with pytest.raises(RetinaflowError, match=r"train: 2 files cannot be read. '.*1.dcm' is .* run `make dicom`"):
        setup.take(("1", "0"), ("2", "0"))


def test_thumbnails_are_other_files(setup: Setup) -> None:
    setup.add("1_left.jpeg")
    setup.add("@eaDir/1_left.jpeg/SYNOPHOTO_THUMB_XL.jpg")
    setup.add("__MACOSX/1_left.jpeg")
    setup.add("Thumbs.db", b"thumbnails")
    assert setup.take(("1_left", "0")).usable == 1
    assert sorted(name for name, _, kind in setup.listed() if kind == "other_file") == [
        "1_left.jpeg",
        "SYNOPHOTO_THUMB_XL.jpg",
        "Thumbs.db",
    ]
    assert set(setup.found("other_file")) == {"a thumbnail or a file of a file manager"}


def test_jpeg_without_its_end_is_used_with_a_note(setup: Setup) -> None:
    setup.add("1_left.jpeg", picture(size=(64, 64))[:-2])
    assert setup.take(("1_left", "0")).usable == 1
    assert setup.listed() == [("1_left.jpeg", "1_left", "no_end_marker")]
    assert setup.reasons() == []


def test_folder_without_images_is_an_error_with_counts(setup: Setup) -> None:
    for name in ("a.txt", "b.txt", "c.pdf", "README"):
        setup.add(name, b"text")
    with pytest.raises(RetinaflowError, match=r"among 4 files \(2 .txt, 1 without extension, 1 .pdf\)"):
        setup.take(("1_left", "0"))


@pytest.mark.parametrize("suffix", ["jpeg", "png", "tiff", "bmp", "webp", "jpeg2000"])
def test_format_may_differ_from_extension(setup: Setup, suffix: str) -> None:
    path = setup.add("1_left.jpg", picture(suffix, (11, 4)))
    setup.take(("1_left", "0"))
    row = setup.rows()[str(path)]
    assert (row["width"], row["height"], row["problem"]) == ("11", "4", "")


def test_unusable_files_stay_in_the_table_with_their_label(setup: Setup) -> None:
    path = setup.add("1_left.jpeg", b"<html>not found</html>")
    setup.add("1_right.jpeg")
    report = setup.take(("1_left", "3"), ("1_right", "0"))
    assert report == InventoryReport(2, 1, 1, {"not_an_image": 1})
    row = setup.rows()[str(path)]
    assert (row["problem"], row["grade"], row["width"], row["digest"]) == ("not_an_image", "3", "", "")


@pytest.mark.filterwarnings("error")
def test_truncated_headers_never_end_the_inventory(setup: Setup) -> None:
    labels = []
    for suffix in ("jpeg", "png", "tiff", "bmp", "webp"):
        content = picture(suffix, (16, 16))
        for cut in range(0, min(len(content), 400), 7):
            setup.add(f"{suffix}{cut}.jpeg", content[:cut] + b"\xff" * 9)
            labels.append((f"{suffix}{cut}", "0"))
    setup.add("good.jpeg")
    report = setup.take(*labels, ("good", "0"))
    assert report.usable >= 1
    assert {"not_an_image", "truncated"} <= set(report.problems) <= {"not_an_image", "truncated", "unreadable"}


def test_images_without_label_and_labels_without_image_are_listed(setup: Setup) -> None:
    for name in ("1_left.jpeg", "1_right.jpeg", "2_LEFT.jpeg"):
        setup.add(name)
    setup.take(("1_left", "0"), ("2_left", "9"), ("3_left", "1"))
    assert setup.listed() == [
        ("1_right.jpeg", "1_right", "no_label"),
        ("2_LEFT.jpeg", "2_LEFT", "no_label"),
        ("", "2_left", "no_image"),
        ("", "3_left", "no_image"),
    ]
    assert setup.usable() == ["1_left"]


@pytest.mark.parametrize("grade", ["", "2.5", "-1", "5", "1e0", "nan", "awful"])
def test_bad_grade_is_listed_and_left_out(setup: Setup, grade: str) -> None:
    setup.add("1_left.jpeg")
    setup.add("1_right.jpeg")
    assert setup.take(("1_left", grade), ("1_right", "0")).usable == 1
    assert setup.listed() == [("1_left.jpeg", "1_left", "bad_grade")]
    assert setup.found("bad_grade") == [f"grade {grade!r} in row 2, expected 0 to 4 or the name of a grade"]
    assert setup.rows()[f"{setup.folder}/1_left.jpeg"]["grade"] == ""


@pytest.mark.parametrize("twin", ["1_left.png", "1_LEFT.jpeg", "deeper/1_left.jpeg", "1_left.JPEG", "1_left .jpeg"])
def test_two_files_of_one_name_are_both_duplicates(setup: Setup, twin: str) -> None:
    for name in ("1_left.jpeg", "1_right.jpeg", twin):
        setup.add(name)
    assert setup.take(("1_left", "0"), ("1_right", "0")).usable == 1
    assert [kind for _, _, kind in setup.listed()] == ["duplicate_image"] * 2


def test_different_labels_are_a_problem_and_equal_ones_a_note(setup: Setup) -> None:
    for name in ("1_left.jpeg", "1_right.jpeg", "2_left.jpeg"):
        setup.add(name)
    labels = [("1_left", "0"), ("1_right", "0"), ("1_left", "none"), ("2_left", "1")]
    assert setup.take(*labels).usable == 3
    assert setup.listed() == [("", "1_left", "repeated_label")]
    assert setup.take(*labels, ("2_left", "2")).usable == 2
    assert setup.listed() == [("2_left.jpeg", "2_left", "duplicate_label"), ("", "1_left", "repeated_label")]
    assert setup.found("duplicate_label") == ["grade '1', '2' in rows 5, 6"]


def test_excluded_images_have_no_other_problem_and_do_not_count(setup: Setup) -> None:
    setup.add("1_left.jpeg")
    setup.add("1_right.jpeg", b"")
    setup.add("2_left.jpeg")
    labels = [("1_left", "0"), ("2_left", "7"), ("3_left", "0")]
    report = setup.take(*labels, exclude=["1_right.jpeg", "2_left", "3_left"])
    assert (report.usable, report.problems) == (1, {"excluded": 3})
    assert {image for _, image, _ in setup.listed()} == {"1_right", "2_left", "3_left"}
    assert setup.reasons(exclude_limit=0.0) == []


def test_excluding_one_of_two_duplicates_keeps_the_other(setup: Setup) -> None:
    setup.add("A.jpeg")
    setup.add("a.jpeg")
    assert setup.take(("a", "0"), exclude=["A"]).usable == 1


def test_excluding_an_unknown_name_is_an_error(setup: Setup) -> None:
    setup.add("1_left.jpeg")
    with pytest.raises(RetinaflowError, match=r"data\.train\.exclude names '1_lift'"):
        setup.take(("1_left", "0"), exclude=["1_lift"])


def test_no_image_is_an_error_and_none_usable_a_reason(setup: Setup) -> None:
    setup.add("labels.csv", b"image,level\n")
    with pytest.raises(RetinaflowError, match=r"no image in .*resized train 15 among 1 files"):
        setup.take(("1_left", "0"))
    setup.add("2_left.jpeg")
    assert setup.take(("1_left", "0")).usable == 0
    assert setup.reasons() == ["none of the 1 images is usable"]
    with pytest.raises(RetinaflowError, match=r"nowhere: cannot be read as a folder"):
        setup.take(("1_left", "0"), folders=[setup.folder / "nowhere"])


# Images with the same bytes -------------------------------------------------------------------------------------------


def test_first_of_identical_images_stays(setup: Setup) -> None:
    for name in ("2_left.jpeg", "1_left.jpeg", "1_right.jpeg"):
        setup.add(name, picture())
    setup.add("3_left.jpeg")
    assert setup.take(*((image, "1") for image in ("1_left", "1_right", "2_left", "3_left"))).usable == 2
    assert setup.listed() == [("1_right.jpeg", "1_right", "identical"), ("2_left.jpeg", "2_left", "identical")]
    assert setup.found("identical") == [f"the same bytes and level as '{setup.folder}/1_left.jpeg'"] * 2


def test_identical_images_with_different_grades_are_all_left_out(setup: Setup) -> None:
    for name in ("1_left.jpeg", "2_left.jpeg", "3_left.jpeg"):
        setup.add(name, picture())
    setup.add("4_left.jpeg")
    assert setup.take(("1_left", "1"), ("2_left", "1"), ("3_left", "2"), ("4_left", "0")).usable == 1
    assert [kind for _, _, kind in setup.listed()] == ["identical_conflict"] * 3
    first, second, third = setup.found("identical_conflict")
    assert first == second == f"grade 1, but the same bytes as '{setup.folder}/3_left.jpeg' of grade 2"
    assert third == f"grade 2, but the same bytes as '{setup.folder}/1_left.jpeg' of grade 1"


def test_image_with_another_problem_is_no_copy(setup: Setup) -> None:
    setup.add("1_left.jpeg", picture())
    setup.add("2_left.jpeg", picture())
    assert setup.take(("1_left", "9"), ("2_left", "1")).usable == 1
    assert setup.listed() == [("1_left.jpeg", "1_left", "bad_grade")]


def train_table(root: Path, **images: tuple[str, bytes]) -> Path:
    """An inventory of the training set, of usable images with these grades and contents."""
    rows = []
    for image, (grade, content) in images.items():
        known = {"image": image, "path": f"train/{image}.jpeg", "grade": grade, "patient": image.split("_")[1]}
        rows.append({**dict.fromkeys(INVENTORY_COLUMNS, ""), **known, "digest": digest(content)})
    write_table(root / "known.csv", INVENTORY_COLUMNS, rows)
    return root / "known.csv"


def test_images_and_patients_of_the_training_set_are_problems(setup: Setup, tmp_path: Path) -> None:
    same, other = picture(), picture() + b"other"
    train = train_table(tmp_path, p_7_left=("1", same), p_8_left=("2", other))
    setup.add("1_left.jpeg", same)
    setup.add("2_left.jpeg", other)
    setup.add("8_right.jpeg")
    setup.add("9_left.jpeg")
    labels = [(image, "1") for image in ("1_left", "2_left", "8_right", "9_left")]
    assert setup.take(*labels, train=train).usable == 1
    assert setup.listed() == [
        ("1_left.jpeg", "1_left", "identical"),
        ("2_left.jpeg", "2_left", "identical_conflict"),
        ("8_right.jpeg", "8_right", "patient_in_both"),
    ]
    assert setup.found("patient_in_both") == ["patient '8' has 'train/p_8_left.jpeg' in train"]
    assert setup.found("identical_conflict") == ["grade 1, but the same bytes as 'train/p_8_left.jpeg' of grade 2"]


def test_unusable_training_images_are_no_leak(setup: Setup, tmp_path: Path) -> None:
    train = train_table(tmp_path, p_7_left=("1", picture()))
    rows = [{**row, "problem": "bad_grade"} for row in read_table(train)]
    write_table(train, INVENTORY_COLUMNS, rows)
    setup.add("7_left.jpeg", picture())
    assert setup.take(("7_left", "1"), train=train).usable == 1


# Every kind of problem, as an error and left out ----------------------------------------------------------------------


def broken(content: bytes) -> Callable[[Setup], object]:
    return lambda setup: setup.add("1_left.jpeg", content)


def pair(setup: Setup) -> None:
    setup.add("1_left.jpeg", picture())
    setup.add("2_left.jpeg", picture())


def labelled(*labels: tuple[str, str]) -> tuple[Callable[[Setup], object], list[tuple[str, str]]]:
    return lambda setup: setup.add("1_left.jpeg"), list(labels)


# Function that makes the problem, labels, and number of images or labels with the problem.
GOOD = [("1_left", "0")]
KINDS: dict[str, tuple[Callable[[Setup], object], list[tuple[str, str]], int]] = {
    "empty": (broken(b""), GOOD, 1),
    "not_an_image": (broken(b"<html>"), GOOD, 1),
    "unreadable": (lambda setup: (setup.folder / "1_left.jpeg").symlink_to("nowhere"), GOOD, 1),
    "truncated": (broken(picture(size=(64, 64))[:-9] + b"\xff\xd9"), GOOD, 1),
    "blank": (broken(picture(color=(8, 0, 8))), GOOD, 1),
    "oversized": (broken(picture("png", (1001, 1000))), GOOD, 1),
    "no_label": (*labelled(), 1),
    "no_image": (*labelled(*GOOD, ("9_left", "0")), 1),
    "bad_grade": (*labelled(("1_left", "7")), 1),
    "duplicate_image": (lambda setup: [setup.add(f"1_left.{end}") for end in ("jpeg", "JPG")], GOOD, 2),
    "duplicate_label": (*labelled(*GOOD, ("1_left", "1")), 1),
    "identical": (pair, [*GOOD, ("2_left", "0")], 1),
    "identical_conflict": (pair, [*GOOD, ("2_left", "1")], 2),
    "patient_in_both": (lambda setup: setup.add("7_left.jpeg"), [("7_left", "0")], 1),
}


def test_every_kind_of_problem_is_tested() -> None:
    assert KINDS.keys() == ProblemSettings.model_fields.keys()
    assert not KINDS.keys() & NOTES.keys()


@pytest.mark.parametrize("setting", ["error", "exclude", "default"])
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_problem(setup: Setup, tmp_path: Path, kind: str, setting: str) -> None:
    make, labels, count = KINDS[kind]
    make(setup)
    setup.add("5_left.jpeg")
    train = train_table(tmp_path, p_7_right=("0", b"another"))
    setup.take(("5_left", "0"), *labels, train=train)
    assert [found for _, _, found in setup.listed()] == [kind] * count
    # No policy lets a network train on it.
    problematic = {row["path"] for row in read_table(setup.problems)}
    assert not problematic & set(read_usable(setup.inventory)["path"])

    policy = ProblemSettings(**({} if setting == "default" else {kind: setting}))
    check = check_data_set(setup.inventory, setup.problems, on_problem=policy, exclude_limit=1.0)
    if getattr(policy, kind) == "error":
        assert set(check.problems["action"]) == {"error"}
        assert [reason.text for reason in check.reasons] == [f"{count} problem{'s' * (count > 1)} to be solved first"]
    else:
        assert set(check.problems["action"]) == {"excluded"}
        assert check.reasons == []


def test_image_of_the_training_set_has_no_other_grade_in_a_scale(setup: Setup, tmp_path: Path) -> None:
    """Grade 2 of the training set is grade 1 of this set."""
    setup.add("5_left.jpeg")
    content = setup.add("2_left.jpeg").read_bytes()
    train = train_table(tmp_path, p_7_right=("2", content))
    for grade, kind in (("1", "identical"), ("0", "identical_conflict")):
        setup.take(("5_left", "0"), ("2_left", grade), train=train, train_grades=[0, 0, 1])
        assert [found for _, _, found in setup.listed()] == [kind]


def test_other_files_are_noted(setup: Setup) -> None:
    setup.add("1_left.jpeg")
    setup.add("Thumbs.db", b"x")
    assert setup.take(("1_left", "0")).usable == 1
    assert setup.listed() == [("Thumbs.db", "", "other_file")]


def test_patients_and_eyes_are_read_from_names(setup: Setup) -> None:
    images = ["10_left", "10_right", "10_left_2", "x"]
    for image in images:
        setup.add(f"{image}.jpeg")
    labels = [(image, "0") for image in images]
    report = setup.take(*labels)
    found = {row["image"]: (row["patient"], row["eye"]) for row in setup.rows().values()}
    assert found == {
        "10_left": ("10", "left"),
        "10_right": ("10", "right"),
        "10_left_2": ("10_left_2", ""),
        "x": ("x", ""),
    }
    assert report.patients == 3
    setup.take(*labels, patient_pattern="(?P<patient>.).*")
    assert {(row["patient"], row["eye"]) for row in setup.rows().values()} == {("1", ""), ("x", "")}


@pytest.mark.parametrize("pattern", ["(.+)_left", "(?P<patient>"])
def test_pattern_without_patient_is_an_error(setup: Setup, pattern: str) -> None:
    with pytest.raises(RetinaflowError, match=r"data\.patient_pattern"):
        setup.take(patient_pattern=pattern)


def test_names_with_any_characters_are_kept(setup: Setup) -> None:
    names = ["a b", "it's", 'say "x"', "ü眼", "-rf", "two\nlines", "a,b", "\udce9", "a.v2"]
    for name in names:
        setup.add(f"{name}.jpeg")
    setup.take(*((name, "1") for name in names))
    assert set(setup.usable()) == set(names)
    assert all(Path(row["path"]).is_file() for row in read_table(setup.inventory))


@pytest.mark.real
@pytest.mark.skipif(not (DATA / "eyepacs-original").is_dir(), reason="no images at RETINAFLOW_DATA")
def test_full_size_originals_are_all_usable(setup: Setup) -> None:
    labels = read_labels(str(DATA / "eyepacs-original/labels.csv"), "image", "level")
    folder = DATA / "eyepacs-original/images"
    report = setup.take(folders=[folder], labels=labels, megapixels=20)
    assert (report.images, report.usable, report.patients) == (10, 10, 5)
    for path, row in setup.rows().items():
        with Image.open(path) as image:
            assert (int(row["width"]), int(row["height"])) == image.size
            assert int(row["bytes"]) == Path(path).stat().st_size


HOUR_AGO = 1_000_000_000 * (int(time.time()) - 3600)


def replace_unseen(path: Path, content: bytes, changed: int = HOUR_AGO) -> None:
    """Change the content of a file, but not its size or time."""
    assert len(content) == path.stat().st_size
    path.write_bytes(content)
    os.utime(path, ns=(changed, changed))


@pytest.fixture
def taken(setup: Setup) -> tuple[Setup, Path, bytes]:
    """An inventory of one image, and other bytes for it of the same length."""
    path = setup.add("1_left.jpeg")
    os.utime(path, ns=(HOUR_AGO, HOUR_AGO))
    setup.take(("1_left", "0"))
    other = bytearray(path.read_bytes())
    other[-3] ^= 1
    return setup, path, bytes(other)


def test_unchanged_image_is_not_read_again(taken: tuple[Setup, Path, bytes]) -> None:
    setup, path, other = taken
    before = setup.rows()
    replace_unseen(path, other)
    setup.add("1_right.jpeg")
    setup.take(("1_left", "0"), ("1_right", "0"))
    assert setup.rows()[str(path)] == before[str(path)]
    assert setup.rows()[str(path)]["digest"] != digest(other)


@pytest.mark.parametrize("reason", ["changed", "code", "limit", "not JSON", "other JSON", "gone"])
def test_image_that_may_differ_is_read_again(taken: tuple[Setup, Path, bytes], reason: str) -> None:
    setup, path, other = taken
    cache = setup.inventory.parent / ".cache" / "train.json"
    replace_unseen(path, other, HOUR_AGO + (reason == "changed"))
    if reason == "not JSON":
        cache.write_bytes(b"\xff")
    elif reason == "other JSON":
        cache.write_text('{"code": "code 1 1", "headers": {"a": [1]}}')
    elif reason == "gone":
        cache.unlink()
    setup.take(
        ("1_left", "0"),
        code="another" if reason == "code" else "code 1",
        megapixels=2 if reason == "limit" else 1,
    )
    assert setup.rows()[str(path)]["digest"] == digest(other)


def test_image_that_changed_just_now_is_read_again(taken: tuple[Setup, Path, bytes]) -> None:
    setup, path, other = taken
    now = time.time_ns()
    os.utime(path, ns=(now, now))
    setup.take(("1_left", "0"))
    replace_unseen(path, other, now)
    setup.take(("1_left", "0"))
    assert setup.rows()[str(path)]["digest"] == digest(other)


def test_bad_file_is_read_again(setup: Setup) -> None:
    content = picture()
    path = setup.add("1_left.jpeg", bytes(len(content)))
    setup.add("2_left.jpeg")
    labels = ("1_left", "0"), ("2_left", "0")
    os.utime(path, ns=(HOUR_AGO, HOUR_AGO))
    setup.take(*labels)
    replace_unseen(path, content)
    setup.take(*labels)
    assert setup.rows()[str(path)]["problem"] == ""


def test_cache_that_cannot_be_written_is_no_error(setup: Setup, caplog: pytest.LogCaptureFixture) -> None:
    path = setup.add("1_left.jpeg")
    os.utime(path, ns=(HOUR_AGO, HOUR_AGO))
    setup.add("in the way")
    caplog.set_level("INFO")
    setup.take(("1_left", "0"), cache=setup.folder / "in the way" / "train.json")
    assert str(path) in setup.rows()
    assert "are not cached" in caplog.text


def test_names_that_are_not_utf8_are_cached(setup: Setup) -> None:
    path = Path(os.fsdecode(os.fsencode(setup.folder) + b"/\xff_left.jpeg"))
    path.write_bytes(picture())
    os.utime(path, ns=(HOUR_AGO, HOUR_AGO))
    image = os.fsdecode(b"\xff_left")
    setup.take((image, "0"))
    before = setup.rows()
    other = bytearray(path.read_bytes())
    other[-3] ^= 1
    replace_unseen(path, bytes(other))
    setup.take((image, "0"))
    assert setup.rows() == before


def test_patients_of_a_group_have_its_name_first(setup: Setup) -> None:
    setup.add("1_left.jpeg")
    setup.add("other.jpeg")
    setup.take(("1_left", "0"), ("other", "1"), patient_group="eyepacs")
    assert {row["patient"] for row in setup.rows().values()} == {"eyepacs/1", "eyepacs/other"}


def table(setup: Setup, text: str, **columns: str) -> list[LabelRow]:
    path = setup.folder.parent / "labels.csv"
    path.write_text(text)
    return read_labels(str(path), "image", "level", **columns)


def test_patient_and_eye_of_the_table_replace_those_of_the_name(setup: Setup) -> None:
    for name in ("img1", "img2", "5_left"):
        setup.add(f"{name}.jpg")
    rows = table(
        setup,
        "image,level,patient,eye\nimg1,0,7,1\nimg2.jpg,1,7,2\n5_left,2,8,\n",
        patient_column="patient",
        eye_column="eye",
    )
    setup.take(labels=rows, patient_group="brset")
    found = {row["image"]: (row["patient"], row["eye"]) for row in setup.rows().values()}
    assert found == {
        "img1": ("brset/7", "right"),
        "img2": ("brset/7", "left"),
        "5_left": ("brset/8", "left"),
    }


def test_rows_of_different_patients_disagree(setup: Setup) -> None:
    setup.add("a.jpg")
    setup.take(labels=[LabelRow("a", "0", 2, "1"), LabelRow("a", "0", 3, "2")])
    assert setup.listed() == [("a.jpg", "a", "duplicate_label")]
    assert setup.found("duplicate_label") == ["grade '0', '0' in rows 2, 3, of different patients or eyes"]


PATHS = "image,level\n" + "".join(f"P{n}/OD.jpg,{n}\nP{n}/OS.jpg,{n}\n" for n in range(3))


@pytest.mark.parametrize("above", ["", "images/", "data/images/"])
def test_images_of_one_name_match_by_relative_path(setup: Setup, above: str) -> None:
    for number in range(3):
        for eye in ("OD", "OS"):
            setup.add(f"{above}P{number}/{eye}.JPG")
    setup.take(labels=table(setup, PATHS), patient_pattern="(?P<patient>[^/]+)/(?P<eye>OD|OS)")
    found = {row["image"]: (row["grade"], row["patient"], row["eye"]) for row in setup.rows().values()}
    eyes = {"OD": "right", "OS": "left"}
    assert found == {f"P{n}/{name}": (str(n), f"P{n}", eye) for n in range(3) for name, eye in eyes.items()}
    assert setup.listed() == []


def test_table_may_have_more_folders_than_the_disk(setup: Setup) -> None:
    for number in range(2):
        setup.add(f"P{number}/OD.jpg")
    name = setup.folder.name
    setup.take(labels=table(setup, f"image,level\n{name}/P0/OD.jpg,0\n{name}/P1/OD.jpg,1\n"))
    assert {row["image"]: row["grade"] for row in setup.rows().values()} == {f"{name}/P0/OD": "0", f"{name}/P1/OD": "1"}


def test_only_one_of_the_images_of_one_name_is_there(setup: Setup) -> None:
    setup.add("P1/OD.jpg")
    setup.take(labels=table(setup, PATHS))
    assert [(row["image"], row["grade"]) for row in setup.rows().values()] == [("P1/OD", "1")]
    assert {kind for _, _, kind in setup.listed()} == {"no_image"}


def test_image_of_a_name_without_a_row_has_no_label(setup: Setup) -> None:
    setup.add("P0/OD.jpg")
    setup.add("P9/OD.jpg")
    setup.take(labels=table(setup, "image,level\nP0/OD.jpg,1\n"))
    assert {row["image"]: row["grade"] for row in setup.rows().values()} == {"P0/OD": "1", "P9/OD": ""}
    assert [(image, kind) for _, image, kind in setup.listed()] == [("P9/OD", "no_label")]


def test_copies_below_another_folder_stay_duplicates(setup: Setup) -> None:
    setup.add("P0/OD.jpg")
    setup.add("old/P0/OD.jpg")
    setup.take(labels=table(setup, PATHS), exclude=[])
    assert [kind for _, _, kind in setup.listed()][:2] == ["duplicate_image"] * 2


def test_folders_of_the_table_are_ignored_where_names_differ(setup: Setup) -> None:
    setup.add("elsewhere/10_left.jpg")
    setup.take(labels=table(setup, "image,level\ntrain/10_left.jpeg,3\n"))
    assert [(row["image"], row["grade"]) for row in setup.rows().values()] == [("10_left", "3")]


@pytest.mark.parametrize(("file", "row"), [("NFC", "NFD"), ("NFD", "NFC"), ("NFD", "NFD")])
def test_accents_match_in_any_unicode_form(setup: Setup, file: str, row: str) -> None:
    name = "M\u00fcller_left"
    setup.add(f"{unicodedata.normalize(file, name)}.jpg")
    setup.take((unicodedata.normalize(row, name), "2"))
    assert [(found["grade"], found["patient"]) for found in setup.rows().values()] == [("2", "M\u00fcller")]
    assert setup.listed() == []


def test_two_files_of_one_name_in_two_unicode_forms_are_duplicates(setup: Setup) -> None:
    for form in ("NFC", "NFD"):
        setup.add(f"{unicodedata.normalize(form, 'é')}.jpg")
    setup.take(("é", "0"))
    assert [kind for _, _, kind in setup.listed()] == ["duplicate_image"] * 2


@pytest.mark.parametrize(
    ("file", "row", "difference"),
    [
        ("IMG1", "img1", "case"),
        ("img0001", "img1", "leading zeros"),
        ("IMG01", "img1", "case and leading zeros"),
        ("img1", "img001", "leading zeros"),
        ("img1", "img1\u200b", "invisible characters"),
        ("IMG1", "\u202aimg01", "case and leading zeros"),
        ("img1.jpg", "img1", "a second extension"),
        ("IMG1.JPG", "img1", "a second extension and case"),
        ("img1", "img1.png.jpg", "a second extension"),
    ],
)
def test_names_that_almost_match_get_a_hint(setup: Setup, file: str, row: str, difference: str) -> None:
    setup.add(f"{file}.jpg")
    setup.take((row, "0"))
    (unlabelled,), (missing,) = setup.found("no_label"), setup.found("no_image")
    assert unlabelled == f"no row in the label table; its row of {row!r} differs in {difference}"
    assert missing == f"grade '0' in row 2; the image {file!r} differs in {difference}"


@pytest.mark.parametrize(("file", "row"), [("img10", "img1"), ("a1", "b1"), ("img100", "img10")])
def test_other_names_get_no_hint(setup: Setup, file: str, row: str) -> None:
    setup.add(f"{file}.jpg")
    setup.take((row, "0"))
    assert setup.found("no_label") == ["no row in the label table"]


def test_grade_map_decides_the_grades(setup: Setup) -> None:
    for name in "abc":
        setup.add(f"{name}.jpg")
    names = {"grade_names": ["no", "yes"], "grade_map": {"yes": ["2", "3", "4"], "no": ["0", "1"]}}
    setup.take(("a", "1"), ("b", "3.0"), ("c", "5"), **names)
    assert [row["grade"] for row in setup.rows().values()] == ["0", "1", ""]
    assert setup.found("bad_grade") == ["grade '5' in row 4, expected a value of grade_map"]


def test_folders_of_grades_need_no_table(setup: Setup) -> None:
    for name in ("0/a", "Mild/b", "mild/c", "5/d", "e"):
        setup.add(f"{name}.jpg")
    setup.take(labels=None)
    assert {row["image"]: row["grade"] for row in setup.rows().values()} == {
        **{"a": "0", "b": "1", "c": "1", "d": "", "e": ""}
    }
    expected = "expected 0 to 4 or the name of a grade"
    assert setup.found("bad_grade") == [
        f"grade '5' in the name of the folder, {expected}",
        f"grade '' in the name of the folder, {expected}",
    ]


def test_images_of_one_name_in_two_folders_of_grades_are_two(setup: Setup) -> None:
    for name in ("0/1_left", "0/1_right", "1/1_left"):
        setup.add(f"{name}.jpg")
    setup.take(labels=None, patient_pattern="[01]/(?P<patient>.+)_(?P<eye>left|right)")
    assert {row["image"]: (row["grade"], row["patient"]) for row in setup.rows().values()} == {
        "0/1_left": ("0", "1"),
        "0/1_right": ("0", "1"),
        "1/1_left": ("1", "1"),
    }


def test_problem_names_the_table_of_several(setup: Setup, tmp_path: Path) -> None:
    setup.add("a.jpg")
    for name in ("x", "y"):
        (tmp_path / f"{name}.csv").write_text(f"image,level\na,{'xy'.index(name)}\n")
    tables = [str(tmp_path / "x.csv"), str(tmp_path / "y.csv")]
    setup.take(labels=read_labels(tables, "image", "level"))
    assert setup.found("duplicate_label") == [f"grade '0', '1' in rows 2 of {tables[0]}, 2 of {tables[1]}"]


def test_images_of_other_tables_are_left_out(setup: Setup) -> None:
    for name in ("a", "b", "c"):
        setup.add(f"{name}.jpg")
    report = setup.take(("a", "0"), other_labels=[LabelRow("b", "1", 2)])
    assert report.images == 2
    assert [row["image"] for row in setup.rows().values()] == ["a", "c"]
    assert setup.listed() == [("c.jpg", "c", "no_label")]


def test_images_of_other_tables_are_left_out_by_path(setup: Setup) -> None:
    for name in ("P0/OD", "P1/OD", "P2/OD"):
        setup.add(f"{name}.jpg")
    own = table(setup, "image,level\nP0/OD.jpg,1\n")
    setup.take(labels=own, other_labels=table(setup, "image,level\nP1/OD.jpg,0\nP2/OD.jpg,0\n"))
    assert [(row["image"], row["grade"]) for row in setup.rows().values()] == [("OD", "1")]
    assert setup.listed() == []


def test_no_image_of_its_own_is_an_error(setup: Setup) -> None:
    setup.add("a.jpg")
    with pytest.raises(RetinaflowError, match="all 1 images are in the label tables of other data sets"):
        setup.take(("b", "0"), other_labels=[LabelRow("a", "0", 2)])


def test_patients_have_no_slash_of_their_own(setup: Setup) -> None:
    for name in ("P0/OD", "P1/OD"):
        setup.add(f"{name}.jpg")
    setup.take(labels=table(setup, "image,level\nP0/OD.jpg,1\nP1/OD.jpg,0\n"), patient_group="a")
    assert [row["patient"] for row in setup.rows().values()] == ["a/P0_OD", "a/P1_OD"]


def test_inventory_has_a_column_of_each_subgroup(setup: Setup) -> None:
    for name in ("a", "b", "c"):
        setup.add(f"{name}.png")
    labels = [LabelRow("a", "0", 2, subgroups=("Canon", "north")), LabelRow("b", "1", 3, subgroups=("", "south"))]
    setup.take(labels=labels, subgroups=["camera", "site"])
    rows = [(row["image"], row["subgroup_camera"], row["subgroup_site"]) for row in read_table(setup.inventory)]
    assert rows == [("a", "Canon", "north"), ("b", "", "south"), ("c", "", "")]
