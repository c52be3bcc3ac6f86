"""Pages of the report: HTML that stands by itself, made of tables or of the Markdown that other stages write."""

import re
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from retinaflow.storage.files import whole_file

STYLE = """body { font-family: sans-serif; margin: 1em; }
table { border-collapse: collapse; margin: 1em 0; font-size: 90%; }
th, td { border: 1px solid #999; padding: 0.25em 0.6em; text-align: left; vertical-align: top; }
th { background: #eee; }
td { overflow-wrap: anywhere; }"""


def write_page(path: Path, title: str, body: str) -> None:
    """Write a page with ``body``, which is HTML."""
    with whole_file(path) as part:
        part.write_text(
            f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(title)}</title>\n'
            f"<style>\n{STYLE}\n</style>\n</head>\n<body>\n{body}</body>\n</html>\n",
            encoding="utf-8",
            errors="replace",
        )


def table(header: Sequence[object], rows: Iterable[Sequence[object]]) -> str:
    """An HTML table; ``**this**`` in a cell is bold."""
    lines = [_row("th", header), *(_row("td", row) for row in rows)]
    return "<table>\n" + "".join(f"{line}\n" for line in lines) + "</table>\n"


def from_markdown(text: str) -> str:
    """HTML of the Markdown that other stages write: headings, paragraphs, lists and tables, an empty line between."""
    return "".join(map(_block, re.split(r"\n\n+", text.strip())))


def _block(block: str) -> str:
    lines = block.split("\n")
    if heading := re.match(r"#+ ", block):
        level = len(heading[0]) - 1
        return f"<h{level}>{_inline(block[len(heading[0]) :])}</h{level}>\n"
    if block.startswith("| "):
        cells = [line[2:-2].split(" | ") for line in lines]
        return table(cells[0], cells[2:])
    if block.startswith("- "):
        return "<ul>\n" + "".join(f"<li>{_inline(line[2:])}</li>\n" for line in lines) + "</ul>\n"
    return f"<p>{_inline(block)}</p>\n"


def _row(tag: str, cells: Sequence[object]) -> str:
    return "<tr>" + "".join(f"<{tag}>{_inline(str(cell))}</{tag}>" for cell in cells) + "</tr>"


def _inline(text: str) -> str:
    return re.sub(r"\*\*(.+?)\*\*", r"<b>\1</b>", escape(text, quote=False))
