"""Reruns: every line of the table in docs/architecture.md, in real dry runs and, where it matters, runs."""

import os
import re
import time
from collections import Counter
from pathlib import Path

import pytest

BACKBONES = ("MobileNetV3Small", "VGG16")
# 48 photographs of the training set in shards of 16: three of 38.4 and one of 9.6; 32 of the test set: two.
SHARDS = {"train": 3, "validation": 1, "test": 2}


def jobs(*names, shards=()):
    return Counter({**dict.fromkeys(names, 1), **{f"preprocess {part}": SHARDS[part] for part in shards}})


def trained(*backbones):
    return [f"{stage} {backbone}" for stage in ("train", "score", "grade") for backbone in backbones] + AVERAGED


# Of two backbones, and graded as one.
AVERAGED = ["ensemble", "grade ensemble"]


# The test set must share neither patient nor photograph with the training set, and is compared with it anew.
TABLES = [
    *[f"inventory {dataset}" for dataset in ("train", "test")],
    "check_problems",
    "split",
    *[f"organize {part}" for part in SHARDS],
]
TRAINING_SET = jobs(*TABLES, *trained(*BACKBONES), "compare", shards=SHARDS)


TEST_SET = jobs(
    "inventory test",
    "check_problems",
    "organize test",
    *[f"{stage} {name}" for stage in ("score", "grade") for name in BACKBONES],
    *AVERAGED,
    "compare",
    shards=["test"],
)


def test_nothing(finished):
    assert not finished.planned()


def test_a_plan_knows_what_is_there_and_is_no_reason_to_run_anything(finished):
    shown = finished.snakemake("plan")
    assert "| shards 32-trim-keep-none | 0.00 | 6 of 6 |" in shown
    assert "| models of VGG16 | 0.06 | 1 of 1 |" in shown
    assert "| stage | models present | CPU, here |" in shown
    assert not finished.planned()


def test_touched_tables_folders_photographs_folder_and_code(finished):
    time.sleep(1.1)
    for name in ("labels train.csv", "labels test.csv", "my photographs", "test", "workflow/retinaflow/data/split.py"):
        os.utime(finished.folder / name)
    assert not finished.planned()


@pytest.mark.parametrize(
    "change",
    [
        {"learning_rate": 0.01},
        {"epochs": 2},
        {"dense_units": [9, 4]},
        {"class_weights": "inverse"},
        {"augment": {"rotation": 10}},
        {"normalisation": "per_image"},
    ],
)
def test_a_training_setting(finished, change):
    finished.config["train"].update(change)
    assert finished.planned() == jobs(*trained(*BACKBONES), "compare")


def test_one_backbones_own_setting(finished):
    finished.config["models"]["VGG16"] = {"learning_rate": 0.01}
    assert finished.planned() == jobs(*trained("VGG16"), "compare")


def test_the_same_setting_said_of_one_backbone_is_no_change(finished):
    finished.config["models"]["VGG16"] = {"epochs": 1, "image_size": 32}
    assert not finished.planned()


def test_a_backbone_added(finished):
    finished.config["models"]["ResNet50"] = {}
    assert finished.planned() == jobs(*trained("ResNet50"), "compare")


def test_a_backbone_removed(finished):
    del finished.config["models"]["VGG16"]
    assert finished.planned() == jobs("compare")


@pytest.mark.parametrize("change", [{"referable_grade": 3}, {"referable_sensitivity": 0.8}, {"bootstrap_samples": 50}])
def test_a_metric_option(finished, change):
    finished.config["score"] = change
    assert finished.planned() == jobs(*[f"grade {system}" for system in (*BACKBONES, "ensemble")], "compare")


def test_a_photograph_added(finished, photograph):
    (finished.folder / "my photographs/900_left.jpeg").write_bytes(photograph)
    with open(finished.folder / "labels train.csv", "a") as table:
        table.write("900_left,0\n")
    assert finished.planned() == TRAINING_SET
    finished.snakemake()
    assert decoded(finished, SHARDS) == {"train": [0, 0, 1], "validation": [0], "test": [0, 0]}
    assert not finished.planned()


def test_a_label_corrected(finished):
    table = finished.folder / "labels train.csv"
    # From 0 to 1: whatever the worst grade of the patient, few others can change sides.
    table.write_text(re.sub(r"^(\w+),0$", r"\1,1", table.read_text(), count=1, flags=re.MULTILINE))
    assert finished.planned() == TRAINING_SET
    before = shard_rows(finished)
    finished.snakemake("--until", "preprocess")
    moved = sum((shard_rows(finished) - before).values())
    # Nothing is decoded but what changed sides between training and validation.
    assert sum(map(sum, decoded(finished).values())) == moved <= 4


def test_a_label_corrected_of_the_test_set(finished):
    table = finished.folder / "labels test.csv"
    table.write_text(re.sub(r"^(\w+),0$", r"\1,1", table.read_text(), count=1, flags=re.MULTILINE))
    assert finished.planned() == TEST_SET
    # Nor does it hide any other change from Snakemake.
    finished.config["train"]["learning_rate"] = 0.01
    assert finished.planned() == TEST_SET + jobs(*[f"train {name}" for name in BACKBONES])
    finished.config["train"].pop("learning_rate")
    finished.snakemake("--until", "preprocess")
    assert decoded(finished, ["test"]) == {"test": [0, 0]}


def test_what_decides_only_whether_a_problem_stops_the_run(finished):
    finished.config["data"]["on_problem"] = {"no_label": "error"}
    finished.config["data"]["exclude_limit"] = 0.5
    assert finished.planned() == jobs("check_problems")


def test_a_bad_label_of_the_test_set_costs_no_training(finished):
    table = finished.folder / "labels test.csv"
    good = table.read_text()
    table.write_text(re.sub(r"^(\w+),0$", r"\1,7", good, count=1, flags=re.MULTILINE))
    before = {path: path.stat().st_mtime_ns for path in (finished.folder / "results/models").rglob("model.keras")}
    finished.snakemake(check=False)
    # Neither forgotten in the next run nor passed over, whatever is asked for.
    left = TEST_SET - jobs("inventory test")
    assert finished.planned() == left
    assert finished.planned("results/organized/test/index.csv") == jobs("organize test")
    finished.snakemake("results/organized/test/index.csv", check=False)
    table.write_text(good)
    assert finished.planned() == TEST_SET
    finished.snakemake()
    assert {
        path: path.stat().st_mtime_ns for path in (finished.folder / "results/models").rglob("model.keras")
    } == before


def test_a_photograph_replaced_under_its_name(finished, photograph):
    (finished.folder / "my photographs/1_left.jpeg").write_bytes(photograph)
    assert finished.planned() == TRAINING_SET
    finished.snakemake("--until", "preprocess")
    assert sum(map(sum, decoded(finished).values())) == 1


@pytest.mark.parametrize("change", [("train", "image_size", 40), ("preprocess", "crop", "none")])
def test_size_and_crop(finished, change):
    section, key, value = change
    finished.config[section][key] = value
    assert finished.planned() == jobs(*trained(*BACKBONES), "compare", shards=SHARDS)


def test_size_of_one_backbone(finished):
    finished.config["models"]["VGG16"] = {"image_size": 40}
    assert finished.planned() == jobs(*trained("VGG16"), "compare", shards=SHARDS)


SCORES = ["score", "ensemble", "grade", "compare"]
STAGES = ["inventory", "check_problems", "split", "organize", "preprocess", "train", *SCORES]


@pytest.mark.parametrize(
    ("module", "stages"),
    [
        ("data/demo", []),
        ("data/headers", STAGES),
        ("data/inventory", STAGES),
        ("data/preflight", ["check_problems"]),
        ("data/split", ["split", "organize", "preprocess", "train", *SCORES]),
        ("data/organize", ["organize", "preprocess", "train", *SCORES]),
        ("preprocessing/variant", ["preprocess", "train", *SCORES]),
        ("preprocessing/augmentation", ["train", *SCORES]),
        ("training/fit", ["train", *SCORES]),
        ("evaluation/metrics", ["grade", "compare"]),
        ("scoring/compare", ["compare"]),
        # Trackers and logs decide no result.
        ("training/tracking", []),
        ("jobs/logs", []),
        ("jobs/resources", []),
    ],
)
def test_a_library_module(finished, module, stages):
    """The stages that reach the module run again, and whatever reads what they make."""
    with open(finished.folder / f"workflow/retinaflow/{module}.py", "a") as file:
        file.write("\nCHANGED = True\n")
    assert {job.split()[0] for job in finished.planned()} == set(stages)


def test_words_in_the_library(finished):
    """Comments and docstrings of every module change; nothing runs again."""
    for module in (finished.folder / "workflow/retinaflow").rglob("*.py"):
        text = module.read_text(encoding="utf-8").replace("    # ", "    # Indeed: ")
        text = re.sub(r'(:\n +""")(?=\w)', r"\1Indeed, ", text)
        module.write_text(f"{text}\n# changed\n", encoding="utf-8")
    assert not finished.planned()


def test_a_script(finished):
    with open(finished.folder / "workflow/scripts/compare.py", "a") as file:
        file.write("\n# changed\n")
    assert finished.planned() == jobs("compare")


def test_what_only_decides_speed(finished):
    assert not finished.planned("--cores", "1")
    assert not finished.planned("--set-threads", "train=1", "preprocess=1")
    assert not finished.planned("--set-resources", "train:runtime=5", "train:gpu=0", "train:mem_mb=100")
    assert not finished.planned("--resources", "gpu=4")


def test_who_is_told_of_a_training(finished):
    before = finished.planned("report")
    finished.config["tracking"] = {"tensorboard": True, "mlflow": "https://user:password@example.org"}
    finished.config["export"] = {"formats": ["onnx"]}
    assert not finished.planned()
    assert finished.planned("report") == before


def shard_rows(project):
    """Which image lies in which shard, whatever its label."""
    return Counter(
        (str(path.parent.name), path.stem, row)
        for path in (project.folder / "results/shards").glob("*/*/*.csv")
        for row in path.read_text().splitlines()[1:]
    )


def decoded(project, parts=("train", "validation")):
    """How many photographs each shard's last job decoded, sorted, as its log says."""
    logs = project.folder / "results/logs/preprocess"
    return {
        part: sorted(
            int(re.search(r"(\d+) decoded", log.read_text()).group(1)) for log in Path(logs).glob(f"*/{part}/*.log")
        )
        for part in parts
    }
