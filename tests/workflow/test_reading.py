"""Reading the workflow: dry runs, graphs, the default profile and the configuration in use."""

import re
import shutil
import sys

import yaml

from common import STANDARD

HEAVY = {"tensorflow", "keras", "pandas", "cv2", "sklearn", "scipy", "matplotlib"}


def nodes(graph):
    """Return the labels of the nodes of a graph in dot, with all their lines."""
    return re.findall(r'\[label = "([^"]*)"', graph)


def test_first_dry_run_plans_all_stages_and_writes_nothing(fresh):
    project = fresh()
    planned = project.planned()
    assert {job.split()[0] for job in planned} == {
        "inventory", "check_problems", "split", "organize", "preprocess", "train", "score", "ensemble", "grade",
        "compare"
    }  # fmt: skip
    assert not (project.folder / "results").exists()


def test_graph_has_a_node_for_each_shard_and_network(fresh):
    project = fresh(preprocess={"shard_size": 10})
    stages = [label.split("\\n")[0] for label in nodes(project.snakemake("--dag"))]
    # About 38, 10 and 32 images in shards of 10.
    counts = {"preprocess": 4 + 1 + 4, "train": 2, "score": 2, "grade": 3, "inventory": 2, "organize": 3, "split": 1}
    counts |= {"convert_network": 2, "model_card": 3, "bundle": 3}
    assert {stage: stages.count(stage) for stage in counts} == counts
    assert len(stages) == sum(counts.values()) + 4  # check_problems, ensemble, compare and all

    project.config["preprocess"]["shard_size"] = 48
    fewer = [label.split("\\n")[0] for label in nodes(project.snakemake("--dag"))]
    assert fewer.count("preprocess") == 3
    assert len(stages) - len(fewer) == 6


def test_rule_graph_names_each_stage_once(fresh):
    assert sorted(nodes(fresh().snakemake("--rulegraph"))) == [
        "all", "bundle", "check_problems", "compare", "convert_network", "ensemble", "grade", "inventory", "model_card",
        "organize", "preprocess", "score", "split", "train"
    ]  # fmt: skip


def test_default_profile_needs_no_option(fresh):
    project = fresh()
    project.snakemake("--until", "inventory")
    assert (project.folder / "results/inventory/train.csv").is_file()
    shutil.rmtree(project.folder / "profiles")
    assert "cores" in project.snakemake("--until", "split", check=False)


def test_reading_the_workflow_imports_no_heavy_package(fresh, monkeypatch):
    project = fresh()
    (project.folder / "empty").touch()
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")
    loaded, by_plugins = (
        set(re.findall(r"^import time:.*\| +([\w.]+)$", project.snakemake("-n", *arguments), flags=re.MULTILINE))
        for arguments in ((), ("--snakefile", "empty"))
    )
    assert {"retinaflow.config.loading", "retinaflow.data.labels"} <= loaded
    assert not HEAVY & {name.split(".")[0] for name in loaded - by_plugins}


def test_another_configuration_replaces_the_default_one(fresh):
    project = fresh()
    other = {**project.config, "data": {"train": project.config["data"]["train"]}, "models": {"ResNet50": {}}}
    (project.folder / "other.yaml").write_text(yaml.safe_dump(other))
    # Errors of the default configuration have no effect then, and its test set and models are not used.
    project.config["nonsense"] = True
    jobs = {*project.planned("--configfile", "other.yaml")}
    assert {"train ResNet50", "score ResNet50", "inventory train"} <= jobs
    assert not [job for job in jobs if job.endswith(("test", "VGG16", "MobileNetV3Small"))]
    assert "nonsense: unknown key" in project.snakemake("-n", check=False)


def test_number_without_end_in_the_default_file_is_one_clear_error(fresh):
    project = fresh()
    limit = sys.get_int_max_str_digits()
    try:
        sys.set_int_max_str_digits(0)
        project.config["seed"] = 10**9_999
        shown = project.snakemake("-n", check=False)
    finally:
        sys.set_int_max_str_digits(limit)
    assert re.search(r"config/config\.yaml: the number in line \d+ has 10000 digits, expected at most 300", shown)
    assert "Traceback" not in shown
    assert "site-packages" not in shown


def test_value_on_the_command_line_changes_the_default_configuration(fresh):
    shown = fresh().snakemake("-n", STANDARD, "--config", "results=elsewhere")
    assert "elsewhere/comparison/comparison.csv" in shown
    assert "results/comparison" not in shown


def test_plan_reads_no_image_and_writes_no_result(fresh):
    project = fresh()
    shown = project.snakemake("plan")
    assert "| train | 38 | 3 |" in shown
    assert "| VGG16, train | 0 of 1 |" in shown
    results = project.folder / "results"
    assert {path.relative_to(results).parts[0] for path in results.rglob("*") if path.is_file()} <= {"logs", ".lock"}
