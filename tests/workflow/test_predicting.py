"""`snakemake predict` after a finished run: its grades, its reruns, and that it trains nothing."""

import os
import shutil
import time
import zipfile
from collections import Counter

import pytest

from retinaflow.cli import main
from retinaflow.data.sources import folder_name
from retinaflow.storage.tables import read_table

NEW = "new photos"
PREDICT = ("predict", "--config", f"images={NEW}")
ONE = Counter(["predict"])


def predictions(project, source):
    folder = project.folder / "results/predictions" / folder_name(str(project.folder / source))
    return (
        {row["image"]: row for row in read_table(folder / "predictions.csv")},
        {row["image"]: row["problem"] for row in read_table(folder / "problems.csv")},
    )


def same_as_scored(project, model, rows):
    """Check that copies of test images have the scores of the test set."""
    path = project.folder / "results/scores" / model / "test/predictions.csv"
    scored = {row["filename"]: row for row in read_table(path)}
    for image, row in rows.items():
        expected = scored[os.path.basename(image)]  # noqa: PTH119
        assert (row["predicted_grade_name"], row["predicted_grade"]) == (
            expected["predicted_grade_name"],
            expected["predicted_grade"],
        )
        assert [row[name] for name in ("patient", "eye", "referable")] == [
            expected[name] for name in ("patient", "eye", "referable")
        ]
        figures = ["severity", *(name for name in row if name.startswith("probability_"))]
        assert [float(row[name]) for name in figures] == pytest.approx(
            [float(expected[name]) for name in figures], abs=1e-4
        )


def test_new_images_are_graded_like_the_test_set(finished):
    folder, test = finished.folder / NEW, finished.folder / "test"
    names = sorted(path.name for path in test.iterdir())[:5]
    (folder / "more").mkdir(parents=True)
    for name in names[1:]:
        shutil.copy(test / name, folder / name)
    shutil.copy(test / names[0], folder / "more" / names[0])
    (folder / "9001_left.jpeg").write_bytes((test / names[0]).read_bytes()[:-200])
    (folder / "notes.txt").write_text("hello")

    # Wrong requests are one clear error each.
    shown = finished.snakemake("predict", check=False)
    assert "images: none, so there is nothing to predict. Name the images: `snakemake predict --config images=" in shown
    shown = finished.snakemake("-n", "predict", "--config", "images=absent", check=False)
    assert "images: there is no 'absent'; expected a folder of images, a .zip archive of one, or a list" in shown
    shown = finished.snakemake("-n", *PREDICT, "model=Nobody", check=False)
    assert "model: 'Nobody' grades no new images; expected one of MobileNetV3Small, VGG16, ensemble" in shown

    assert finished.planned(*PREDICT) == ONE
    finished.snakemake(*PREDICT)
    rows, problems = predictions(finished, NEW)
    assert set(rows) == {f"more/{names[0]}", *names[1:]}
    assert problems == {"9001_left.jpeg": "truncated", "notes.txt": "other_file"}
    ranked = read_table(finished.folder / "results/comparison/comparison.csv")
    same_as_scored(finished, ranked[0]["model"], rows)
    # A copy of the bundle has the same answers.
    copy = finished.folder.parent / "copied bundle"
    shutil.copytree(finished.folder / "results/models" / ranked[0]["model"] / "bundle", copy)
    assert main(["predict", "--model", str(copy), str(folder), "--output", str(copy)]) == 1  # two problems
    assert {row["image"]: row for row in read_table(copy / "predictions.csv")} == rows
    assert not finished.planned(bundles=True)
    # Both eyes of two patients, and one eye of a third.
    assert Counter(bool(row["eye_average_grade_name"]) for row in rows.values()) == {True: 4, False: 1}

    assert not finished.planned(*PREDICT)
    assert not finished.planned()
    time.sleep(1.1)
    os.utime(folder)
    assert not finished.planned(*PREDICT)
    assert finished.planned(*PREDICT, "model=ensemble") == ONE
    shutil.copy(test / names[1], folder / names[1])  # with another time
    assert finished.planned(*PREDICT) == ONE

    # An archive with the same name beside the folder, graded by the ensemble, and a list of files.
    archive = finished.folder / f"{NEW}.zip"
    with zipfile.ZipFile(archive, "w") as file:
        for name in names:
            file.write(test / name, f"inside/{name}")
    finished.snakemake("predict", "--config", f"images={archive.name}", "model=ensemble")
    rows, problems = predictions(finished, archive.name)
    assert (set(rows), problems) == ({f"inside/{name}" for name in names}, {})
    same_as_scored(finished, "ensemble", rows)
    assert predictions(finished, NEW)[1]
    assert not list((finished.folder / "results/predictions").glob("*/.unpacked*"))

    (finished.folder / "list.txt").write_text(f"test/{names[0]}\n{test / names[1]}\ntest/absent.jpeg\n")
    finished.snakemake("predict", "--config", "images=list.txt", "model=MobileNetV3Small")
    rows, problems = predictions(finished, "list.txt")
    assert (set(rows), list(problems.values())) == ({f"test/{names[0]}", str(test / names[1])}, ["no_image"])
    same_as_scored(finished, "MobileNetV3Small", rows)

    with zipfile.ZipFile(finished.folder / "new.zip", "w") as file:
        file.writestr("../../escaped.jpeg", b"x")
    shown = finished.snakemake("predict", "--config", "images=new.zip", check=False)
    assert "error: new.zip: member '../../escaped.jpeg' leads out of the archive's folder" in shown
    assert not list(finished.folder.rglob("escaped.jpeg"))
