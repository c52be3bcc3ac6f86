"""The reference of the configuration is made from its classes."""

import json

import jsonschema
import pytest
import yaml

from common import ROOT
from retinaflow.config.reference import SECTIONS, json_schema, reference, section_schema

README = (ROOT / "config/README.md").read_text(encoding="utf-8")


def test_config_readme_is_made_from_the_classes():
    assert reference(README.split("\n## ", 1)[0]) == README, "run `make reference`"


def test_json_schema_is_made_from_the_classes():
    written = json.loads((ROOT / "workflow/schemas/config.schema.json").read_text(encoding="utf-8"))
    assert written == json_schema(), "run `make reference`"


@pytest.mark.parametrize("name", ["config.yaml", "demo.yaml", "eyepacs.yaml", "best.yaml"])
def test_our_own_configurations_follow_the_json_schema(name):
    jsonschema.validate(yaml.safe_load((ROOT / "config" / name).read_text(encoding="utf-8")), json_schema())


def test_every_key_is_explained():
    rows = [line for line in reference("# Configuration").splitlines() if line.startswith("| `")]
    assert len(rows) == sum(len(section.model_fields) for section in SECTIONS.values())
    assert not [row for row in rows if len(row.split(" | ")[-1]) < 10]


def test_every_section_is_there():
    shown = {section.__name__ for section in SECTIONS.values()} | {"TrainSection"}
    assert {name for section in SECTIONS.values() for name in section_schema(section).get("$defs", ())} <= shown


def test_a_bar_in_a_default_does_not_break_the_table():
    rows = [line for line in reference("# Configuration").splitlines() if line.startswith("| `patient_pattern` |")]
    (row,) = [line for line in rows if "(?P<eye>" in line]
    assert r"left\|right" in row
    assert row.replace(r"\|", "").count("|") == 5
