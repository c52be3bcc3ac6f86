"""The workflow on a folder of DICOM files: patients, eyes, pixels, and no name in any result."""

import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from conftest import SMALLEST, Project
from dicom_files import dicom_file, encoded
from retinaflow.storage.tables import read_table, write_table

BASELINE, JPEG_2000, DEFLATED = "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.1.99"
SYNTAXES = [
    ("1.2.840.10008.1.2.1", "RGB", None),
    (BASELINE, "YBR_FULL_422", "jpeg"),
    (JPEG_2000, "YBR_RCT", "JPEG2000"),
    (DEFLATED, "RGB", None),
]
SECRETS = (b"SOMMERFELD", b"ADELHEID", b"19340217")


def retina(number: int) -> np.ndarray:
    """A disc with noise, which differs by number."""
    noise = np.random.default_rng(number).integers(60, 160, (64, 64, 3), dtype=np.uint8)
    disc = cv2.circle(np.zeros((64, 64), np.uint8), (32, 32), 30, 1, -1)
    return noise * disc[..., np.newaxis]


def write_images(folder: Path, patients: int, first: int) -> list[dict[str, object]]:
    """DICOM files of both eyes of some patients, named by numbers without extension, and their labels."""
    folder.mkdir(parents=True)
    rows = []
    for number in range(2 * patients):
        syntax, photometric, kind = SYNTAXES[number % len(SYNTAXES)]
        pixels = retina(first + number)
        name = f"1.2.826.{first + number}" if number % 3 else f"{first + number}.dcm"
        content = dicom_file(
            pixels,
            syntax,
            photometric,
            data=encoded(kind, pixels) if kind else None,
            PatientID=f"P{first + number // 2}",
            ImageLaterality="LR"[number % 2],
        )
        (folder / name).write_bytes(content)
        rows.append({"image": name, "level": number // 2 % 5})
    return rows


@pytest.fixture
def project(tmp_path: Path) -> Project:
    project = Project.create(tmp_path / "project", dict(SMALLEST))
    for data_set, patients, first in (("my photographs", 10, 100), ("test", 5, 900)):
        rows = write_images(project.folder / data_set, patients, first)
        labels = "labels train.csv" if data_set != "test" else "labels test.csv"
        write_table(project.folder / labels, ("image", "level"), rows)
    thumbnails = project.folder / "my photographs/@eaDir"
    thumbnails.mkdir()
    (thumbnails / "100.jpg").write_bytes(encoded("jpeg"))
    return project


def test_patients_are_of_the_tags_and_no_name_is_written(project: Project) -> None:
    printed = project.snakemake("--cores", "1", "--until", "preprocess", "--", "all")
    results = project.folder / "results"
    inventory = read_table(results / "inventory/train.csv")
    assert len(inventory) == 20
    assert [row["problem"] for row in inventory] == [""] * 20
    assert {row["patient"] for row in inventory} == {f"P{number}" for number in range(100, 110)}
    assert {row["eye"] for row in inventory} == {"left", "right"}
    assert {row["camera"] for row in inventory} == {"Topcon NW400"}
    (thumbnail,) = read_table(results / "inventory/train-problems.csv")
    assert (thumbnail["problem"], Path(thumbnail["path"]).name) == ("other_file", "100.jpg")
    sides = [{row["patient"] for row in read_table(results / f"split/{side}.csv")} for side in ("train", "validation")]
    assert not sides[0] & sides[1]
    shards = sorted(results.glob("shards/*/*/*.npy"))
    assert sum(len(np.load(shard)) for shard in shards) >= 30
    written = [printed.encode()]
    for folder, _, names in os.walk(results):
        paths = [Path(folder, name) for name in names]
        written += [os.fsencode(path) for path in paths]
        written += [path.read_bytes() for path in paths if not path.is_symlink()]
    assert not [secret for secret in SECRETS for content in written if secret in content.upper()]
