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
    return {
        re.split("==| ", line)[0]
        for line in (ENVS / name).read_text().splitlines()
        if line and not line.startswith(("#", "-r"))
    }


ON_TOP = ["requirements-dev", "requirements-slurm", "requirements-jax", "requirements-torch"]


@pytest.mark.parametrize("name", ["requirements", *ON_TOP])
def test_every_pin_has_hashes_and_no_address(name):
    text = (ENVS / f"{name}.txt").read_text()
    blocks = re.split(r"\n(?=\S)", text)
    pinned = [block for block in blocks if not block.startswith("#") and block.strip()]
    assert len(pinned) > 50
    assert all("==" in block and "--hash=sha256:" in block for block in pinned)
    assert "://" not in text
    assert "--index" not in text


@pytest.mark.parametrize("name", ON_TOP)
def test_further_pins_extend_the_workflow_pins(name):
    assert pins("requirements.txt").items() < pins(f"{name}.txt").items()


@pytest.mark.parametrize("name", ["requirements", *ON_TOP])
def test_everything_asked_for_is_pinned(name):
    assert names(f"{name}.in") <= pins(f"{name}.txt").keys()


def test_conda_environment_has_the_same_versions():
    environment = yaml.safe_load((ENVS / "retinaflow.yaml").read_text())
    (pip,) = [entry["pip"] for entry in environment["dependencies"] if isinstance(entry, dict)]
    versions = dict(entry.split(" ==") for entry in pip)
    assert versions.keys() == names("requirements.in")
    assert versions == {name: pins("requirements.txt")[name] for name in versions}
