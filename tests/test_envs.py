"""The environments: the same versions everywhere, with hashes, and no word of where they came from."""

import re

import pytest
import yaml

from common import ROOT

ENVS = ROOT / "envs"


def pins(name):
    """Version of each package for the newest Python, from a requirements file."""
    found = {}
    for line in (ENVS / name).read_text().splitlines():
        if match := re.match(r"([a-z0-9-]+)==(\S+)(?: ; python_full_version < .*)?", line):
            found[match[1]] = match[2]
    return found


def names(name):
    lines = (ENVS / name).read_text().splitlines()
    return {re.match(r"[a-z0-9-]+", line)[0] for line in lines if line and not line.startswith(("#", "-r"))}


@pytest.mark.parametrize("name", sorted(path.name for path in ENVS.glob("*.txt")))
def test_every_pin_has_hashes_and_no_address(name):
    text = (ENVS / name).read_text()
    blocks = re.split(r"\n(?=\S)", text)
    pinned = [block for block in blocks if not block.startswith("#") and block.strip()]
    assert len(pinned) > 50
    assert all("==" in block and "--hash=sha256:" in block for block in pinned)
    assert "://" not in text
    assert "--index" not in text


@pytest.mark.parametrize("name", sorted(path.name for path in ENVS.glob("requirements-*.txt")))
def test_further_pins_extend_the_workflow_pins(name):
    assert pins("requirements.txt").items() < pins(name).items()


@pytest.mark.parametrize("name", sorted(path.stem for path in ENVS.glob("requirements*.in")))
def test_everything_asked_for_is_pinned(name):
    assert names(f"{name}.in") <= pins(f"{name}.txt").keys()


def test_what_tests_of_object_storage_need_fits_the_other_pins():
    both = pins("requirements-s3-dev.txt")
    assert pins("requirements-s3.txt").items() < both.items()
    assert pins("requirements-dev.txt").items() < both.items()


@pytest.mark.parametrize("name", ["export", "serve", "track"])
def test_what_is_optional_fits_the_other_pins(name):
    assert pins(f"requirements-{name}.txt").items() < pins("requirements-dev.txt").items()


def test_what_the_browser_test_needs_fits_the_other_pins():
    assert pins("requirements-dev.txt").items() < pins("requirements-browser.txt").items()


@pytest.mark.parametrize(
    ("name", "requirements", "wanted"),
    [
        ("retinaflow.yaml", "requirements.txt", names("requirements.in")),
        ("storage.yaml", "requirements-s3.txt", {"boto3", "snakemake"}),
        ("export.yaml", "requirements-export.txt", names("requirements.in") | names("requirements-export.in")),
    ],
)
def test_conda_environments_have_the_same_versions(name, requirements, wanted):
    environment = yaml.safe_load((ENVS / name).read_text())
    (pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    versions = dict(entry.split(" ==") for entry in pip)
    assert versions.keys() == wanted
    assert versions == {name: pins(requirements)[name] for name in versions}


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


def test_containers_hold_the_pins_and_nothing_else():
    docker, apptainer = ((ENVS / name).read_text() for name in ("Dockerfile", "retinaflow.def"))
    install = "python3 -m pip install --no-cache-dir --require-hashes --requirement /requirements.txt"
    assert re.findall(r"^(?:RUN|COPY|ADD) .*", docker, flags=re.MULTILINE) == [
        "COPY requirements-s3.txt /requirements.txt",
        f"RUN {install}",
    ]
    assert re.findall(r"^    (.*)", apptainer, flags=re.MULTILINE) == [
        "envs/requirements-s3.txt /requirements.txt",
        install,
    ]
    base = re.search(r"^From: (.+)", apptainer, flags=re.MULTILINE)[1]
    assert f"BASE=docker.io/library/{base}\n" in docker
    # The Python of the conda environments.
    assert base.startswith("python:3.12-")
    assert all("python =3.12\n" in path.read_text() for path in ENVS.glob("*.yaml"))
