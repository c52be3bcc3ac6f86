"""The inventory: who is found, whose label is whose, and what happens to everything that is wrong."""

import io
import os
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from retinaflow.errors import RetinaflowError
from retinaflow.files import digest
from retinaflow.inventory import (
    INVENTORY_COLUMNS,
    ON_PROBLEM,
    PROBLEM_COLUMNS,
    InventoryReport,
    take_inventory,
    usable,
)
from retinaflow.labels import LabelRow, read_labels
from retinaflow.tables import Row, read_table

DATA = Path(os.environ.get("RETINAFLOW_DATA", Path(__file__).parents[1] / "../shared/data"))
CLASSES = ["none", "mild", "moderate", "severe", "proliferative"]
PATTERN = "(?P<patient>.+)_(?P<eye>left|right)"


def picture(suffix: str = "jpeg", size: tuple[int, int] = (8, 6)) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", size).save(content, suffix)
    return content.getvalue()


class Setup:
    """A folder of photographs and what is to be made of it."""

    def __init__(self, root: Path) -> None:
        self.folder = root / "resized train 15"
        self.folder.mkdir()
        self.inventory, self.problems = root / "out" / "train.csv", root / "out" / "problems.csv"

    def add(self, name: str, content: bytes | None = None) -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(picture() if content is None else content)
        return path

    def take(self, *labels: tuple[str, str], **options: Any) -> InventoryReport:
        settings = {
            "dataset": "train",
            "folders": [self.folder],
            "labels": [LabelRow(image, level, row) for row, (image, level) in enumerate(labels, start=2)],
            "classes": CLASSES,
            "patient_pattern": PATTERN,
            "on_problem": {},
            "exclude": [],
            "exclude_limit": 1.0,
            "inventory": self.inventory,
            "problems": self.problems,
            "kept": self.inventory.parent / ".kept" / "train.json",
            "code": "as it is",
            "threads": 2,
        }
        return take_inventory(**(settings | options))

    def rows(self) -> dict[str, Row]:
        return {row["path"]: row for row in read_table(self.inventory, INVENTORY_COLUMNS)}

    def listed(self) -> list[tuple[str, str, str, str]]:
        """(name of the file, image, problem, action) of each row of problems."""
        table = read_table(self.problems, PROBLEM_COLUMNS)
        return [(Path(row["path"]).name, row["image"], row["problem"], row["action"]) for row in table]


@pytest.fixture
def setup(tmp_path: Path) -> Setup:
    return Setup(tmp_path)


def test_every_photograph_gets_a_row_with_what_its_file_says(setup: Setup) -> None:
    content = picture("png", (5, 7))
    setup.add("10_left.PNG", content)
    setup.add("deeper/still/9_right.jpg", picture("jpeg", (9, 3)))
    setup.add(".hidden.jpeg")
    setup.add(".cache/8_left.jpeg")
    report = setup.take(("10_left", "2.0"), ("9_right", "mild"))
    assert report == InventoryReport(2, 2, 2, {})
    assert read_table(setup.inventory)[0] == {
        "image": "10_left",
        "path": f"{setup.folder}/10_left.PNG",
        "level": "2",
        "patient": "10",
        "eye": "left",
        "bytes": str(len(content)),
        "width": "5",
        "height": "7",
        "digest": digest(content),
        "problem": "",
    }
    second = setup.rows()[f"{setup.folder}/deeper/still/9_right.jpg"]
    assert (second["level"], second["width"], second["height"]) == ("1", "9", "3")
    assert setup.listed() == []


def test_rows_are_in_the_order_of_names_wherever_files_lie(setup: Setup, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    for name in ("b.jpeg", "sub/a.jpeg", "10.jpeg"):
        setup.add(name)
    (other / "9.jpeg").write_bytes(picture())
    labels = [(name, "0") for name in ("a", "b", "10", "9")]
    setup.take(*labels, folders=[other, setup.folder, setup.folder / "sub"])
    assert [row["image"] for row in read_table(setup.inventory)] == ["10", "9", "a", "b"]


@pytest.mark.parametrize("suffix", ["jpeg", "png", "tiff", "bmp", "webp"])
def test_headers_of_all_formats_whatever_the_extension(setup: Setup, suffix: str) -> None:
    path = setup.add("1_left.jpg", picture(suffix, (11, 4)))
    setup.take(("1_left", "0"))
    row = setup.rows()[str(path)]
    assert (row["width"], row["height"], row["problem"]) == ("11", "4", "")


def huge_png() -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 40000, 30000, 8, 2, 0, 0, 0))
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


@pytest.mark.filterwarnings("error")
def test_many_pixels_neither_raise_nor_warn(setup: Setup) -> None:
    path = setup.add("1_left.png", huge_png())
    before = Image.MAX_IMAGE_PIXELS
    setup.take(("1_left", "0"))
    assert setup.rows()[str(path)]["width"] == "40000"
    assert before == Image.MAX_IMAGE_PIXELS


def named_pipe(setup: Setup) -> None:
    os.mkfifo(setup.folder / "1_left.jpeg")


UNREADABLE: dict[str, Callable[[Setup], object]] = {
    "empty file": lambda setup: setup.add("1_left.jpeg", b""),
    "not an image": lambda setup: setup.add("1_left.jpeg", b"<html>not found</html>"),
    "broken header": lambda setup: setup.add("1_left.jpeg", picture()[:20]),
    "neither a file": lambda setup: (setup.folder / "1_left.jpeg").symlink_to("nowhere"),
    "neither a file nor": named_pipe,
}


@pytest.mark.parametrize("found", UNREADABLE)
def test_unreadable_photograph_is_excluded(setup: Setup, found: str) -> None:
    UNREADABLE[found](setup)
    setup.add("1_right.jpeg")
    report = setup.take(("1_left", "3"), ("1_right", "0"))
    assert (report.photographs, report.usable, report.problems) == (2, 1, {"unreadable": 1})
    assert setup.listed() == [("1_left.jpeg", "1_left", "unreadable", "excluded")]
    row = setup.rows()[f"{setup.folder}/1_left.jpeg"]
    assert (row["problem"], row["level"], row["width"]) == ("unreadable", "3", "")


@pytest.mark.filterwarnings("error")
def test_any_start_of_a_photograph_is_read_or_excluded(setup: Setup) -> None:
    """No header, wherever it breaks off, ends the inventory of the others."""
    labels = []
    for suffix in ("jpeg", "png", "tiff", "bmp", "webp"):
        content = picture(suffix, (16, 16))
        for cut in range(0, min(len(content), 400), 7):
            setup.add(f"{suffix}{cut}.jpeg", content[:cut] + b"\xff" * 9)
            labels.append((f"{suffix}{cut}", "0"))
    setup.add("good.jpeg")
    report = setup.take(*labels, ("good", "0"))
    assert report.usable >= 1
    assert set(report.problems) == {"unreadable"}


def test_photograph_without_label_and_label_without_photograph(setup: Setup) -> None:
    for name in ("1_left.jpeg", "1_right.jpeg", "2_LEFT.jpeg"):
        setup.add(name)
    setup.take(("1_left", "0"), ("2_left", "9"), ("3_left", "1"))
    assert setup.listed() == [
        ("1_right.jpeg", "1_right", "no_label", "excluded"),
        ("2_LEFT.jpeg", "2_LEFT", "no_label", "excluded"),
        ("", "2_left", "no_image", "excluded"),
        ("", "3_left", "no_image", "excluded"),
    ]
    assert [row["image"] for row in usable(read_table(setup.inventory))] == ["1_left"]


@pytest.mark.parametrize("level", ["", "2.5", "-1", "5", "awful"])
def test_bad_level_is_an_error_unless_told_otherwise(setup: Setup, level: str) -> None:
    setup.add("1_left.jpeg")
    setup.add("1_right.jpeg")
    labels = [("1_left", level), ("1_right", "0")]
    with pytest.raises(
        RetinaflowError, match=rf"bad_level: 1\n.*'{level}' in row 2.*\n.*on_problem\.bad_level: exclude"
    ):
        setup.take(*labels)
    assert setup.listed() == [("1_left.jpeg", "1_left", "bad_level", "error")]
    assert not setup.inventory.exists()
    assert setup.take(*labels, on_problem=ON_PROBLEM | {"bad_level": "exclude"}).usable == 1
    assert setup.rows()[f"{setup.folder}/1_left.jpeg"]["level"] == ""


@pytest.mark.parametrize("twin", ["1_left.png", "1_LEFT.jpeg", "deeper/1_left.jpeg", "1_left.JPEG", "1_left .jpeg"])
def test_one_name_twice_makes_both_duplicates(setup: Setup, twin: str) -> None:
    for name in ("1_left.jpeg", "1_right.jpeg", twin):
        setup.add(name)
    labels = [("1_left", "0"), ("1_right", "0")]
    with pytest.raises(RetinaflowError, match="duplicate_image: 2"):
        setup.take(*labels)
    assert setup.take(*labels, on_problem={"duplicate_image": "exclude"}).usable == 1
    assert [(kind, action) for _, _, kind, action in setup.listed()] == [("duplicate_image", "excluded")] * 2


def test_labels_that_disagree_are_an_error_and_those_that_agree_a_note(setup: Setup) -> None:
    for name in ("1_left.jpeg", "1_right.jpeg", "2_left.jpeg"):
        setup.add(name)
    labels = [("1_left", "0"), ("1_right", "0"), ("1_left", "none"), ("2_left", "1")]
    assert setup.take(*labels).usable == 3
    assert setup.listed() == [("", "1_left", "duplicate_label", "ignored")]
    labels.append(("2_left", "2"))
    with pytest.raises(RetinaflowError, match=r"duplicate_label: 1\n.*level '1', '2' in rows 5, 6"):
        setup.take(*labels)
    assert setup.take(*labels, on_problem={"duplicate_label": "exclude"}).usable == 2


def test_excluded_by_name_is_no_other_problem_and_does_not_count(setup: Setup) -> None:
    setup.add("1_left.jpeg")
    setup.add("1_right.jpeg", b"")
    setup.add("2_left.jpeg")
    labels = [("1_left", "0"), ("2_left", "7"), ("3_left", "0")]
    report = setup.take(*labels, exclude=["1_right.jpeg", "2_left", "3_left"], exclude_limit=0.0)
    assert (report.usable, report.problems) == (1, {"excluded": 3})
    assert {(image, action) for _, image, _, action in setup.listed()} == {
        ("1_right", "excluded"),
        ("2_left", "excluded"),
        ("3_left", "excluded"),
    }


def test_excluding_one_of_two_twins_leaves_the_other(setup: Setup) -> None:
    setup.add("A.jpeg")
    setup.add("a.jpeg")
    assert setup.take(("a", "0"), exclude=["A"]).usable == 1


def test_excluding_an_unknown_name_is_an_error(setup: Setup) -> None:
    setup.add("1_left.jpeg")
    with pytest.raises(RetinaflowError, match=r"data\.train\.exclude names '1_lift'"):
        setup.take(("1_left", "0"), exclude=["1_lift"])


def test_too_many_excluded_photographs_are_an_error(setup: Setup) -> None:
    for name in ("1_left.jpeg", "1_right.jpeg", "2_left.jpeg", "2_right.jpeg"):
        setup.add(name)
    labels = [("1_left", "0"), ("1_right", "0"), ("2_left", "0"), ("3_left", "0"), ("3_right", "0")]
    assert setup.take(*labels, exclude_limit=0.25).usable == 3
    with pytest.raises(
        RetinaflowError, match=r"1 of 4 photographs.*0\.24(.|\n)*no_label: 1\n(.|\n)*data\.exclude_limit"
    ):
        setup.take(*labels, exclude_limit=0.24)
    assert ("2_right.jpeg", "2_right", "no_label", "excluded") in setup.listed()


def test_error_shows_the_first_five_of_a_kind_and_where_the_rest_is(setup: Setup) -> None:
    for number in range(7):
        setup.add(f"{number}.jpeg")
    with pytest.raises(RetinaflowError) as caught:
        setup.take(*((str(number), "x") for number in range(7)))
    message = str(caught.value)
    assert "bad_level: 7" in message
    assert "4.jpeg" in message
    assert "5.jpeg" not in message
    assert str(setup.problems) in message
    assert len(setup.listed()) == 7


def test_no_photograph_or_none_usable_is_an_error(setup: Setup) -> None:
    setup.add("labels.csv", b"image,level\n")
    with pytest.raises(RetinaflowError, match=r"no photograph in .*resized train 15 among 1 files"):
        setup.take(("1_left", "0"))
    setup.add("2_left.jpeg")
    with pytest.raises(RetinaflowError, match=r"none of the 1 photographs"):
        setup.take(("1_left", "0"))
    with pytest.raises(RetinaflowError, match=r"nowhere: cannot be read as a folder"):
        setup.take(("1_left", "0"), folders=[setup.folder / "nowhere"])


def test_other_files_are_noted(setup: Setup) -> None:
    setup.add("1_left.jpeg")
    setup.add("Thumbs.db", b"x")
    assert setup.take(("1_left", "0")).usable == 1
    assert setup.listed() == [("Thumbs.db", "", "other_file", "ignored")]


def test_patients_and_eyes(setup: Setup) -> None:
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
def test_pattern_that_names_no_patient_is_an_error(setup: Setup, pattern: str) -> None:
    with pytest.raises(RetinaflowError, match=r"data\.patient"):
        setup.take(patient_pattern=pattern)


def test_names_of_every_kind_go_through(setup: Setup) -> None:
    names = ["a b", "it's", 'say "x"', "ü眼", "-rf", "two\nlines", "a,b", "\udce9", "a.v2"]
    for name in names:
        setup.add(f"{name}.jpeg")
    setup.take(*((name, "1") for name in names))
    assert {row["image"] for row in usable(read_table(setup.inventory))} == set(names)
    assert all(Path(row["path"]).is_file() for row in read_table(setup.inventory))


@pytest.mark.real
@pytest.mark.skipif(not (DATA / "eyepacs-original").is_dir(), reason="no photographs at RETINAFLOW_DATA")
def test_full_size_originals(setup: Setup) -> None:
    labels = read_labels(str(DATA / "eyepacs-original/labels.csv"), "image", "level")
    folder = DATA / "eyepacs-original/images"
    report = setup.take(folders=[folder], labels=labels)
    assert (report.photographs, report.usable, report.patients) == (10, 10, 5)
    for path, row in setup.rows().items():
        with Image.open(path) as image:
            assert (int(row["width"]), int(row["height"])) == image.size
            assert int(row["bytes"]) == Path(path).stat().st_size


HOUR_AGO = 1_000_000_000 * (int(time.time()) - 3600)


def replace_unseen(path: Path, content: bytes, changed: int = HOUR_AGO) -> None:
    """Other content that only a reader of the file would notice."""
    assert len(content) == path.stat().st_size
    path.write_bytes(content)
    os.utime(path, ns=(changed, changed))


@pytest.fixture
def taken(setup: Setup) -> tuple[Setup, Path, bytes]:
    """An inventory of one photograph, and other bytes for it of the same length."""
    path = setup.add("1_left.jpeg")
    os.utime(path, ns=(HOUR_AGO, HOUR_AGO))
    setup.take(("1_left", "0"))
    other = bytearray(path.read_bytes())
    other[-3] ^= 1
    return setup, path, bytes(other)


def test_an_unchanged_photograph_is_not_read_again(taken: tuple[Setup, Path, bytes]) -> None:
    setup, path, other = taken
    before = setup.rows()
    replace_unseen(path, other)
    setup.add("1_right.jpeg")
    setup.take(("1_left", "0"), ("1_right", "0"))
    assert setup.rows()[str(path)] == before[str(path)]
    assert setup.rows()[str(path)]["digest"] != digest(other)


@pytest.mark.parametrize("reason", ["changed", "code", "not JSON", "other JSON", "gone"])
def test_a_photograph_is_read_again_when_it_may_differ(taken: tuple[Setup, Path, bytes], reason: str) -> None:
    setup, path, other = taken
    kept = setup.inventory.parent / ".kept" / "train.json"
    replace_unseen(path, other, HOUR_AGO + (reason == "changed"))
    if reason == "not JSON":
        kept.write_bytes(b"\xff")
    elif reason == "other JSON":
        kept.write_text('{"code": "as it is", "headers": {"a": [1]}}')
    elif reason == "gone":
        kept.unlink()
    setup.take(("1_left", "0"), code="another" if reason == "code" else "as it is")
    assert setup.rows()[str(path)]["digest"] == digest(other)


def test_a_photograph_of_just_now_is_read_again(taken: tuple[Setup, Path, bytes]) -> None:
    setup, path, other = taken
    now = time.time_ns()
    os.utime(path, ns=(now, now))
    setup.take(("1_left", "0"))
    replace_unseen(path, other, now)
    setup.take(("1_left", "0"))
    assert setup.rows()[str(path)]["digest"] == digest(other)


def test_what_could_not_be_read_is_tried_again(setup: Setup) -> None:
    content = picture()
    path = setup.add("1_left.jpeg", bytes(len(content)))
    setup.add("2_left.jpeg")
    labels = ("1_left", "0"), ("2_left", "0")
    os.utime(path, ns=(HOUR_AGO, HOUR_AGO))
    setup.take(*labels)
    replace_unseen(path, content)
    setup.take(*labels)
    assert setup.rows()[str(path)]["problem"] == ""


def test_an_inventory_that_cannot_be_remembered_is_taken(setup: Setup, caplog: pytest.LogCaptureFixture) -> None:
    path = setup.add("1_left.jpeg")
    os.utime(path, ns=(HOUR_AGO, HOUR_AGO))
    setup.add("in the way")
    caplog.set_level("INFO")
    setup.take(("1_left", "0"), kept=setup.folder / "in the way" / "train.json")
    assert str(path) in setup.rows()
    assert "not kept for the next time" in caplog.text


def test_names_that_are_not_utf8_are_remembered(setup: Setup) -> None:
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
