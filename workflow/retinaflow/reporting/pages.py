"""Pages of the report: HTML files that need no other file, made of tables or of the Markdown of other stages."""

import functools
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from markdown_it import MarkdownIt
from markdown_it.renderer import RendererHTML
from markdown_it.token import Token
from markdown_it.utils import OptionsDict

from retinaflow.reporting.templates import render
from retinaflow.storage.files import whole_file


def write_page(path: Path, title: str, body: str) -> None:
    """Write a page.

    Args:
        path: The file.
        title: Its title, as text.
        body: Its body, as HTML.
    """
    with whole_file(path) as part:
        text = render("page.html", title=title, body=body)
        part.write_text(text, encoding="utf-8", errors="replace")


def html_table(header: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """Return an HTML table. Its cells are text and escaped."""
    return render("table.html", header=header, rows=rows)


def from_markdown(text: str) -> str:
    """Return HTML of the Markdown of other stages: headings, paragraphs, lists, tables and ``**bold**``.

    All else is shown as it is, because names of files may look like HTML, links or emphasis.
    """
    return str(_parser().render(text))


def page_of(markdown: Path, page: Path, title: str) -> None:
    """Write a Markdown file of another stage as a page."""
    write_page(page, title, from_markdown(markdown.read_text(encoding="utf-8", errors="surrogateescape")))


@functools.cache
def _parser() -> MarkdownIt:
    parser = MarkdownIt("zero", {"html": False}).enable(["heading", "list", "table", "emphasis"])
    for kind in ("em_open", "em_close", "strong_open", "strong_close"):
        parser.add_render_rule(kind, _emphasis)
    return parser


def _emphasis(
    _: RendererHTML,
    tokens: Sequence[Token],
    number: int,
    options: OptionsDict,  # noqa: ARG001
    env: Mapping[str, Any],  # noqa: ARG001
) -> str:
    """Render ``**`` as bold. Show other marks, which may be part of a name."""
    token = tokens[number]
    if token.markup != "**":
        return token.markup
    return "<strong>" if token.nesting == 1 else "</strong>"
