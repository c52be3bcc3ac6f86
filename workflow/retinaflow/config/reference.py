"""Write the reference of every configuration key, `config/README.md`, from the schema: `make reference`."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

SECTIONS = {
    "": "Keys at the top",
    "demo": "`demo`",
    "data": "`data`",
    "data.train": "`data.train` and `data.test`",
    "data.on_problem": "`data.on_problem`",
    "split": "`split`",
    "organize": "`organize`",
    "preprocess": "`preprocess`",
    "train": "`train`, and each of `backbones`",
    "train.augment": "`train.augment`",
    "features": "`features`",
    "eyes": "`eyes`",
    "score": "`score`",
    "tracking": "`tracking`",
    "export": "`export`",
}


def reference(schema: Mapping[str, Any], introduction: str) -> str:
    """Markdown: ``introduction``, then a table of key, values, default and meaning for each section of the schema."""
    parts = [introduction.rstrip()]
    for section, title in SECTIONS.items():
        rows = list(_rows(section_of(schema, section)))
        parts.append(f"## {title}\n\n| key | values | default | meaning |\n|---|---|---|---|\n" + "\n".join(rows))
    return "\n\n".join(parts) + "\n"


def section_of(schema: Mapping[str, Any], section: str) -> Mapping[str, Any]:
    """The part of the schema that describes ``section``, a dotted path of keys."""
    part = schema
    for key in section.split(".") if section else ():
        part = part["properties"][key]
        if "$ref" in part:
            part = schema["$defs"][part["$ref"].rsplit("/", 1)[1]]
        if key == "train" and section.startswith("train"):
            part = schema["$defs"]["training"]
    return part


def _rows(section: Mapping[str, Any]) -> Iterator[str]:
    for key, rule in section["properties"].items():
        default = "required" if key in section.get("required", ()) else _default(rule)
        meaning = rule.get("description", "").strip().replace("|", "\\|").replace("\n", " ")
        yield f"| `{key}` | {_values(rule)} | {default} | {meaning} |"


def _default(rule: Mapping[str, Any]) -> str:
    if "default" not in rule or rule["default"] == {}:
        return ""
    if rule["default"] is None:
        return "none"
    text = yaml.safe_dump(rule["default"], default_flow_style=True, width=1000).removesuffix("...\n").strip()
    return f"`{text.replace('|', chr(92) + '|')}`"


def _values(rule: Mapping[str, Any]) -> str:
    if "oneOf" in rule:
        return " or ".join(_values(choice) for choice in rule["oneOf"])
    if "$ref" in rule:
        return "section"
    if "enum" in rule:
        # As YAML has them: true, not True.
        return ", ".join(f"`{str(value).lower() if isinstance(value, bool) else value}`" for value in rule["enum"])
    if "const" in rule:
        return f"`{rule['const']}`"
    if rule["type"] == "array":
        return f"list of {_values(rule['items'])}"
    names = {"object": "section", "null": "none", "string": "text", "boolean": "`true`, `false`"}
    bounds = [
        f"{words} {rule[key]}"
        for key, words in (
            ("minimum", "from"),
            ("exclusiveMinimum", "above"),
            ("maximum", "to"),
            ("exclusiveMaximum", "below"),
        )
        if key in rule
    ]
    return " ".join([names.get(rule["type"], rule["type"]), *bounds])


def write_reference(root: Path) -> None:
    """Write ``config/README.md`` of the checkout in ``root``; its introduction stays."""
    schema = yaml.safe_load((root / "workflow/schemas/config.schema.yaml").read_text(encoding="utf-8"))
    target = root / "config/README.md"
    introduction = target.read_text(encoding="utf-8").split("\n## ", 1)[0]
    target.write_text(reference(schema, introduction), encoding="utf-8")
