"""Models of both eyes and the linear probe in real jobs: their files, values and reruns."""

from collections import Counter

import numpy as np
import pytest

from common import SMALL
from retinaflow.cli import main
from retinaflow.storage.tables import read_table

NETWORK = "MobileNetV3Small"
MADE = [
    f"run_features {NETWORK}",
    f"eye_average {NETWORK}",
    f"eye_stacking {NETWORK}",
    *[f"grade {NETWORK}+{kind}" for kind in ("eye_average", "eye_stacking")],
]
PROBED = [
    *[f"features {NETWORK} {split}" for split in ("train", "validation")],
    f"probe_backbone {NETWORK}",
    "rank_probes",
]


def outputs(project, model, split):
    rows = read_table(project.folder / "results/scores" / model / split / "raw_outputs.csv")
    columns = [name for name in rows[0] if name.startswith("output_")]
    return {row["image"]: np.array([float(row[name]) for name in columns]) for row in rows}


def test_both_eyes_and_probe_are_written_and_rerun(finished):
    del finished.config["models"]["VGG16"]
    finished.config["eyes"] = {"models": ["average", "stacking"], "fellow_eye_weight": 0.25}
    targets = ("all", "probe")
    planned = finished.planned(*targets)
    assert planned == Counter([*MADE, *PROBED, "compare", "probe"])
    finished.snakemake(*targets)
    assert not finished.planned(*targets) - Counter(["probe"])

    # The drawn images have both eyes of each patient.
    for split in ("validation", "test"):
        own = outputs(finished, NETWORK, split)
        for image, averaged in outputs(finished, f"{NETWORK}+eye_average", split).items():
            patient, eye = image.split("_")
            fellow = own[f"{patient}_{'left' if eye == 'right' else 'right'}"]
            np.testing.assert_allclose(averaged, 0.75 * own[image] + 0.25 * fellow, atol=1e-8)
        stacked = outputs(finished, f"{NETWORK}+eye_stacking", split)
        assert stacked.keys() == own.keys()
        assert {answer.shape for answer in stacked.values()} == {(1,)}
    # The bundle of the stacking has the answers of the stage.
    bundle, answers = finished.folder / f"results/models/{NETWORK}+eye_stacking/bundle", finished.folder / "answers"
    assert main(["predict", "--model", str(bundle), str(finished.folder / "test"), "--output", str(answers)]) == 0
    graded = {row["image"]: row for row in read_table(answers / "predictions.csv")}
    scored = read_table(finished.folder / f"results/scores/{NETWORK}+eye_stacking/test/predictions.csv")
    # Features are rounded to float16, so a difference of 1e-7 may move a feature by 0.0005 of itself.
    assert [float(graded[row["filename"]]["severity"]) for row in scored] == pytest.approx(
        [float(row["severity"]) for row in scored], abs=5e-4
    )
    rows = read_table(finished.folder / "results/probe/probe.csv")
    # Probes use the training data set only.
    assert [(row["eyes"], row["images"]) for row in rows] in (
        [("one", "48"), ("both", "48")],
        [("both", "48"), ("one", "48")],
    )

    finished.config["eyes"]["fellow_eye_weight"] = 0.5
    assert finished.planned() == Counter([MADE[1], f"grade {NETWORK}+eye_average", "compare"])
    finished.config["eyes"]["fellow_eye_weight"] = 0.25
    finished.config["features"] = {"views": 2}
    stacking_jobs = Counter([MADE[0], f"eye_stacking {NETWORK}", f"grade {NETWORK}+eye_stacking", "compare"])
    assert finished.planned() == stacking_jobs
    assert finished.planned(*targets) == stacking_jobs + Counter([*PROBED, "probe"])
    del finished.config["features"]
    finished.config["models"][NETWORK] = {"feature_layers": []}
    assert finished.planned()[f"train {NETWORK}"] == 1
    finished.config["models"] = SMALL
    finished.config["eyes"]["models"] = []
    assert finished.planned() == Counter(["compare"])
