import yaml

from common import ROOT
from retinaflow.config.reference import SECTIONS, reference, section_of

SCHEMA = yaml.safe_load((ROOT / "workflow/schemas/config.schema.yaml").read_text(encoding="utf-8"))
README = (ROOT / "config/README.md").read_text(encoding="utf-8")


def test_config_readme_is_made_from_the_schema():
    assert reference(SCHEMA, README.split("\n## ", 1)[0]) == README, "run `make reference`"


def test_every_key_is_explained():
    for section in SECTIONS:
        for key, rule in section_of(SCHEMA, section)["properties"].items():
            assert rule.get("description"), f"{section}.{key}"


def test_everysection_of_is_there():
    def sections(part, name=""):
        yield name
        for key, rule in part.get("properties", {}).items():
            if rule.get("type") == "object" and "properties" in rule:
                yield from sections(rule, f"{name}.{key}".lstrip("."))

    assert set(sections(SCHEMA)) <= SECTIONS.keys()
    assert {f"train.{name}".rstrip(".") for name in sections(SCHEMA["$defs"]["training"])} <= SECTIONS.keys()


def test_a_bar_in_a_default_does_not_break_the_table():
    text = reference(SCHEMA, "# Configuration")
    (row,) = [line for line in text.splitlines() if line.startswith("| `patient` |")]
    assert r"left\|right" in row
    assert row.replace(r"\|", "").count("|") == 5
