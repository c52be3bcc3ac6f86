"""What reading the workflow shows and costs: dry runs, graphs, the profile, the configuration that counts."""

import re
import shutil
import sys

import yaml

from common import STANDARD

HEAVY = {"tensorflow", "keras", "pandas", "cv2", "sklearn", "scipy", "matplotlib"}


def nodes(graph):
    """Labels of the nodes of a graph in dot, all lines of each."""
    return re.findall(r'\[label = "([^"]*)"', graph)


def test_a_dry_run_of_a_fresh_project_plans_everything_and_makes_nothing(fresh):
    project = fresh()
    planned = project.planned()
    assert {job.split()[0] for job in planned} == {
        "inventory", "check_problems", "split", "organize", "preprocess", "train", "score", "ensemble", "grade",
        "compare"
    }  # fmt: skip
    assert not (project.folder / "results").exists()


def test_the_graph_has_a_node_a_shard_and_backbone_whatever_the_number_of_photographs(fresh):
    project = fresh(preprocess={"shard_size": 10})
    stages = [label.split("\\n")[0] for label in nodes(project.snakemake("--dag"))]
    # 38.4, 9.6 and 32 photographs in shards of 10.
    counts = {"preprocess": 4 + 1 + 4, "train": 2, "score": 2, "grade": 3, "inventory": 2, "organize": 3, "split": 1}
    assert {stage: stages.count(stage) for stage in counts} == counts
    assert len(stages) == sum(counts.values()) + 4  # check_problems, ensemble, compare and all

    project.config["preprocess"]["shard_size"] = 48
    fewer = [label.split("\\n")[0] for label in nodes(project.snakemake("--dag"))]
    assert fewer.count("preprocess") == 3
    assert len(stages) - len(fewer) == 6


def test_the_rule_graph_names_each_stage_once(fresh):
    assert sorted(nodes(fresh().snakemake("--rulegraph"))) == [
        "all", "check_problems", "compare", "ensemble", "grade", "inventory", "organize", "preprocess", "score",
        "split", "train"
    ]  # fmt: skip


def test_the_default_profile_is_picked_up_by_itself(fresh):
    project = fresh()
    project.snakemake("--until", "inventory")
    assert (project.folder / "results/inventory/train.csv").is_file()
    shutil.rmtree(project.folder / "profiles")
    assert "cores" in project.snakemake("--until", "split", check=False)


def test_reading_loads_nothing_heavy(fresh, monkeypatch):
    project = fresh()
    (project.folder / "empty").touch()
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")
    loaded, by_plugins = (
        set(re.findall(r"^import time:.*\| +([\w.]+)$", project.snakemake("-n", *arguments), flags=re.MULTILINE))
        for arguments in ((), ("--snakefile", "empty"))
    )
    assert {"retinaflow.config.loading", "retinaflow.data.labels"} <= loaded
    assert not HEAVY & {name.split(".")[0] for name in loaded - by_plugins}


def test_another_configuration_takes_the_place_of_the_default_one(fresh):
    project = fresh()
    other = {**project.config, "data": {"train": project.config["data"]["train"]}, "models": {"ResNet50": {}}}
    (project.folder / "other.yaml").write_text(yaml.safe_dump(other))
    # What is wrong with the default one does not matter then, nor would its test set and backbones come along.
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


def test_a_value_on_the_command_line_changes_the_default_configuration(fresh):
    shown = fresh().snakemake("-n", STANDARD, "--config", "results=elsewhere")
    assert "elsewhere/comparison/comparison.csv" in shown
    assert "results/comparison" not in shown


def test_a_plan_needs_no_photograph_to_be_looked_at_and_makes_nothing(fresh):
    project = fresh()
    shown = project.snakemake("plan")
    assert "| train | 38 | 3 |" in shown
    assert "| VGG16, train | 0 of 1 |" in shown
    results = project.folder / "results"
    assert {path.relative_to(results).parts[0] for path in results.rglob("*") if path.is_file()} <= {"logs", ".lock"}
