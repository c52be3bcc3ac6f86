"""The environments: the same versions everywhere, with hashes, and no word of where they came from."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib import metadata

import pytest
import yaml
from packaging.requirements import Requirement

from common import ROOT

ENVS = ROOT / "envs"


def pins(name):
    """Version of each package for the newest Python, from a requirements file."""
    found = {}
    for line in (ENVS / name).read_text().splitlines():
        if match := re.match(r"([a-z0-9-]+)==(\S+)(?: ; python_full_version < .*)?", line):
            found[match[1]] = match[2]
    return found


PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = PROJECT["optional-dependencies"]
# Without the workflow: for a machine that only grades, or only reads DICOM files.
ALONE = {"predict", "dicom"}


def names(*extras):
    """Names of the packages that extras ask for, those of extras in extras included."""
    found = set()
    for extra in extras:
        for requirement in EXTRAS[extra]:
            inner = re.match(r"retinaflow\[(.+)\]$", requirement)
            found |= names(*inner[1].split(",")) if inner else {normal_name(requirement)}
    return found


def normal_name(requirement):
    return re.match(r"[A-Za-z0-9._-]+", requirement)[0].lower()


def test_every_extra_has_a_list_of_pins():
    assert {path.name for path in ENVS.glob("*.txt")} == {f"requirements-{extra}.txt" for extra in EXTRAS}


@pytest.mark.parametrize("extra", EXTRAS)
def test_every_pin_has_hashes_and_no_address(extra):
    text = (ENVS / f"requirements-{extra}.txt").read_text()
    blocks = re.split(r"\n(?=\S)", text)
    pinned = [block for block in blocks if not block.startswith("#") and block.strip()]
    assert len(pinned) > (5 if extra in ALONE else 50)
    assert all("==" in block and "--hash=sha256:" in block for block in pinned)
    assert "://" not in text
    assert "--index" not in text
    assert "--find-links" not in text


@pytest.mark.parametrize("extra", sorted(EXTRAS.keys() - ALONE - {"workflow"}))
def test_further_pins_extend_the_workflow_pins(extra):
    assert pins("requirements-workflow.txt").items() < pins(f"requirements-{extra}.txt").items()


@pytest.mark.parametrize("extra", EXTRAS)
def test_everything_asked_for_is_pinned(extra):
    base = {normal_name(requirement) for requirement in PROJECT["dependencies"]}
    assert base | names(extra) <= pins(f"requirements-{extra}.txt").keys()


@pytest.mark.parametrize("extra", ["export", "predict", "s3", "serve", "track"])
def test_what_is_optional_fits_the_other_pins(extra):
    assert pins(f"requirements-{extra}.txt").items() < pins("requirements-dev.txt").items()


def test_dicom_pins_fit_the_other_pins():
    own, others = pins("requirements-dicom.txt"), pins("requirements-dev.txt")
    assert all(others.get(name, version) == version for name, version in own.items())


@pytest.mark.parametrize(
    ("name", "extra", "wanted"),
    [
        ("retinaflow.yaml", "workflow", names("workflow")),
        ("storage.yaml", "s3", names("s3") | {"snakemake"}),
        ("export.yaml", "export", names("workflow", "export")),
    ],
)
def test_conda_environments_have_the_same_versions(name, extra, wanted):
    environment = yaml.safe_load((ENVS / name).read_text())
    (pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    versions = dict(entry.split(" ==") for entry in pip)
    assert versions.keys() == wanted | {normal_name(requirement) for requirement in PROJECT["dependencies"]}
    assert versions == {name: pins(f"requirements-{extra}.txt")[name] for name in versions}


def test_every_rule_that_runs_a_script_names_an_environment():
    found = 0
    for path in [ROOT / "Snakefile", *sorted((ROOT / "workflow/rules").glob("*.smk"))]:
        rules = re.split(r"^ *(?:rule|checkpoint)\b", path.read_text(encoding="utf-8"), flags=re.MULTILINE)[1:]
        for rule in rules:
            if re.search(r"^ *(?:script|shell|notebook|wrapper):", rule, flags=re.MULTILINE):
                named = re.search(r"^ *conda:\s+\"(.+)\"", rule, flags=re.MULTILINE)
                assert named, f"{path.name}: rule{rule.splitlines()[0]}"
                assert (path.parent / named[1]).is_file()
                found += 1
    assert found > 10


def test_containers_hold_the_pins_and_the_project():
    docker, apptainer = ((ENVS / name).read_text() for name in ("Dockerfile", "retinaflow.def"))
    pinned = "python3 -m pip install --no-cache-dir --require-hashes --requirement /requirements.txt"
    project = "python3 -m pip install --no-cache-dir --no-index --no-deps --no-build-isolation /source"
    assert re.findall(r"^(?:RUN|COPY|ADD) .*", docker, flags=re.MULTILINE) == [
        "COPY envs/requirements-s3.txt /requirements.txt",
        f"RUN {pinned}",
        "COPY pyproject.toml README.md /source/",
        "COPY workflow /source/workflow",
        f"RUN {project}",
    ]
    assert re.findall(r"^    (.*)", apptainer, flags=re.MULTILINE) == [
        "envs/requirements-s3.txt /requirements.txt",
        "pyproject.toml /source/pyproject.toml",
        "README.md /source/README.md",
        "workflow /source/workflow",
        pinned,
        project,
    ]
    base = re.search(r"^From: (.+)", apptainer, flags=re.MULTILINE)[1]
    assert f"BASE=docker.io/library/{base}\n" in docker
    # The Python of the conda environments.
    assert base.startswith("python:3.12-")
    assert all("python =3.12\n" in path.read_text() for path in ENVS.glob("*.yaml"))


def test_container_of_the_service_has_all_packages_it_needs():
    text = (ENVS / "serve.Dockerfile").read_text()
    listed = re.search(r"sys.argv.*?\n(.*?) > /pins", text, re.DOTALL)[1].replace("\\", " ").split()
    assert listed == sorted(listed)
    there = set(listed) | pins("requirements-predict.txt").keys() | pins("requirements-dicom.txt").keys()
    assert set(listed) <= pins("requirements-serve.txt").keys()
    waiting, needed = list(names("predict", "dicom", "serve")), set()
    while waiting:
        name = re.sub(r"[-_.]+", "-", waiting.pop()).lower()
        if name not in needed:
            needed.add(name)
            for text_of in metadata.requires(name) or []:
                requirement = Requirement(text_of)
                if requirement.marker is None or requirement.marker.evaluate({"extra": ""}):
                    waiting.append(requirement.name)
    # For Python 3.12 and newer without them.
    assert needed - there <= {"backports-asyncio-runner", "exceptiongroup"}
    assert "tensorflow" not in there
    assert re.search(r"^USER [1-9]", text, re.MULTILINE)


def test_audit_without_network_writes_bills_and_says_what_is_missing(tmp_path):
    """The programs are stand-ins: pip-audit itself would say that a package does not exist."""
    if shutil.which("make") is None:
        pytest.skip("needs make")
    binaries = tmp_path / "venv/bin"
    binaries.mkdir(parents=True)
    for stamp in (".workflow", ".audit"):
        (tmp_path / "venv" / stamp).touch()
    (binaries / "python").symlink_to(sys.executable)
    scripts = {"cyclonedx-py": 'eval "last=\\${$#}"; echo "{}" > "$last"', "pip-audit": "echo was called; exit 1"}
    for name, text in scripts.items():
        (binaries / name).write_text(f"#!/bin/sh\n{text}\n")
        (binaries / name).chmod(0o755)
    environment = {**os.environ, "https_proxy": "http://127.0.0.1:9", "no_proxy": ""}
    command = ["make", "audit", f"VENV={tmp_path / 'venv'}", f"RESULTS={tmp_path / 'results'}"]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False
    )
    assert done.returncode != 0
    bills = {path.name for path in (tmp_path / "results/audit").iterdir()}
    assert bills == {f"{path.stem}.cdx.json" for path in (ROOT / "envs").glob("requirements-*.txt")}
    assert "No vulnerabilities were looked up: https://pypi.org/pypi/pip/json does not answer." in done.stdout
    assert "Traceback" not in done.stdout
    assert "was called" not in done.stdout
