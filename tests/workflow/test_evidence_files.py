"""The evidence of a finished project: its files, and what repeats it."""

import pytest

from conftest import Project
from retinaflow.storage.tables import read_table


@pytest.fixture(scope="module")
def reviewed(finished_once: Project, tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Return a finished project with its evidence."""
    project = finished_once.copy(tmp_path_factory.mktemp("reviewed") / "project")
    project.snakemake("evidence")
    return project


def test_evidence_has_every_split_and_data_set(reviewed: Project) -> None:
    folder = reviewed.folder / "results/evidence"
    rows = read_table(folder / "endpoints.csv")
    assert {row["split"] for row in rows} == {"validation", "test"}
    assert {row["unit"] for row in rows} == {"image", "eye", "patient"}
    assert {path.parent.name for path in folder.glob("*/flow.png")} == {"train", "test"}
    page = (folder / "evidence.html").read_text(encoding="utf-8")
    missing = [name for name in ("validation/roc.png", "train/flow.png", "STARD-AI") if name not in page]
    assert not missing


def test_evidence_settings_train_nothing(reviewed: Project) -> None:
    assert not reviewed.planned("evidence")
    reviewed.config = {**reviewed.config, "evidence": {"operating_points": ["sensitivity 0.80"]}}
    assert set(reviewed.planned("evidence")) == {"write_evidence", "evidence"}
    assert not reviewed.planned()
