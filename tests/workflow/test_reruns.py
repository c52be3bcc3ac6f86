"""Reruns: every row of the table in docs/architecture.md, in real dry runs and some real runs."""

import os
import re
import time
from collections import Counter
from pathlib import Path

import pytest

NETWORKS = ("MobileNetV3Small", "VGG16")
# Shards of 16 images: about 38 training and 10 validation images, and 32 test images.
SHARDS = {"train": 3, "validation": 1, "test": 2}


def jobs(*names, shards=()):
    return Counter({**dict.fromkeys(names, 1), **{f"preprocess {split}": SHARDS[split] for split in shards}})


def trained(*networks):
    return [f"{stage} {name}" for stage in ("train", "score", "grade") for name in networks] + ENSEMBLE


# The mean of the networks.
ENSEMBLE = ["ensemble ensemble", "grade ensemble"]


# The inventory of the test set searches patients and images of the training set again.
TABLES = [
    *[f"inventory {data_set}" for data_set in ("train", "test")],
    "check_problems",
    "split",
    *[f"organize {split}" for split in SHARDS],
]
TRAINING_SET = jobs(*TABLES, *trained(*NETWORKS), "compare", shards=SHARDS)


TEST_SET = jobs(
    "inventory test",
    "check_problems",
    "organize test",
    *[f"{stage} {name}" for stage in ("score", "grade") for name in NETWORKS],
    *ENSEMBLE,
    "compare",
    shards=["test"],
)


def test_unchanged_project_repeats_nothing(finished):
    assert not finished.planned()


def test_plan_counts_finished_files_and_repeats_nothing(finished):
    shown = finished.snakemake("plan")
    assert "| shards 32-trim-keep-none | 0.00 | 6 of 6 |" in shown
    assert "| models of VGG16 | 0.06 | 1 of 1 |" in shown
    assert "| stage | models present | CPU, here |" in shown
    assert not finished.planned()


def test_touched_tables_folders_and_code_repeat_nothing(finished):
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
def test_training_setting_repeats_training_and_scoring(finished, change):
    finished.config["train"].update(change)
    assert finished.planned() == jobs(*trained(*NETWORKS), "compare")


def test_setting_of_one_network_repeats_its_training(finished):
    finished.config["models"]["VGG16"] = {"learning_rate": 0.01}
    assert finished.planned() == jobs(*trained("VGG16"), "compare")


def test_explicit_default_of_one_network_repeats_nothing(finished):
    finished.config["models"]["VGG16"] = {"epochs": 1, "image_size": 32}
    assert not finished.planned()


def test_added_network_is_trained_alone(finished):
    finished.config["models"]["ResNet50"] = {}
    assert finished.planned() == jobs(*trained("ResNet50"), "compare")


def test_removed_network_repeats_the_comparison(finished):
    del finished.config["models"]["VGG16"]
    assert finished.planned() == jobs("compare")


@pytest.mark.parametrize(
    "change",
    [
        {"endpoints": {"referable": [3, 4]}},
        {"screening": {"operating_point": "sensitivity 0.8"}},
        {"score": {"bootstrap_samples": 50}},
    ],
)
def test_metric_option_repeats_grading(finished, change):
    finished.config |= change
    assert finished.planned() == jobs(*[f"grade {model}" for model in (*NETWORKS, "ensemble")], "compare")


def test_added_image_is_decoded_alone(finished, image_bytes):
    (finished.folder / "my photographs/900_left.jpeg").write_bytes(image_bytes)
    with open(finished.folder / "labels train.csv", "a") as table:
        table.write("900_left,0\n")
    assert finished.planned() == TRAINING_SET
    finished.snakemake()
    assert decoded(finished, SHARDS) == {"train": [0, 0, 1], "validation": [0], "test": [0, 0]}
    assert not finished.planned()


def test_corrected_label_decodes_only_moved_images(finished):
    table = finished.folder / "labels train.csv"
    # From 0 to 1, because few other images can then change sides.
    table.write_text(re.sub(r"^(\w+),0$", r"\1,1", table.read_text(), count=1, flags=re.MULTILINE))
    assert finished.planned() == TRAINING_SET
    before = shard_rows(finished)
    finished.snakemake("--until", "preprocess")
    moved = sum((shard_rows(finished) - before).values())
    # Only images that changed sides between training and validation are decoded.
    assert sum(map(sum, decoded(finished).values())) == moved <= 4


def test_corrected_test_label_repeats_no_training(finished):
    table = finished.folder / "labels test.csv"
    table.write_text(re.sub(r"^(\w+),0$", r"\1,1", table.read_text(), count=1, flags=re.MULTILINE))
    assert finished.planned() == TEST_SET
    # Snakemake still finds other changes.
    finished.config["train"]["learning_rate"] = 0.01
    assert finished.planned() == TEST_SET + jobs(*[f"train {name}" for name in NETWORKS])
    finished.config["train"].pop("learning_rate")
    finished.snakemake("--until", "preprocess")
    assert decoded(finished, ["test"]) == {"test": [0, 0]}


def test_problem_policy_repeats_only_its_check(finished):
    finished.config["data"]["on_problem"] = {"no_label": "error"}
    finished.config["data"]["exclude_limit"] = 0.5
    assert finished.planned() == jobs("check_problems")


def test_bad_test_label_repeats_no_training(finished):
    table = finished.folder / "labels test.csv"
    good = table.read_text()
    table.write_text(re.sub(r"^(\w+),0$", r"\1,7", good, count=1, flags=re.MULTILINE))
    before = {path: path.stat().st_mtime_ns for path in (finished.folder / "results/models").rglob("model.keras")}
    finished.snakemake(check=False)
    # The next run still has the error, also for single targets.
    remaining = TEST_SET - jobs("inventory test")
    assert finished.planned() == remaining
    assert finished.planned("results/organized/test/index.csv") == jobs("organize test")
    finished.snakemake("results/organized/test/index.csv", check=False)
    table.write_text(good)
    assert finished.planned() == TEST_SET
    finished.snakemake()
    assert {
        path: path.stat().st_mtime_ns for path in (finished.folder / "results/models").rglob("model.keras")
    } == before


def test_replaced_image_is_decoded_alone(finished, image_bytes):
    (finished.folder / "my photographs/1_left.jpeg").write_bytes(image_bytes)
    assert finished.planned() == TRAINING_SET
    finished.snakemake("--until", "preprocess")
    assert sum(map(sum, decoded(finished).values())) == 1


@pytest.mark.parametrize("change", [("train", "image_size", 40), ("preprocess", "crop", "none")])
def test_size_and_crop_repeat_preprocessing(finished, change):
    section, key, value = change
    finished.config[section][key] = value
    assert finished.planned() == jobs(*trained(*NETWORKS), "compare", shards=SHARDS)


def test_size_of_one_network_repeats_its_preprocessing(finished):
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
        # Trackers and logs change no result.
        ("training/tracking", []),
        ("jobs/logs", []),
        ("jobs/resources", []),
    ],
)
def test_changed_library_module_repeats_the_stages_that_use_it(finished, module, stages):
    """The stages that import the module run again, and the stages that read their outputs."""
    with open(finished.folder / f"workflow/retinaflow/{module}.py", "a") as file:
        file.write("\nCHANGED = True\n")
    assert {job.split()[0] for job in finished.planned()} == set(stages)


def test_comments_and_docstrings_repeat_nothing(finished):
    """Comments and docstrings of every module change, and nothing runs again."""
    for module in (finished.folder / "workflow/retinaflow").rglob("*.py"):
        text = module.read_text(encoding="utf-8").replace("    # ", "    # Indeed: ")
        text = re.sub(r'(:\n +""")(?=\w)', r"\1Indeed, ", text)
        module.write_text(f"{text}\n# changed\n", encoding="utf-8")
    assert not finished.planned(bundles=True)


def test_changed_script_repeats_its_rule(finished):
    with open(finished.folder / "workflow/scripts/compare.py", "a") as file:
        file.write("\n# changed\n")
    assert finished.planned() == jobs("compare")


def test_cores_and_resources_repeat_nothing(finished):
    assert not finished.planned("--cores", "1")
    assert not finished.planned("--set-threads", "train=1", "preprocess=1")
    assert not finished.planned("--set-resources", "train:runtime=5", "train:gpu=0", "train:mem_mb=100")
    assert not finished.planned("--resources", "gpu=4")


def test_trackers_and_export_formats_repeat_nothing(finished):
    before = finished.planned("report")
    finished.config["tracking"] = {"tensorboard": True, "mlflow": "https://user:password@example.org"}
    finished.config["export"] = {"formats": ["onnx"]}
    assert not finished.planned()
    assert finished.planned("report") == before


def shard_rows(project):
    """Count the images by shard, independent of their labels."""
    return Counter(
        (str(path.parent.name), path.stem, row)
        for path in (project.folder / "results/shards").glob("*/*/*.csv")
        for row in path.read_text().splitlines()[1:]
    )


def decoded(project, splits=("train", "validation")):
    """Return the number of images that the last job of each shard decoded, sorted, from its log."""
    logs = project.folder / "results/logs/preprocess"
    return {
        split: sorted(
            int(re.search(r"(\d+) decoded", log.read_text()).group(1)) for log in Path(logs).glob(f"*/{split}/*.log")
        )
        for split in splits
    }


def test_label_table_dated_ahead_is_used(finished):
    inventory, table = finished.folder / "results/inventory/test.csv", finished.folder / "labels test.csv"
    before = inventory.read_bytes()
    inventory.unlink()
    os.utime(table, (time.time() + 300,) * 2)
    finished.snakemake("results/inventory/test.csv")
    assert inventory.read_bytes() == before


def test_damaged_decision_rule_is_named_and_made_again(finished):
    rule = finished.folder / "results/models/VGG16/decision_rule.json"
    before = rule.read_bytes()
    rule.write_bytes(before[:40])
    for arguments in (["-n"], []):
        shown = finished.snakemake(*arguments, check=False)
        assert "results/models/VGG16/decision_rule.json: it has 40 bytes, expected the" in shown
        assert "Traceback" not in shown
    rule.unlink()
    assert finished.planned() == jobs("grade VGG16", "compare")
    finished.snakemake()
    assert rule.read_bytes() == before
    assert not finished.planned()


@pytest.mark.slow
def test_damaged_pixels_are_noticed_and_decoded_again(finished):
    """The advice of the message works, although the cache is a link to the damaged file."""
    shard = next((finished.folder / "results/shards").glob("*/test/0.npy"))
    outputs = finished.folder / "results/scores/VGG16/test/raw_outputs.csv"
    before, content = outputs.read_bytes(), shard.read_bytes()
    with open(shard, "r+b") as file:
        file.seek(1000)
        file.write(b"\xff\x00\xff")
    outputs.unlink()
    shown = finished.snakemake(check=False)
    assert re.search(r"test/0\.npy: the pixels of '\w+' differ from their checksum.* Delete the file", shown)
    shard.unlink()
    finished.snakemake()
    assert shard.read_bytes() == content
    assert outputs.read_bytes() == before
