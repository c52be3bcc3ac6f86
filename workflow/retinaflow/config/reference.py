"""Reference of the configuration, made from its classes: ``config/README.md`` and a JSON Schema (`make reference`)."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from retinaflow.settings.augment import AugmentSettings
from retinaflow.settings.data import DataSetSettings, DataSettings, ProblemSettings
from retinaflow.settings.demo import DemoSettings
from retinaflow.settings.evidence import EvidenceSettings, TargetSettings
from retinaflow.settings.export import ExportSettings
from retinaflow.settings.eyes import EyeSettings
from retinaflow.settings.features import FeatureSettings
from retinaflow.settings.linear import LinearSection
from retinaflow.settings.organize import OrganizeSettings
from retinaflow.settings.preprocess import PreprocessSettings
from retinaflow.settings.root import ConfigurationFile
from retinaflow.settings.score import ScoreSettings
from retinaflow.settings.screening import ScreeningSettings
from retinaflow.settings.section import Section
from retinaflow.settings.split import SplitListSettings, SplitSettings
from retinaflow.settings.tracking import TrackingSettings
from retinaflow.settings.train import ModelSection, NormalisationSettings

SECTIONS: dict[str, type[Section]] = {
    "Keys at the top": ConfigurationFile,
    "`demo`": DemoSettings,
    "`data`": DataSettings,
    "`data.train` and `data.test`": DataSetSettings,
    "`data.on_problem`": ProblemSettings,
    "`split`": SplitSettings,
    "`split.lists`": SplitListSettings,
    "`organize`": OrganizeSettings,
    "`preprocess`": PreprocessSettings,
    "`train`, and each of `models`": ModelSection,
    "`train.normalisation`, of a backbone by path": NormalisationSettings,
    "`train.augment`": AugmentSettings,
    "`models`, with `kind: linear`": LinearSection,
    "`features`": FeatureSettings,
    "`eyes`": EyeSettings,
    "`screening`": ScreeningSettings,
    "`score`": ScoreSettings,
    "`evidence`": EvidenceSettings,
    "`evidence.targets`": TargetSettings,
    "`tracking`": TrackingSettings,
    "`export`": ExportSettings,
}
NAMES = {"object": "section", "null": "none", "string": "text", "boolean": "`true`, `false`"}
BOUND_WORDS = {"minimum": "from", "exclusiveMinimum": "above", "maximum": "to", "exclusiveMaximum": "below"}


def reference(introduction: str) -> str:
    """Markdown: ``introduction``, then a table of key, values, default and meaning for each section."""
    parts = [introduction.rstrip()]
    for title, section in SECTIONS.items():
        rows = "\n".join(_rows(section_schema(section)))
        parts.append(f"## {title}\n\n| key | values | default | meaning |\n|---|---|---|---|\n{rows}")
    return "\n\n".join(parts) + "\n"


def json_schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of a configuration file, for editors."""
    schema: dict[str, Any] = _tidy(ConfigurationFile.model_json_schema())
    title = "retinaflow configuration"
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": title, **schema}


def section_schema(section: type[BaseModel]) -> dict[str, Any]:
    """JSON Schema of one section."""
    schema: dict[str, Any] = _tidy(section.model_json_schema())
    return schema


def _tidy(schema: Any, named: bool = False) -> Any:
    """A JSON Schema without the titles that pydantic makes of names; ``named`` if its keys are those of a section."""
    if isinstance(schema, dict):
        kept = {key: _tidy(value, key == "properties") for key, value in schema.items() if named or key != "title"}
        if isinstance(kept.get("description"), str):
            kept["description"] = " ".join(kept["description"].split())
        return kept
    return [_tidy(item) for item in schema] if isinstance(schema, list) else schema


def _rows(section: Mapping[str, Any]) -> Iterator[str]:
    for key, rule in section["properties"].items():
        default = "required" if key in section.get("required", ()) else _default(rule)
        # Pydantic leaves out the description of a section that equals that of its class.
        described = rule if "description" in rule else section["$defs"][rule["$ref"].rsplit("/", 1)[1]]
        meaning = described["description"].replace("|", "\\|")
        yield f"| `{key}` | {_values(rule)} | {default} | {meaning} |"


def _default(rule: Mapping[str, Any]) -> str:
    default = rule.get("default", {})
    if default is None:
        return "none"
    if "$ref" in rule or default == {}:
        return ""
    default = list(default) if isinstance(default, dict) else default
    text = yaml.safe_dump(default, default_flow_style=True, width=1000).removesuffix("...\n").strip()
    return f"`{text.replace('|', chr(92) + '|')}`"


def _values(rule: Mapping[str, Any]) -> str:
    if forms := rule.get("anyOf", rule.get("oneOf")):
        return " or ".join(dict.fromkeys(map(_values, forms)))
    if "$ref" in rule:
        return "section"
    if "enum" in rule:
        # As YAML has them: true, not True.
        return ", ".join(f"`{str(value).lower() if isinstance(value, bool) else value}`" for value in rule["enum"])
    if "const" in rule:
        return f"`{rule['const']}`"
    if rule["type"] == "array":
        return f"list of {_values(rule['items'])}"
    bounds = [f"{words} {rule[key]}" for key, words in BOUND_WORDS.items() if key in rule]
    return " ".join([NAMES.get(rule["type"], rule["type"]), *bounds])


def write_reference(root: Path) -> None:
    """Write both files of the checkout ``root``. The introduction of ``config/README.md`` stays."""
    page = root / "config/README.md"
    introduction = page.read_text(encoding="utf-8").split("\n## ", 1)[0]
    page.write_text(reference(introduction), encoding="utf-8")
    schema = root / "workflow/schemas/config.schema.json"
    schema.parent.mkdir(exist_ok=True)
    schema.write_text(json.dumps(json_schema(), indent=2) + "\n", encoding="utf-8")
