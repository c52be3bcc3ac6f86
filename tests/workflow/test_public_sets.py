"""Presets in the real workflow: one preflight of all downloads."""

from common import SMALL
from conftest import Project
from downloads import DOWNLOADS, make_download
from retinaflow.storage.tables import read_table

TESTED = ("deepdrid", "idrid", "messidor2")


def test_preflight_accepts_the_downloads_of_all_presets(tmp_path):
    project = Project.create(tmp_path / "project", {"train": {"weights": "random", "batch_norm": "train"}})
    expected = {name: make_download(name, project.folder / name, patients=6) for name in DOWNLOADS}
    sources = {name: {"preset": name, "folder": name} for name in DOWNLOADS}
    train = {name: source for name, source in sources.items() if name not in TESTED}
    test = {name: sources[name] for name in TESTED}
    project.config.update(data={"train": train, "test": test}, models=SMALL, eyes={"models": []})
    project.snakemake("preflight", "--cores", "2")
    for name in DOWNLOADS:
        use = "test" if name in TESTED else "train"
        images = read_table(project.folder / f"results/inventory/{use}-{name}.csv")
        labels = expected[name].get(use) or expected[name]["all"]
        grades = {row["image"]: row["grade"] for row in images if not row["problem"]}
        assert grades == {image: label.grade for image, label in labels.items() if label.grade}
    joined = read_table(project.folder / "results/inventory/train.csv")
    assert {row["image"].partition("/")[0] for row in joined} == set(train)
