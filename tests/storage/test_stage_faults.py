"""Stages that write several files, on disks that fail at each step and at drawn sizes of files."""

import contextlib
import errno
import sys
import types
import zipfile

import numpy as np
import pytest
from PIL import Image

from bundles import write_toy_bundle
from faults import check_faults, failing
from retinaflow.cli import main
from retinaflow.reporting.illustrations import captioned_figure
from retinaflow.serving.bundle import read_bundle
from retinaflow.serving.exported import DIFFERENCE_COLUMNS, summarise_differences
from retinaflow.serving.predict import (
    PREDICT_PROBLEM_COLUMNS,
    GradedImages,
    answer_tables,
    columns,
    write_answers,
)
from retinaflow.serving.runtime import load_bundled_model
from retinaflow.storage import object_storage
from retinaflow.storage.archives import unpack
from retinaflow.storage.disk_errors import disk_refusal
from retinaflow.storage.tables import write_table

IMAGES = {f"patient {number}/left.jpeg": bytes([number]) * 700 for number in range(4)}


class Storage:
    """Client of an object storage with the images."""

    def get_paginator(self, _):
        return self

    def paginate(self, Bucket, Prefix):  # noqa: N803 - the names of boto3
        del Bucket
        found = {key: content for key, content in IMAGES.items() if f"train/{key}".startswith(Prefix)}
        entries = [{"Key": f"train/{key}", "ETag": key, "Size": len(content)} for key, content in found.items()]
        return [{"Contents": entries}]

    def head_object(self, Bucket, Key):  # noqa: N803
        del Bucket
        key = Key.removeprefix("train/")
        return {"ETag": key, "ContentLength": len(IMAGES[key])}

    def download_file(self, _, key, path, Config):  # noqa: N803
        del Config
        with open(path, "wb") as file:
            file.write(IMAGES[key.removeprefix("train/")])


@pytest.fixture
def storage(monkeypatch):
    """A client. The code needs boto3 only for its errors and for one class of settings."""
    transfer = types.SimpleNamespace(TransferConfig=dict)
    for name, module in {"boto3": None, "boto3.s3": None, "boto3.s3.transfer": transfer}.items():
        monkeypatch.setitem(sys.modules, name, module or types.ModuleType(name))
    monkeypatch.setattr(object_storage, "_explained", contextlib.nullcontext)
    return Storage()


def test_archive_is_unpacked_whole_or_not_at_all(tmp_path):
    with zipfile.ZipFile(tmp_path / "images.zip", "w") as archive:
        for name, content in IMAGES.items():
            archive.writestr(name, content)
    assert check_faults(lambda folder: unpack(str(tmp_path / "images.zip"), folder / "images", 10**6), tmp_path) >= 15


def test_folder_of_a_storage_is_fetched_whole_or_not_at_all(tmp_path, storage):
    def fetch(folder):
        object_storage.fetch_folder(storage, "s3://eyes/train", target=folder / "images", max_bytes=10**6)

    assert check_faults(fetch, tmp_path, most=8) >= 24


def test_weights_of_a_storage_are_fetched_whole_or_not_at_all(tmp_path, storage):
    name = next(iter(IMAGES))
    assert (
        check_faults(
            lambda folder: object_storage.fetch_file(storage, f"s3://eyes/train/{name}", folder / "a.h5"), tmp_path
        )
        >= 9
    )


def test_bundle_has_its_description_only_if_it_is_whole(tmp_path):
    def write(folder):
        folder.mkdir(exist_ok=True)
        (folder / "models/A/bundle/bundle.json").unlink(missing_ok=True)
        try:
            write_toy_bundle(folder, "A", [("A", "softmax", ["A/fold-1", "A/fold-2"])], eye_average=True)
        except OSError:
            assert not (folder / "models/A/bundle/bundle.json").exists()
            raise
        read_bundle(folder / "models/A/bundle")

    assert check_faults(write, tmp_path, most=3) >= 12


@pytest.fixture
def bundle(tmp_path_factory):
    return read_bundle(write_toy_bundle(tmp_path_factory.mktemp("run"), "A", [("A", "softmax", ["A"])]))


def test_tables_of_answers(tmp_path, bundle):
    names = columns(bundle.grade_names)
    answers = [
        {
            **dict.fromkeys(names, 0.125),
            **{"image": f"{number}_left", "patient": str(number), "eye": "left", "decision": "refer"},
            **{"predicted_grade_name": "mild", "predicted_grade": 1},
        }
        for number in range(30)
    ]
    problems = [dict.fromkeys(PREDICT_PROBLEM_COLUMNS, "x")]
    loaded = load_bundled_model(bundle, 1)

    def write(folder):
        write_answers(answer_tables(folder), GradedImages(answers, problems, {"x": ("1", "")}, {}, []), loaded)

    assert check_faults(write, tmp_path) >= 15


def test_summary_of_exports(tmp_path):
    write_table(tmp_path / "a.csv", DIFFERENCE_COLUMNS, [dict.fromkeys(DIFFERENCE_COLUMNS, "1")])

    def write(folder):
        summarise_differences([tmp_path / "a.csv"], folder / "export.csv", folder / "export.md")

    assert check_faults(write, tmp_path) >= 15


def test_figure_of_heat_maps(tmp_path):
    panels = [(np.full((8, 16, 3), number, np.uint8), str(number)) for number in range(2)]

    def draw(folder):
        captioned_figure(folder / "test.png", panels, title="heat maps", empty="none", columns=2)

    assert check_faults(draw, tmp_path, most=2) >= 6


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO, errno.EROFS])
def test_command_names_file_and_cure(tmp_path, bundle, capsys, number, monkeypatch):
    monkeypatch.chdir(tmp_path)
    image = tmp_path / "1_left.png"
    Image.fromarray(np.random.default_rng(1).integers(0, 256, (40, 40, 3), np.uint8)).save(image)
    with failing(tmp_path / "answers", 0, number):
        status = main(["predict", str(image), "--model", str(bundle.folder), "--output", str(tmp_path / "answers")])
    assert status == 1
    assert "Finished results are not lost: " in capsys.readouterr().err


class ResourceExhaustedError(Exception):
    """An error in the words of TensorFlow (tsl/platform/errno.cc)."""


ResourceExhaustedError.__module__ = "tensorflow.python.framework.errors_impl"


def test_error_of_tensorflow_names_its_file():
    error = RuntimeError("no export")
    error.__cause__ = ResourceExhaustedError("scratch/variables.data; No space left on device [Op:SaveV2]")
    assert disk_refusal(error).startswith("scratch/variables.data: No space left on device. ")
    error.__cause__ = ResourceExhaustedError("OOM when allocating tensor with shape[9]")
    assert disk_refusal(error) == ""
