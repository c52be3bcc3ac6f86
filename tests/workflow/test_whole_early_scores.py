"""The job that trains a network scores it, with the results that the later stages would have."""

from retinaflow.storage.tables import read_table

SPLITS = ("validation", "test")
COPIED = "computed before with this network and these settings"


def outputs(table, kind):
    return [[row[f"{kind}_{grade}"] for grade in range(5)] for row in read_table(table)]


def test_later_stages_copy_or_compute_the_same_results(fresh):
    project = fresh(models={"VGG16": {}}, eyes={"models": ["stacking"]})
    scores = project.folder / "results/scores/VGG16"
    tables = [scores / split / "raw_outputs.csv" for split in SPLITS]
    features = [scores / split / "features.npy" for split in SPLITS]
    targets = [str(file.relative_to(project.folder)) for file in (*tables, *features)]
    project.snakemake(*targets)
    logs = ["results/logs/score/VGG16.log", "results/logs/features/VGG16.log"]
    assert [project.read(log).count(COPIED) for log in logs] == [2, 2]
    first, computed = [outputs(table, "output") for table in tables], [file.read_bytes() for file in features]
    # Raw outputs stay in the cache, features do not.
    assert len(list((scores.parent / ".cache").iterdir())) == 2
    for file in features:
        file.unlink()
    project.config["score"] = {"tta_views": 2}
    shown = project.snakemake(*targets)
    assert "train VGG16" not in shown
    assert not [log for log in logs if COPIED in project.read(log)]
    # The first view is the image itself. Another process has the same outputs, to the last digit.
    assert [outputs(table, "no_tta") for table in tables] == first
    assert [file.read_bytes() for file in features] == computed
