"""The gallery of a complete run: its figures and tables, and no image of a patient."""

import importlib
import sys
from pathlib import Path

import pytest
from PIL import Image

from common import ROOT
from retinaflow.storage.tables import write_table

COMPARISON = "Ranked.\n\n## validation: 4 images\n\n| rank |\n|---|\n| 1 |\n\n## Gain\n\nmore\n"
FIGURES = [
    "comparison/comparison.png",
    "comparison/roc-test.png",
    "scores/B/learning_curves.png",
    "scores/B/test/confusion_matrix.png",
    "scores/A/test/confusion_matrix.png",
    "evidence/test/roc.png",
    "evidence/test/suspects.png",
    "evidence/train/flow.png",
    "explain/B/test.png",
    "report/samples.png",
]


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Return a folder with the figures of a run and the comparison of two models."""
    folder = tmp_path / "results"
    for name in FIGURES:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (2200, 10)).save(folder / name)
    write_table(
        folder / "comparison/comparison.csv",
        ["rank", "model", "split"],
        [{"rank": rank, "model": model, "split": "validation"} for rank, model in (("2", "A"), ("1", "B"))],
    )
    (folder / "comparison/comparison.md").write_text(COMPARISON)
    return folder


def test_gallery_has_figures_of_the_best_model_alone(results: Path, tmp_path: Path) -> None:
    sys.path.insert(0, str(ROOT / "docs"))
    gallery = importlib.import_module("gallery")
    page = tmp_path / "gallery.md"
    page.write_text("former text")
    (tmp_path / "gallery").mkdir()
    (tmp_path / "gallery/old.png").touch()
    gallery.write_gallery(results, page, "Two models.")
    copied = {path.name for path in (tmp_path / "gallery").iterdir()}
    assert copied == {
        "comparison-comparison.png",
        "comparison-roc-test.png",
        "scores-B-learning_curves.png",
        "scores-B-test-confusion_matrix.png",
        "evidence-test-roc.png",
        "evidence-train-flow.png",
    }
    with Image.open(tmp_path / "gallery/comparison-comparison.png") as image:
        assert image.size == (1100, 5)
    text = page.read_text()
    assert all(f"](gallery/{name})" in text for name in copied)
    assert "Two models." in text
    assert "### validation: 4 images" in text
    assert "former text" not in text
    assert "## Gain" not in text
