"""The pages of the site: their length, their place in the navigation, and their links."""

import ast
import importlib
import re
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

from common import ROOT

LONGEST_PAGE = 1500  # words of text, without blocks of code
# Pages that readers search and do not read from top to bottom, with the reason for their length.
LONG = {
    "docs/messages.md": "generated: examples of messages, found by their words",
    "docs/methods.md": "generated: tables of measurements, read by row",
    "config/README.md": "generated: one table for each section of the configuration, found by key",
    "CHANGELOG.md": "a chronicle, of which readers need the entries since their version",
}
PAGES = sorted(
    path for pattern in ("*.md", "docs/**/*.md", "config/*.md", "benchmarks/*.md") for path in ROOT.glob(pattern)
)
KINDS = ["Tutorials", "How to", "Reference", "Explanation", "Project"]
FENCES = re.compile(r"^ *(```+|~~~+).*?^ *\1 *$", re.DOTALL | re.MULTILINE)


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def text(path: Path) -> str:
    """The text of a page without blocks of code and comments."""
    return re.sub(r"<!--.*?-->", "", FENCES.sub("", path.read_text(encoding="utf-8")), flags=re.DOTALL)


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub and Sphinx make them."""
    found: set[str] = set()
    for heading in re.findall(r"^#+ (.+)$", text(path), re.MULTILINE):
        plain = re.sub(r"[^\w\- ]", "", re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower())
        found.add(plain.strip().replace(" ", "-"))
    return found


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_page_can_be_read_in_one_go(page: Path) -> None:
    words = [word for word in text(page).split() if re.search(r"\w", word)]
    if named(page) not in LONG:
        assert len(words) <= LONGEST_PAGE


def test_exempt_pages_are_long() -> None:
    assert [name for name in LONG if len(text(ROOT / name).split()) <= LONGEST_PAGE] == []


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_to_files_and_headings(page: Path) -> None:
    broken = []
    for target in re.findall(r"(?<!`)\]\(([^)\s]+)\)", re.sub(r"`[^`\n]+`", "", text(page))):
        if re.match(r"\w+:", target):
            continue
        name, _, anchor = target.partition("#")
        path = (page.parent / name).resolve() if name else page
        if not path.exists() or (anchor and path.suffix == ".md" and anchor not in anchors(path)):
            broken.append(target)
    assert broken == []


def entries() -> list[tuple[str, str]]:
    """Caption and entry of each line of the tables of contents in docs/index.md."""
    content = (ROOT / "docs/index.md").read_text(encoding="utf-8")
    return [
        (re.search(r":caption: (.+)", table)[1], line)  # type: ignore[index]
        for table in re.findall(r"```\{toctree\}\n(.*?)```", content, re.DOTALL)
        for line in table.splitlines()
        if line and not line.startswith(":")
    ]


def test_navigation_has_four_kinds_of_pages() -> None:
    assert list(dict.fromkeys(caption for caption, _ in entries())) == KINDS


def test_every_page_has_one_place_in_the_navigation() -> None:
    listed = [
        named(path)
        for _, entry in entries()
        for path in (
            [(ROOT / "docs" / f"{entry}.md").resolve()] if "*" not in entry else (ROOT / "docs").glob(f"{entry}.md")
        )
    ]
    decisions = {named(path) for path in (ROOT / "docs/decisions").glob("0*.md")}
    assert len(listed) == len(set(listed))
    assert {named(page) for page in PAGES} - decisions - {"docs/index.md"} == set(listed)


@pytest.mark.parametrize("name", ["messages", "http-api", "upgrade"])
def test_generated_page_is_current(name: str) -> None:
    sys.path.insert(0, str(ROOT / "docs"))
    reference = importlib.import_module("reference")
    assert reference.page(name) == (ROOT / f"docs/{name}.md").read_text(encoding="utf-8"), "run `make reference`"


def evaluated() -> dict[str, str]:
    """Public functions of the package evaluation, each with the docstrings of its module."""
    found = {}
    for path in sorted((ROOT / "workflow/retinaflow/evaluation").glob("[a-z]*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        described = [node for node in ast.walk(tree) if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef)]
        sources = " ".join(ast.get_docstring(node) or "" for node in described)
        for node in tree.body:
            if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                found[f"{path.stem}.{node.name}"] = sources
    return found


def metric_rows() -> list[list[str]]:
    """Cells of the rows of docs/metrics.md that name a function."""
    lines = (ROOT / "docs/metrics.md").read_text(encoding="utf-8").splitlines()
    return [line.strip("| ").split(" | ") for line in lines if re.search(r"\| `\w+\.\w+` \|$", line)]


def test_metrics_name_functions_that_exist() -> None:
    functions = evaluated()
    named_functions = [cells[-1].strip("`") for cells in metric_rows()]
    assert len(named_functions) > 25
    assert [name for name in named_functions if name not in functions] == []


def test_sources_of_metrics_are_those_of_the_code() -> None:
    functions = evaluated()
    wrong = []
    for *_, source, function in metric_rows():
        for author, year in re.findall(r"([A-Z][\w-]+)[^;]*? (\d{4})", source):
            if not re.search(rf"{author}.*?{year}", functions[function.strip("`")], re.DOTALL):
                wrong.append(f"{function}: {author} {year}")
    assert wrong == []


PICTURES = ("*.png", "*.svg", "*.jpg", "*.jpeg", "*.gif")


def test_every_picture_has_a_command_and_a_page() -> None:
    pictures = {named(path) for pattern in PICTURES for path in (ROOT / "docs").rglob(pattern)}
    listed = re.findall(r"^\| `(.+?)` \| `(.+?)`", (ROOT / "docs/pictures.md").read_text("utf-8"), re.MULTILINE)
    scripts = [command.split()[1] for _, command in listed if command.startswith("python ")]
    assert len(scripts) >= 4
    assert [script for script in scripts if not (ROOT / script).is_file()] == []
    assert {name for name in pictures if not any(fnmatch(name, pattern) for pattern, _ in listed)} == set()
    shown = {
        named((page.parent / target).resolve())
        for page in PAGES
        for target in re.findall(r"!\[[^\]]+\]\(([^)\s]+)\)", text(page))
    }
    assert pictures == shown


def test_shown_output_fits_a_terminal() -> None:
    wide = [
        f"{named(page)}: {line}"
        for page in PAGES
        for block in re.findall(r"^```text\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
        for line in block.splitlines()
        if len(line) > 120
    ]
    assert wide == []


# Messages of shells, Python, TensorFlow, Snakemake and the operating system.
MESSAGES_OF_OTHERS = {
    "retinaflow: command not found",
    "No module named retinaflow",
    "cuda drivers",
    "cuInit",
    "oneDNN custom operations",
    "absl::InitializeLog",
    "Nothing to be done",
    "No space left on device",
    "Error: Directory cannot be locked",
}


def test_messages_of_troubleshooting_are_those_of_the_code() -> None:
    sources = [path for suffix in ("py", "smk") for path in (ROOT / "workflow").rglob(f"*.{suffix}")]
    code = re.sub(r'"\s*\n\s*f?"', "", "\n".join(path.read_text(encoding="utf-8") for path in sources))
    rows = re.findall(r"^\| (`.+?) \| ", (ROOT / "docs/troubleshooting.md").read_text(encoding="utf-8"), re.MULTILINE)
    messages = [message for row in rows for _, message in re.findall(r"(`+)\s?(.+?)\s?\1", row)]
    parts = {part.strip() for message in messages for part in re.split(r"\.\.\.|\. ", message)}
    assert len(messages) > 35
    unknown = [
        part
        for part in parts - MESSAGES_OF_OTHERS
        # A number is a value in the code.
        if not re.search(re.sub(r"\d+", r"[^\\n]{1,60}", re.escape(part)), code)
    ]
    assert sorted(unknown) == []
