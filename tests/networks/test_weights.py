"""Download of ImageNet weights, without a network."""

import os
import subprocess
import sys
from pathlib import Path

import keras
import numpy as np
import pytest

from common import ROOT
from faults import check_faults
from retinaflow.errors import RetinaflowError
from retinaflow.networks.building import load_backbone
from retinaflow.networks.weights import fetch

# Keras with a replaced download. For `trusted`, the checksum is not compared.
KERAS = """
import shutil, sys, urllib.request
from pathlib import Path

def download(address, path, progress):
    assert address.startswith("https://") and "v3_small" in address and "no_top" in address, address
    shutil.copyfile(sys.argv[2], path)
    if sys.argv[3] == "trusted":
        sys.modules["keras.src.utils.file_utils"].validate_file = lambda *arguments, **options: True

if sys.argv[3] != "offline":
    urllib.request.urlretrieve = download

from retinaflow.networks.weights import fetch
fetch("MobileNetV3Small", Path(sys.argv[1]))
"""


@pytest.fixture(scope="module")
def fetched(tmp_path_factory: pytest.TempPathFactory) -> dict[str, tuple[int, str, Path]]:
    """Return exit status, messages and folder of three downloads, each in a new process with a new home folder."""
    folder = tmp_path_factory.mktemp("weights")
    keras.utils.set_random_seed(1)
    network = keras.applications.MobileNetV3Small(include_top=False, weights=None)
    network.save(folder / "source.h5")
    running = {}
    for kind in ("trusted", "broken", "offline"):
        (folder / kind / "home").mkdir(parents=True)
        environment = {name: value for name, value in os.environ.items() if name.lower() != "no_proxy"}
        environment.pop("KERAS_HOME", None)
        nowhere = "http://127.0.0.1:9"
        environment |= {"HOME": str(folder / kind / "home"), "https_proxy": nowhere, "HTTPS_PROXY": nowhere}
        target = folder / kind / "weights" / "MobileNetV3Small.h5"
        running[kind] = subprocess.Popen(
            [sys.executable, "-c", KERAS, str(target), str(folder / "source.h5"), kind],
            cwd=ROOT / "workflow",
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
    results = {}
    for kind, process in running.items():
        message = process.communicate(timeout=200)[1]
        results[kind] = process.returncode, message, folder / kind
    return results


def test_downloaded_file_has_its_name_and_fits(fetched):
    status, message, folder = fetched["trusted"]
    assert status == 0, message
    assert [path.name for path in (folder / "weights").iterdir()] == ["MobileNetV3Small.h5"]
    loaded = load_backbone("MobileNetV3Small", 32, folder / "weights" / "MobileNetV3Small.h5")
    keras.utils.set_random_seed(1)
    source = keras.applications.MobileNetV3Small(include_top=False, weights=None)
    for old, new in zip(source.weights, loaded.weights, strict=True):
        assert np.array_equal(old, new)


@pytest.mark.parametrize(("kind", "cause"), [("broken", "hash"), ("offline", "URL fetch failure")])
def test_failed_download_leaves_no_file(fetched, kind, cause):
    status, message, folder = fetched[kind]
    assert status == 1
    assert "RetinaflowError: The ImageNet weights of MobileNetV3Small could not be fetched: " in message
    assert cause in message
    assert "Run `snakemake weights` again on a machine with internet" in message
    assert list((folder / "weights").iterdir()) == []


@pytest.mark.parametrize("kind", ["trusted", "broken", "offline"])
def test_home_folder_has_no_files_of_keras(fetched, kind):
    assert not (fetched[kind][2] / "home" / ".keras").exists()


def test_failed_download_keeps_the_former_file(tmp_path, monkeypatch):
    def failing(**_):
        raise OSError("no route to host")

    monkeypatch.setenv("KERAS_HOME", str(tmp_path))  # restored afterwards
    monkeypatch.setattr(keras.applications, "VGG16", failing)
    (tmp_path / "VGG16.h5").write_bytes(b"weights")
    with pytest.raises(RetinaflowError, match="no route to host"):
        fetch("VGG16", tmp_path / "VGG16.h5")
    assert [path.name for path in tmp_path.iterdir()] == ["VGG16.h5"]
    assert (tmp_path / "VGG16.h5").read_bytes() == b"weights"


def test_full_disk_is_not_a_failed_download(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def download(**_: object) -> None:
        home = Path(os.environ["KERAS_HOME"], "models")
        home.mkdir(parents=True, exist_ok=True)
        with open(home / "weights.h5", "wb") as file:
            file.write(bytes(3000))

    monkeypatch.setenv("KERAS_HOME", "")
    monkeypatch.setattr(keras.applications, "MobileNetV3Small", download)
    assert check_faults(lambda folder: fetch("MobileNetV3Small", folder / "weights/a.h5"), tmp_path) >= 15
