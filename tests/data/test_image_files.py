"""Which files are images: extensions, DICOM files without one, and thumbnails."""

import os
from pathlib import Path

import pytest

from retinaflow.data.image_files import (
    counts_by_extension,
    extension,
    has_image_extension,
    is_dicom,
    is_image_file,
    is_thumbnail,
)

DICOM = bytes(128) + b"DICM" + bytes(20)


@pytest.mark.parametrize(
    "name",
    ["a.jpg", "a.JPEG", "a.jpe", "a.jfif", "a.JIF", "a.png", "a.tif", "a.tiff", "a.bmp", "a.webp", "a.jp2", "a.dcm"],
)
def test_extension_of_every_format(name: str) -> None:
    assert has_image_extension(name)
    assert is_image_file(name, "/nowhere")


@pytest.mark.parametrize(
    ("name", "suffix"),
    [("a.txt", ".txt"), ("a.TAR.GZ", ".gz"), ("1.2.840.10008.5.1", ""), ("IM000001", ""), ("a.v2", ".v2"), ("", "")],
)
def test_last_step_of_an_identifier_is_no_extension(name: str, suffix: str) -> None:
    assert extension(name) == suffix


def test_dicom_file_without_extension_is_an_image(tmp_path: Path) -> None:
    for name, content in {"1.2.840.10008.7": DICOM, "IM1": DICOM, "README": b"DICM", "DICOMDIR": DICOM}.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "notes.txt").write_bytes(DICOM)
    found = [path.name for path in sorted(tmp_path.iterdir()) if is_image_file(path.name, str(path))]
    assert found == ["1.2.840.10008.7", "IM1"]


def test_pipe_and_missing_file_are_no_images(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    assert not is_image_file("pipe", str(tmp_path / "pipe"))
    assert not is_image_file("gone", str(tmp_path / "gone"))
    assert not is_dicom(b"DICM")


@pytest.mark.parametrize(
    ("name", "passed_over"),
    [
        ("@eaDir/1_left.jpg/SYNOPHOTO_THUMB_M.jpg", True),
        ("sub/@EADIR/1.jpg", True),
        ("__MACOSX/1.jpg", True),
        ("sub/Thumbs.db", True),
        ("1.jpg", False),
        ("thumbs/1.jpg", False),
        ("@eaDir", False),
        ("", False),
    ],
)
def test_thumbnails_are_known_by_their_folder(name: str, passed_over: bool) -> None:
    assert is_thumbnail(name) is passed_over


def test_files_are_counted_by_extension() -> None:
    names = ["a.txt", "b.TXT", "c.pdf", "README", *[f"x.e{number}x" for number in range(9)]]
    found = counts_by_extension(names)
    assert found.startswith("2 .txt, 1 without extension, 1 .e0x, 1 .e1x")
    assert found.endswith(", 4 others")
    assert counts_by_extension([]) == "none"
