"""Results folders of the former layout are recognised; others are not."""

from pathlib import Path

import pytest

from retinaflow.errors import RetinaflowError
from retinaflow.storage.former_layout import check_layout


@pytest.mark.parametrize(
    "file",
    [
        "inventory/.kept/train.json",
        "shards/224-trim-keep-none/train/.kept/0.npy",
        "models/graders.json",
        "models/VGG16/run.json",
        "models/VGG16/fold-1/run.json",
        "models/VGG16/class_indices.json",
        "models/average/decision.json",
        "scores/VGG16/test/outputs.csv",
        "scores/VGG16/fold-1/validation/outputs.csv",
    ],
)
def test_each_former_file_is_recognised(tmp_path: Path, file: str) -> None:
    path = tmp_path / "results" / file
    path.parent.mkdir(parents=True)
    path.write_text("kept")
    with pytest.raises(RetinaflowError, match=r"layout of retinaflow 0\.1 .*expected that of 0\.2.*Move it away"):
        check_layout(tmp_path / "results")
    assert path.read_text() == "kept"


@pytest.mark.parametrize(
    "file",
    ["inventory/.cache/train.json", "models/bundle.json", "models/VGG16/training_run.json", "logs/run.json", ".lock"],
)
def test_present_files_pass(tmp_path: Path, file: str) -> None:
    path = tmp_path / "results" / file
    path.parent.mkdir(parents=True)
    path.touch()
    check_layout(tmp_path / "results")


def test_an_absent_folder_passes(tmp_path: Path) -> None:
    check_layout(tmp_path / "results")
