"""Write the generated parts of the pages docs/messages.md, docs/http-api.md and docs/upgrade.md.

    python docs/reference.py     # part of `make reference`

The messages are those that tests/config knows. They are made by loading each wrong configuration again.
"""

import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / folder) for folder in ("workflow", "tests", "tests/config")]

import test_loading  # noqa: E402

import configurations  # noqa: E402
from retinaflow.config.loading import load  # noqa: E402
from retinaflow.config.old_keys import KEYS, VALUES  # noqa: E402
from retinaflow.errors import RetinaflowError  # noqa: E402

LONGEST = 200  # characters of a cell
# Heading, pattern of the messages, and the solution. The first pattern that matches decides.
KINDS = [
    (
        "A key is missing",
        r"required and missing|nothing stands there",
        "Write the key with a value. A key that ends in a colon alone has no value: delete it to use its default.",
    ),
    (
        "A former name",
        r"this key is now|is now called",
        "Write the new name. [Upgrade](upgrade.md) lists all of them.",
    ),
    (
        "A name that does not exist",
        r"unknown key|unknown backbone|there is no|grades no new images",
        "Correct the spelling. The message has the nearest known name, or all of them.",
    ),
    (
        "YAML reads something else",
        r"YAML reads|put it in quotes",
        "Put the value in quotes. YAML reads `yes`, `no`, `on` and `off` as true and false, and digits as a number.",
    ),
    (
        "The wrong form of a value",
        r"is not of type|expected a section",
        "Write the named form. An `integer` has no point. A `list` is written `[a, b]`. A `section` has a line "
        "`key: value` for each key below it, with more blanks before them.",
    ),
    (
        "A value outside its bounds",
        r"is less than|is greater than|is not above|is not below|too short|too long|non-empty|characters, expected",
        "Choose a value within the bounds. [The reference](../config/README.md) has them for each key. A share is "
        "between 0 and 1: 20 % is 0.2.",
    ),
    ("A value that is not in the list", r"is not one of|was expected", "Choose one of the listed values."),
    (
        "The form of a text",
        r"does not match|regular expression|has no group|twice|differ in case|expected a name|reserved|operating point",
        "Follow the form in the message.",
    ),
    (
        "Settings that contradict each other",
        r"",
        "The message names the key, its value and the change. A setting of `train` is named once for each model that "
        "uses it.",
    ),
]
EXAMPLES = 8  # rows of a kind, but for the last one


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


def code(text: str) -> str:
    """``text`` as code of Markdown on one line, shortened."""
    text = " ".join(text.split())
    text = text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."
    return f"`` {text} ``" if "`" in text else f"`{text}`"


def first_message(wrong: Mapping[str, Any]) -> str:
    """The first line about a key in the error for a configuration."""
    try:
        load(wrong)
    except RetinaflowError as error:
        return str(error).splitlines()[1].removeprefix("  - ")
    raise AssertionError(f"expected an error for {wrong!r}")


def shown_change(wrong: Mapping[str, Any]) -> str:
    """The wrong part of a configuration, as YAML on one line."""
    right = configurations.DATA
    change = {key: value for key, value in wrong.items() if key != "data" or value != right}
    if isinstance(change.get("data"), Mapping) and len(change["data"]) > 1:
        change["data"] = {key: value for key, value in change["data"].items() if value != right.get(key)}
    text = yaml.safe_dump(change, default_flow_style=True, sort_keys=False, width=10**6, allow_unicode=True)
    return text.strip()[1:-1] or "an empty file"


def tables_of_mistakes() -> Iterator[tuple[Mapping[str, Any], str]]:
    """The wrong configurations that the tests know, each with a part of its message."""
    for function in (
        test_loading.test_a_mistake_is_named,
        test_loading.test_a_model_needs_a_name_and_a_backbone,
        test_loading.test_former_key_is_an_error_that_names_the_new_one,
    ):
        (mark,) = [mark for mark in function.pytestmark if mark.name == "parametrize"]
        yield from mark.args[1]


def messages() -> str:
    """Wrong settings and their messages, by the kind of mistake."""
    found: dict[str, dict[str, list[str]]] = {heading: {} for heading, _, _ in KINDS}
    for wrong, _ in tables_of_mistakes():
        message = first_message(wrong)
        heading = next(heading for heading, pattern, _ in KINDS if re.search(pattern, message))
        # Messages that differ in the key or the value alone are one example.
        form = re.sub(r"'[^']*'|\[[^]]*\]|\d[\d.e+-]*", "", message.partition(": ")[2])
        if len(message) <= LONGEST or heading == KINDS[-1][0]:
            found[heading].setdefault(form, [code(shown_change(wrong)), code(message)])
    parts = []
    for heading, _, solution in KINDS:
        rows = list(found[heading].values())
        rows = rows if heading == KINDS[-1][0] else rows[:EXAMPLES]
        parts.append(f"## {heading}\n\n{solution}\n\n{table(['written', 'message'], rows)}")
    return "\n\n".join(parts)


def upgrade() -> str:
    """Former keys and values, each with the present one."""
    keys = [[code(old), code(new)] for old, new in KEYS.items()]
    values = [[code(key), code(old), code(new)] for key, changed in VALUES.items() for old, new in changed.items()]
    return f"{table(['former key', 'now'], keys)}\n\n{table(['key', 'former value', 'now'], values)}"


def description() -> dict[str, Any]:
    """The description of the service in OpenAPI, without a model."""
    from retinaflow.serving.serve import ServiceSettings, application

    guard = application(ServiceSettings({}, {}), announce=lambda: None, failures=[])
    described: dict[str, Any] = guard._app.openapi()
    return described


def type_of(schema: Mapping[str, Any]) -> str:
    """The type of a value, in words."""
    if forms := schema.get("anyOf"):
        return " or ".join("none" if form.get("type") == "null" else type_of(form) for form in forms)
    if "$ref" in schema:
        name = schema["$ref"].rsplit("/", 1)[1]
        return f"[{name}](#{name.lower()})"
    if "enum" in schema:
        return ", ".join(f"`{value}`" for value in schema["enum"])
    if schema.get("type") == "array":
        return f"list of {type_of(schema['items'])}"
    return {"object": "object", "string": "text", "boolean": "true or false"}.get(schema["type"], schema["type"])


def http_api() -> str:
    """Addresses of the service, and the fields of its answers."""
    described = description()
    parts = []
    for address, methods in described["paths"].items():
        for method, rule in methods.items():
            answer = rule["responses"]["200"]["content"]["application/json"]["schema"]
            form = rule.get("requestBody", {}).get("content", {}).get("multipart/form-data", {}).get("schema", {})
            fields = ", ".join(f"`{name}`" for name in form.get("properties", {}))
            errors = ", ".join(status for status in rule["responses"] if status != "200")
            lines = [
                f"## `{method.upper()} {address}`",
                f"{rule['summary']}. {rule.get('description', '')}".strip(),
                *([f"Files of the form: {fields}."] if fields else []),
                f"Answer: {type_of(answer)}. Errors: {errors}, each an {type_of({'$ref': '/ErrorAnswer'})}.",
            ]
            parts.append("\n\n".join(lines))
    for name, schema in described["components"]["schemas"].items():
        if not name.startswith(("HTTPValidation", "Validation")):
            rows = [
                [code(field), type_of(rule), rule.get("description", "")]
                for field, rule in schema["properties"].items()
            ]
            parts.append(f"## {name}\n\n{schema.get('description', '')}\n\n{table(['field', 'type', 'meaning'], rows)}")
    return "\n\n".join(parts)


PAGES: dict[str, Callable[[], str]] = {"messages": messages, "http-api": http_api, "upgrade": upgrade}


def page(name: str) -> str:
    """The page with its generated part made again."""
    content = (ROOT / f"docs/{name}.md").read_text(encoding="utf-8")
    begin, end = (f"<!-- {word} {name}, by docs/reference.py -->" for word in ("begin", "end"))
    before, after = content.split(begin)[0], content.split(end)[1]
    return f"{before}{begin}\n\n{PAGES[name]()}\n\n{end}{after}"


if __name__ == "__main__":
    for made in PAGES:
        (ROOT / f"docs/{made}.md").write_text(page(made), encoding="utf-8")
