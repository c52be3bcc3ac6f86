"""The workflow as part of another one, from another folder, and from a repository."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest
import yaml

from common import SMALL
from conftest import ROOT, SMALLEST
from retinaflow.storage.lock import lock

CONFIG = {
    **SMALLEST,
    "data": {"train": {"images": "my photographs", "labels": "labels train.csv"}},
    "models": SMALL,
}
STANDARD = "--logger-retinaflow-standard"  # shows the table of jobs
MODULE = """
configfile: "dr.yaml"

module dr:
    snakefile: {snakefile}
    config: config["grading"]

use rule * from dr as dr_*
"""
OWN_RULE = """
rule own:
    default_target: True
    input: rules.{all}.input
    output: "own.txt"
    shell: "wc -l results/comparison/comparison.csv > {{output}}"

onstart:
    print("the host begins")
"""
INCLUDE = """
configfile: "dr.yaml"

include: "{snakefile}"
"""
WAITING_RULE = """
rule wait:
    input: "results/inventory/train.csv"
    output: "waited.txt"
    shell: "touch waiting; while [ ! -e enough ]; do sleep 0.1; done; touch {output}"
"""
TAG = "v0"


class Host:
    """A folder with another workflow, images and labels."""

    def __init__(self, folder: Path, drawn: Path) -> None:
        self.folder = folder
        shutil.copytree(drawn, folder)
        self.environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "none"}

    def write(self, text: str, **config: Any) -> "Host":
        """Write the Snakefile and the configuration of the host."""
        (self.folder / "Snakefile").write_text(text, encoding="utf-8")
        (self.folder / "dr.yaml").write_text(yaml.safe_dump(config or CONFIG), encoding="utf-8")
        return self

    def start(self, *arguments: str, cwd: Path | None = None) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", "snakemake", *arguments],
            cwd=cwd or self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def snakemake(self, *arguments: str, cwd: Path | None = None, status: int = 0) -> str:
        """Run snakemake in the folder. Return its output."""
        process = self.start(*arguments, cwd=cwd)
        printed, _ = process.communicate()
        assert process.returncode == status, printed
        return printed


@pytest.fixture
def host(drawn: Path, tmp_path: Path) -> Host:
    """Return a host without a Snakefile."""
    return Host(tmp_path / "a host", drawn)


@pytest.fixture
def module(host: Host) -> Host:
    """Return a host that uses all rules of the workflow under other names, and has one more rule."""
    return host.write(
        MODULE.format(snakefile=repr(f"{ROOT}/Snakefile")) + OWN_RULE.format(all="dr_all"), grading=CONFIG
    )


@pytest.fixture
def beside(host: Host) -> Host:
    """Return a folder with a configuration at its default path, and no Snakefile."""
    (host.folder / "config").mkdir()
    (host.folder / "config/config.yaml").write_text(yaml.safe_dump(CONFIG), encoding="utf-8")
    return host


@pytest.fixture
def deployed(host: Host, tmp_path: Path) -> Callable[[str], Host]:
    """Return a function that makes a host of a repository at GitHub. Snakemake's cache has its clone."""

    def make(release: str) -> Host:
        repository = tmp_path / "repository"
        repository.mkdir()
        for name in ("Snakefile", "pyproject.toml"):
            shutil.copy(ROOT / name, repository)
        for name in ("workflow", "envs"):
            shutil.copytree(ROOT / name, repository / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        pyproject = repository / "pyproject.toml"
        text = pyproject.read_text(encoding="utf-8")
        pyproject.write_text(text.replace(f'version = "{own_version()}"', f'version = "{release}"'), encoding="utf-8")
        clone = tmp_path / "cache/snakemake/snakemake/source-cache/snakemake-git-cache/github.com/someone/retinaflow"
        git(repository, "init", "--quiet")
        git(repository, "add", "--all")
        git(repository, "commit", "--quiet", "--message", "A release")
        git(repository, "tag", TAG)
        git(repository, "clone", "--quiet", "--bare", str(repository), str(clone))
        host.environment["XDG_CACHE_HOME"] = str(tmp_path / "cache")
        snakefile = f'github("someone/retinaflow", path="Snakefile", tag="{TAG}")'
        return host.write(MODULE.format(snakefile=snakefile), grading=CONFIG)

    return make


def git(folder: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=Somebody", "-c", "user.email=somebody@example.org"]
    subprocess.run(["git", *identity, *arguments], cwd=folder, check=True)


def own_version() -> str:
    return version("retinaflow")


def rules_of(printed: str) -> set[str]:
    """Return the names of the rules in the table of jobs."""
    table = printed.rsplit("Job stats:", 1)[1]
    rows = [line.split() for line in table.splitlines()]
    return {row[0] for row in rows if len(row) == 2 and row[1].isdigit()} - {"total"}


STAGES = {
    *("inventory", "check_problems", "split", "organize", "preprocess", "train", "score", "grade", "compare"),
    *("convert_network", "model_card", "bundle"),
}


def test_module_has_all_rules_under_other_names(module):
    assert rules_of(module.snakemake("-n", "--cores", "1")) == {f"dr_{name}" for name in STAGES} | {"own"}
    assert not (module.folder / "results").exists()


def test_include_keeps_the_names_of_rules(host):
    host.write(INCLUDE.format(snakefile=ROOT / "Snakefile") + OWN_RULE.format(all="all"))
    assert rules_of(host.snakemake("-n", "--cores", "1", "own")) == {*STAGES, "own"}


def test_local_rules_of_a_module_have_their_new_names(module):
    printed = module.snakemake("-n", "--cores", "1")
    assert "localrules directive specifies rules" not in printed


def test_workflow_runs_from_another_folder(beside):
    assert rules_of(beside.snakemake("-n", STANDARD, "--snakefile", f"{ROOT}/Snakefile")) == {*STAGES, "all"}
    relative = os.path.relpath(ROOT / "Snakefile", beside.folder)
    assert rules_of(beside.snakemake("-n", STANDARD, "--snakefile", relative)) == {*STAGES, "all"}


def test_workflow_runs_in_another_directory(beside):
    printed = beside.snakemake("-n", STANDARD, "--directory", str(beside.folder), cwd=ROOT)
    assert rules_of(printed) == {*STAGES, "all"}


@pytest.fixture
def reported(finished: Any) -> Callable[..., Path]:
    """Return a function that writes the report of a finished project, with snakemake started in a given folder."""

    def report(cwd: Path, name: str, *arguments: str) -> Path:
        command = [sys.executable, "-m", "snakemake", "--directory", str(finished.folder), "--report", name, *arguments]
        done = subprocess.run(
            command, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
        )
        assert done.returncode == 0, done.stdout
        return Path(finished.folder, name)

    return report


def test_report_is_written_from_another_folder(reported, tmp_path):
    snakefile = os.path.relpath(ROOT / "Snakefile", tmp_path)
    page = reported(tmp_path, "report.html", "--snakefile", snakefile)
    assert "align-items: safe center" in page.read_text(encoding="utf-8")
    assert reported(tmp_path, "report.zip", "--snakefile", snakefile).stat().st_size > 100_000


def test_report_is_written_in_another_directory(reported):
    page = reported(ROOT, "report.html")
    assert "align-items: safe center" in page.read_text(encoding="utf-8")


def test_second_run_of_a_module_is_refused(module):
    held = lock(module.folder / "results")
    try:
        printed = module.snakemake("--cores", "1", status=1)
    finally:
        held.close()
    assert "results: another run is writing there (process" in printed
    assert not (module.folder / "results/inventory").exists()


def test_second_run_of_an_including_workflow_is_refused(host):
    host.write(INCLUDE.format(snakefile=ROOT / "Snakefile") + OWN_RULE.format(all="all"))
    held = lock(host.folder / "results")
    try:
        printed = host.snakemake("--cores", "1", "own", status=1)
    finally:
        held.close()
    assert "results: another run is writing there (process" in printed


def test_one_of_two_runs_of_a_module_is_refused(module):
    with open(module.folder / "Snakefile", "a", encoding="utf-8") as file:
        file.write(WAITING_RULE)
    first = module.start("--cores", "1", "--nolock", "waited.txt")
    while not (module.folder / "waiting").exists():
        assert first.poll() is None, first.communicate()[0]
        time.sleep(0.05)
    second = module.snakemake("--cores", "1", "--nolock", "results/split/train.csv", status=1)
    assert f"another run is writing there (process {first.pid} on" in second
    (module.folder / "enough").touch()
    printed, _ = first.communicate()
    assert first.returncode == 0, printed
    assert "the host begins" in printed
    module.snakemake("--cores", "1", "--nolock", "results/split/train.csv")


def test_dry_runs_of_a_module_take_no_lock(module):
    held = lock(module.folder / "results")
    try:
        module.snakemake("-n", "--cores", "1")
    finally:
        held.close()


def test_deployed_workflow_has_all_rules(deployed):
    host = deployed(own_version())
    assert rules_of(host.snakemake("-n", "--cores", "1")) == {f"dr_{name}" for name in {*STAGES, "all"}}


def test_deployed_workflow_tracks_the_installed_code(deployed):
    host = deployed(own_version())
    target = "results/inventory/train.csv"
    host.snakemake("--cores", "1", target)
    assert "Nothing to be done" in host.snakemake("-n", "--cores", "1", target)
    # Another installed library of the same version has other code.
    library = host.folder.parent / "library/retinaflow"
    shutil.copytree(ROOT / "workflow/retinaflow", library)
    with open(library / "data/inventory.py", "a", encoding="utf-8") as file:
        file.write("\n\nCHANGED = True\n")
    host.environment["PYTHONPATH"] = str(library.parent)
    assert rules_of(host.snakemake("-n", "--cores", "1", target)) == {"dr_inventory"}


def test_deployed_workflow_refuses_a_library_of_another_version(deployed):
    printed = deployed("99.1").snakemake("-n", "--cores", "1", status=1)
    assert (
        f"This workflow needs the package retinaflow 99.1, but {sys.executable} has retinaflow {own_version()}"
        in printed
    )
    assert "Traceback" not in printed


def test_deployed_workflow_refuses_conda(deployed):
    printed = deployed(own_version()).snakemake("-n", "--cores", "1", "--software-deployment-method", "conda", status=1)
    assert "its environments have no package retinaflow" in printed


@pytest.mark.slow
def test_module_runs_to_its_end(module):
    module.snakemake("--cores", "2")
    assert (module.folder / "own.txt").read_text(encoding="utf-8").split()[0].isdigit()
    assert "Nothing to be done" in module.snakemake("-n", "--cores", "2")


def test_catalogue_file_names_configuration_and_options():
    catalogue = yaml.safe_load((ROOT / ".snakemake-workflow-catalog.yml").read_text(encoding="utf-8"))
    assert catalogue["usage"]["mandatory-flags"]["desc"]
    assert isinstance(catalogue["usage"]["software-stack-deployment"]["conda"], bool)
    assert catalogue["usage"]["report"] is True
