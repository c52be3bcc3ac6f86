"""Images, labels and weights in object storage, on an S3 server of this machine: `pytest -m s3`.

The tests are skipped with the reason if moto or Snakemake's S3 plugin is missing.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from importlib.util import find_spec
from pathlib import Path

import h5py
import pytest

from common import CLASSES, SMALL

pytestmark = [pytest.mark.s3, pytest.mark.timeout(600)]

CREDENTIALS = {
    "SNAKEMAKE_STORAGE_S3_ACCESS_KEY": "somebody",
    "SNAKEMAKE_STORAGE_S3_SECRET_KEY": "open sesame",
}


@pytest.fixture(scope="module")
def endpoint():
    """Yield the address of an empty S3 server."""
    for module, needed in (("moto", "s3-dev"), ("flask", "s3-dev"), ("snakemake_storage_plugin_s3", "s3")):
        if find_spec(module) is None:
            pytest.skip(f"{module} is not installed (envs/requirements-{needed}.txt)")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"
    command = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        deadline = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(f"{address}/moto-api/", timeout=5).close()  # noqa: S310
                break
            except OSError:
                assert server.poll() is None
                assert time.monotonic() < deadline
                time.sleep(0.2)
        yield address
        server.terminate()


@pytest.fixture
def bucket(endpoint, monkeypatch):
    """Yield an empty bucket `eyes`. The environment has the server and its credentials, as for users."""
    import boto3

    for name, value in CREDENTIALS.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("SNAKEMAKE_STORAGE_S3_ENDPOINT_URL", endpoint)
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    storage = boto3.resource(
        "s3",
        endpoint_url=endpoint,
        region_name="us-east-1",
        aws_access_key_id=CREDENTIALS["SNAKEMAKE_STORAGE_S3_ACCESS_KEY"],
        aws_secret_access_key=CREDENTIALS["SNAKEMAKE_STORAGE_S3_SECRET_KEY"],
    )
    eyes = storage.create_bucket(Bucket="eyes")
    yield eyes
    eyes.objects.all().delete()
    eyes.delete()


def upload(bucket, folder, prefix):
    for file in folder.rglob("*"):
        if file.is_file():
            bucket.upload_file(str(file), f"{prefix}/{file.relative_to(folder).as_posix()}")


@pytest.fixture
def stored(bucket, drawn, bare, tmp_path):
    """Return a project with training images below a prefix, test images in an archive, and both label tables."""
    upload(bucket, drawn / "my photographs", "train/left and right")
    bucket.upload_file(str(drawn / "labels train.csv"), "labels/train.csv")
    # A folder of the archive has the images, and another archive has the table.
    shutil.copytree(drawn / "test", tmp_path / "archive/folder/inside")
    bucket.upload_file(shutil.make_archive(str(tmp_path / "test"), "zip", tmp_path / "archive"), "test.zip")
    (tmp_path / "table").mkdir()
    shutil.copy(drawn / "labels test.csv", tmp_path / "table/test.csv")
    bucket.upload_file(shutil.make_archive(str(tmp_path / "labels"), "zip", tmp_path / "table"), "labels.zip")
    return bare(
        data={
            "train": {"images": "s3://eyes/train", "labels": "s3://eyes/labels/train.csv"},
            "test": {"images": "s3://eyes/test.zip/folder/inside", "labels": "s3://eyes/labels.zip"},
            "grade_names": CLASSES,
        },
        models=SMALL,
    )


def downloads(project):
    return [job for job in project.planned() if job.startswith("download")]


def test_images_in_object_storage_are_trained_on_and_fetched_once(stored, bucket, fresh, image_bytes):
    planned = stored.planned()
    # One job for each folder or archive, with any number of images.
    assert sum(count for job, count in planned.items() if job.startswith("download")) == 2
    stored.snakemake()
    results = stored.folder / "results"
    assert not (results / "downloaded/test-0.zip").exists()
    assert (results / "scores/MobileNetV3Small/test/metrics.json").is_file()
    local = fresh(models=SMALL)
    local.snakemake("--until", "organize")
    for part in ("train", "validation", "test"):
        index = Path("results/organized", part, "index.csv")
        assert (stored.folder / index).read_bytes() == (local.folder / index).read_bytes()
    assert "Nothing to be done" in stored.snakemake("-n")

    # One image is replaced.
    old = {file: file.stat().st_ino for file in (results / "downloaded/train-0/left and right").iterdir()}
    replaced = next(iter(bucket.objects.filter(Prefix="train/"))).key
    bucket.put_object(Key=replaced, Body=image_bytes)
    planned = stored.planned()
    assert downloads(stored) == ["download_folder train 0"]
    assert planned["inventory train"] == 1
    assert not any("unpack" in job for job in planned)
    stored.snakemake("--until", "download_folder")
    assert (results / "downloaded" / replaced.replace("train/", "train-0/", 1)).read_bytes() == image_bytes
    new = {file: file.stat().st_ino for file in (results / "downloaded/train-0/left and right").iterdir()}
    assert len(old.items() & new.items()) == len(old) - 1
    assert len(list((results / "downloaded/.cache/train-0").iterdir())) == len(old)
    assert "1 of them to fetch" in stored.read("results/logs/download/train-0.log")

    # A changed archive is fetched and unpacked again.
    stored.snakemake("preflight")
    bucket.Object("test.zip").copy_from(CopySource="eyes/labels.zip")
    assert {"download_archive test 0", "unpack test 0", "inventory test"} <= stored.planned().keys()


@pytest.mark.slow
def test_replaced_label_table_is_noticed_and_nothing_else_fetched(stored, bucket):
    stored.snakemake("preflight")
    assert not stored.planned("preflight")
    table = bucket.Object("labels/train.csv")
    lines = table.get()["Body"].read().decode().splitlines()
    table.put(Body="\n".join(lines[:-1]).encode())
    planned = stored.planned("preflight")
    assert planned["inventory train"] == 1
    assert not any(job.startswith(("download", "unpack")) for job in planned)
    stored.snakemake("preflight")
    assert "no_label" in stored.read("results/inventory/train-problems.csv")


@pytest.mark.slow
def test_settings_of_the_plugin_reach_downloads(stored, endpoint, monkeypatch):
    monkeypatch.delenv("SNAKEMAKE_STORAGE_S3_ENDPOINT_URL")
    stored.snakemake("--until", "download_folder", "--storage-s3-endpoint-url", endpoint)
    assert len(list((stored.folder / "results/downloaded/train-0/left and right").iterdir())) == 48


@pytest.mark.slow
def test_jobs_on_other_machines_need_no_storage(stored, monkeypatch):
    stored.snakemake("--until", "download_archive", "--notemp")
    monkeypatch.setenv("SNAKEMAKE_STORAGE_S3_ENDPOINT_URL", "http://127.0.0.1:9")
    # An executor starts a job there in this way.
    stored.snakemake(
        *("--mode", "remote", "--force", "--allowed-rules", "unpack", "--cores", "1"),
        *("--target-jobs", "unpack:dataset=test,number=0"),
    )
    assert len(list((stored.folder / "results/unpacked/test-0").glob("*.jpeg"))) == 32


@pytest.mark.slow
def test_credentials_of_aws_are_accepted(stored, monkeypatch):
    for name, value in zip(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), CREDENTIALS.items(), strict=True):
        monkeypatch.delenv(value[0])
        monkeypatch.setenv(name, value[1])
    stored.snakemake("--until", "download_folder")


@pytest.mark.slow
def test_weights_are_fetched_from_object_storage(stored, bucket):
    bucket.put_object(Key="my.weights.h5", Body=b"<html>")
    stored.config["train"] = {**stored.config["train"], "weights": "s3://eyes/my.weights.h5"}
    assert "download_weights" in " ".join(stored.planned())
    shown = stored.snakemake("weights", check=False)
    assert "s3://eyes/my.weights.h5: found an HTML page" in shown
    file = stored.folder / "results/downloaded/MobileNetV3Small.weights.h5"
    assert not file.exists()
    with h5py.File(stored.folder / "some.h5", "w") as weights:
        weights["kernel"] = [1.0]
    content = (stored.folder / "some.h5").read_bytes()
    bucket.put_object(Key="my.weights.h5", Body=content)
    stored.snakemake("weights")
    assert file.read_bytes() == content
    assert not stored.planned("weights")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"images": "s3://eyes/nothing/"}, "data.train.images: s3://eyes/nothing/: there is no object below it"),
        ({"images": "s3://nobodys/train"}, "data.train.images: s3://nobodys/train: there is no such object or bucket"),
        ({"images": "s3://eyes/none.zip"}, "data.train.images: s3://eyes/none.zip: there is no such object or bucket"),
        ({"labels": "s3://eyes/none.csv"}, "data.train.labels: s3://eyes/none.csv: there is no such object or bucket"),
    ],
    ids=["prefix", "bucket", "archive", "table"],
)
def test_missing_object_is_named(stored, change, expected):
    stored.config["data"]["train"].update(change)
    shown = stored.snakemake("-n", check=False)
    assert expected in shown
    assert "Traceback" not in shown


def test_unreachable_storage_is_named(stored, monkeypatch):
    monkeypatch.setenv("SNAKEMAKE_STORAGE_S3_ENDPOINT_URL", "http://127.0.0.1:9")
    shown = stored.snakemake("-n", "--storage-s3-retries", "0", check=False)
    assert "data.train.images: s3://eyes/train: cannot be fetched" in shown
    assert "--storage-s3-endpoint-url" in shown
    assert "Traceback" not in shown


def test_wrong_credentials_are_named(stored, endpoint):
    def check_after(requests):
        request = urllib.request.Request(  # noqa: S310
            f"{endpoint}/moto-api/reset-auth", requests.encode(), {"Content-Type": "text/plain"}
        )
        urllib.request.urlopen(request, timeout=5).close()  # noqa: S310

    check_after("0")
    try:
        shown = stored.snakemake("-n", check=False)
    finally:
        check_after("inf")
    assert "data.train.images: s3://eyes/train: the storage refuses" in shown
    assert "SNAKEMAKE_STORAGE_S3_ACCESS_KEY" in shown
    assert CREDENTIALS["SNAKEMAKE_STORAGE_S3_SECRET_KEY"] not in shown
    assert "Traceback" not in shown


def test_object_name_outside_of_its_folder_is_refused(stored, bucket):
    bucket.put_object(Key="train//etc/passwd", Body=b"x")
    shown = stored.snakemake("-n", check=False)
    assert "s3://eyes/train: the object 'train//etc/passwd' has an empty" in shown


@pytest.mark.skipif(find_spec("snakemake_storage_plugin_s3") is not None, reason="the S3 plugin is installed")
def test_missing_plugin_is_named_with_its_requirements(bare):
    project = bare(data={"train": {"images": "s3://eyes/train", "labels": "s3://eyes/labels.csv"}})
    shown = project.snakemake("-n", check=False)
    assert "envs/requirements-s3.txt" in shown
    assert "Traceback" not in shown
