"""Both eyes and the linear probe in real jobs: what they write, what they know, what makes them run again."""

from collections import Counter

import numpy as np

from common import SMALL
from retinaflow.storage.tables import read_table

RUN = "MobileNetV3Small"
MADE = [
    f"run_features {RUN}",
    f"eye_average {RUN}",
    f"eye_stacking {RUN}",
    *[f"grade {RUN}+{kind}" for kind in ("eye_average", "eye_stacking")],
]
PROBED = [*[f"features {RUN} {part}" for part in ("train", "validation")], f"probe_backbone {RUN}", "rank_probes"]


def outputs(project, system, part):
    rows = read_table(project.folder / "results/scores" / system / part / "raw_outputs.csv")
    columns = [name for name in rows[0] if name.startswith("output_")]
    return {row["image"]: np.array([float(row[name]) for name in columns]) for row in rows}


def test_both_eyes_and_probe(finished):
    del finished.config["models"]["VGG16"]
    finished.config["eyes"] = {"models": ["average", "stacking"], "fellow_eye_weight": 0.25}
    targets = ("all", "probe")
    planned = finished.planned(*targets)
    assert planned == Counter([*MADE, *PROBED, "compare", "probe"])
    finished.snakemake(*targets)
    assert not finished.planned(*targets) - Counter(["probe"])

    # Both eyes of each drawn patient are there.
    for part in ("validation", "test"):
        own = outputs(finished, RUN, part)
        for image, blended in outputs(finished, f"{RUN}+eye_average", part).items():
            patient, eye = image.split("_")
            fellow = own[f"{patient}_{'left' if eye == 'right' else 'right'}"]
            np.testing.assert_allclose(blended, 0.75 * own[image] + 0.25 * fellow, atol=1e-8)
        fused = outputs(finished, f"{RUN}+eye_stacking", part)
        assert fused.keys() == own.keys()
        assert {answer.shape for answer in fused.values()} == {(1,)}
    rows = read_table(finished.folder / "results/probe/probe.csv")
    # Of the training data set alone.
    assert [(row["eyes"], row["images"]) for row in rows] in (
        [("one", "48"), ("both", "48")],
        [("both", "48"), ("one", "48")],
    )

    finished.config["eyes"]["fellow_eye_weight"] = 0.5
    assert finished.planned() == Counter([MADE[1], f"grade {RUN}+eye_average", "compare"])
    finished.config["eyes"]["fellow_eye_weight"] = 0.25
    finished.config["features"] = {"views": 2}
    fused = Counter([MADE[0], f"eye_stacking {RUN}", f"grade {RUN}+eye_stacking", "compare"])
    assert finished.planned() == fused
    assert finished.planned(*targets) == fused + Counter([*PROBED, "probe"])
    del finished.config["features"]
    finished.config["models"][RUN] = {"feature_layers": []}
    assert finished.planned()[f"train {RUN}"] == 1
    finished.config["models"] = SMALL
    finished.config["eyes"]["models"] = []
    assert finished.planned() == Counter(["compare"])
