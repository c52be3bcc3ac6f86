"""Project files: they parse, name make targets that exist, and agree on the version."""

import re
import tomllib

import pytest
import yaml

from common import ROOT

GITHUB = ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
FORMS = [path for path in sorted((GITHUB / "ISSUE_TEMPLATE").glob("*.yml")) if path.name != "config.yml"]
YAML_FILES = [*sorted(GITHUB.rglob("*.yml")), ROOT / ".pre-commit-config.yaml", ROOT / "CITATION.cff"]


def load(path):
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def project_version():
    """The one version: of pyproject.toml, or of the file that it names."""
    pyproject = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    if "version" in pyproject["project"]:
        return pyproject["project"]["version"]
    tools = pyproject["tool"]
    if "hatch" in tools:
        text = (ROOT / tools["hatch"]["version"]["path"]).read_text(encoding="utf-8")
    else:
        attribute = tools["setuptools"]["dynamic"]["version"]["attr"]
        module = attribute.rpartition(".")[0].replace(".", "/")
        text = (ROOT / "workflow" / module / "__init__.py").read_text(encoding="utf-8")
    return re.search(r'__version__ = "(.+)"', text)[1]


def make_targets():
    lines = (ROOT / "Makefile").read_text(encoding="utf-8").splitlines()
    rules = [re.match(r"([a-z0-9][\w -]*):(?!=)", line) for line in lines]
    return {name for rule in rules if rule for name in rule[1].split()}


def workflow_steps():
    for path in WORKFLOWS:
        for job in load(path)["jobs"].values():
            yield from job["steps"]


@pytest.mark.parametrize("path", YAML_FILES, ids=lambda path: path.name)
def test_yaml_parses_to_a_mapping(path):
    assert isinstance(load(path), dict)


def test_citation_has_the_fields_of_cff():
    citation = load(ROOT / "CITATION.cff")
    assert citation["cff-version"] == "1.2.0"
    assert {"message", "title", "authors"} <= citation.keys()
    assert all(author.keys() == {"name"} for author in citation["authors"])
    assert citation["license"] == "MIT"


def test_license_is_named_by_its_identifier():
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert text.startswith("SPDX-License-Identifier: MIT\n")
    assert "the authors of retinaflow" in text


def test_citation_and_changelog_have_the_project_version():
    version = project_version()
    headings = re.findall(r"^## (\d+\.\d+\.\d+)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert load(ROOT / "CITATION.cff")["version"] == version
    assert headings[0] == version


def test_workflow_commands_are_existing_make_targets():
    commands = [line for step in workflow_steps() for line in step.get("run", "").splitlines()]
    targets = [command.split()[1:] for command in commands]
    assert all(command.startswith("make ") for command in commands)
    assert {"lint", "test-unit", "demo"} <= {name for names in targets for name in names} <= make_targets()


def test_workflow_runs_on_the_supported_python_versions():
    (jobs,) = [load(path)["jobs"] for path in WORKFLOWS if path.name == "ci.yml"]
    assert jobs["test"]["strategy"]["matrix"]["python-version"] == ["3.11", "3.12"]


def test_workflow_actions_are_pinned_to_a_version():
    actions = [step["uses"] for step in workflow_steps() if "uses" in step]
    assert actions
    assert all(re.fullmatch(r"actions/[\w-]+@v\d+", action) for action in actions)


def test_workflow_has_no_right_to_write():
    assert all(load(path)["permissions"] == {"contents": "read"} for path in WORKFLOWS)


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.name)
def test_issue_form_has_described_fields(path):
    form = load(path)
    assert {"name", "description", "body"} <= form.keys()
    fields = [field for field in form["body"] if field["type"] != "markdown"]
    assert len({field["id"] for field in fields}) == len(fields) > 1
    assert all(field["attributes"]["description"] for field in fields)


def test_pre_commit_runs_local_hooks_only():
    (repository,) = load(ROOT / ".pre-commit-config.yaml")["repos"]
    assert repository["repo"] == "local"
    hooks = {hook["id"]: hook["entry"] for hook in repository["hooks"]}
    assert hooks.keys() == {"ruff-check", "ruff-format", "mypy", "snakefmt", "prose"}
    assert all(entry.startswith(".venv/bin/python -m ") for entry in hooks.values())


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_have_least_rights(path):
    for job in load(path)["jobs"].values():
        assert "permissions" not in job
        checkouts = [step for step in job["steps"] if str(step.get("uses", "")).startswith("actions/checkout")]
        assert all(step["with"]["persist-credentials"] is False for step in checkouts)


def test_container_does_not_run_as_root():
    lines = (ROOT / "envs/Dockerfile").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line.startswith("USER ")][-1] == "USER 65532:65532"
