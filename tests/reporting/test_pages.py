"""Pages of the report: Markdown of other stages and tables as HTML."""

from html.parser import HTMLParser
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from retinaflow.data.inventory import InventoryReport
from retinaflow.data.preflight import summarise
from retinaflow.data.problem_policy import Check
from retinaflow.reporting.pages import from_markdown, html_table, write_page

PROBLEM = {"image": "<17>", "path": "a & b.png", "problem": "empty", "action": "excluded", "found": "0 bytes"}


class Text(HTMLParser):
    """Text and tags of a page, as in a browser."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.shown = ""
        self.tags: list[str] = []
        self.feed(page)

    def handle_data(self, data: str) -> None:
        self.shown += data

    def handle_starttag(self, tag: str, attrs: object) -> None:  # noqa: ARG002
        self.tags.append(tag)


def test_each_kind_of_block_becomes_html() -> None:
    text = "# A & b\n\nSome *text*\nin **two** lines.\n\n## Below\n\n| x | y |\n|---|---|\n| 1 |  |\n\n- one\n- two\n"
    assert from_markdown(text) == (
        "<h1>A &amp; b</h1>\n<p>Some *text*\nin <strong>two</strong> lines.</p>\n<h2>Below</h2>\n"
        "<table>\n<thead>\n<tr>\n<th>x</th>\n<th>y</th>\n</tr>\n</thead>\n"
        "<tbody>\n<tr>\n<td>1</td>\n<td></td>\n</tr>\n</tbody>\n</table>\n"
        "<ul>\n<li>one</li>\n<li>two</li>\n</ul>\n"
    )


@pytest.mark.parametrize("name", ["<b>x</b>", "__x__", "*17*", "[a](b)", "`c`", "&lt;", "a_b_c", "http://a.b/c"])
def test_names_in_markdown_are_shown_as_they_are(name: str) -> None:
    page = Text(from_markdown(f"- {name}\n"))
    assert page.shown.strip("\n") == name
    assert page.tags == ["ul", "li"]


def test_summary_of_problems_is_shown_whole() -> None:
    summary = summarise({"train": Check(InventoryReport(3, 2, 2, {"empty": 1}), pd.DataFrame([PROBLEM]), [])})
    page = Text(from_markdown(summary))
    for word in ("Images and labels", "train", "excluded", "'a & b.png': 0 bytes"):
        assert word in page.shown
    assert [page.tags.count(tag) for tag in ("h1", "h2", "table", "li")] == [1, 1, 2, 1]


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"], exclude_characters="*|")))
def test_cell_shows_its_text(cell: str) -> None:
    page = Text(html_table([cell], []))
    assert page.shown.strip("\n") == cell
    assert page.tags == ["table", "tr", "th"]


def test_page_is_whole_and_in_utf_8(tmp_path: Path) -> None:
    write_page(tmp_path / "new/page.html", "a < b", "<p>° – \udcff</p>\n")
    page = (tmp_path / "new/page.html").read_text(encoding="utf-8")
    assert page.startswith("<!doctype html>")
    assert '<meta charset="utf-8">\n<title>a &lt; b</title>' in page
    assert "<body>\n<p>° – ?</p>\n</body>\n</html>\n" in page
