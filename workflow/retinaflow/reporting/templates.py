"""Jinja2 templates of cards and pages."""

import functools
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

FOLDER = Path(__file__).parent / "templates"


def render(name: str, **values: Any) -> str:
    """Render a template.

    Args:
        name: Its file name without ``.jinja``. Values in HTML are escaped, unless the template calls them safe.
        **values: Values of its variables. A variable without a value is an error.
    """
    return _environment().get_template(f"{name}.jinja").render(values)


@functools.cache
def _environment() -> Environment:
    return Environment(
        loader=FileSystemLoader(FOLDER),
        autoescape=select_autoescape(["html.jinja"], default=False),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
