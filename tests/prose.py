"""The prose check: the text of all files, cut into sentences, and the rules for plain English.

The text is Markdown, reStructuredText, YAML comments and descriptions. Of Python files it is docstrings, comments,
names and messages. Code, addresses and figures inside text are replaced by one word before the rules look at it.
"""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

LONGEST_SENTENCE = 30
# Stands for code, an address or a value inside a sentence.
PLACEHOLDER = "CODE"

# Pattern and the plain way to write it. Case is ignored.
WORDS = [
    (r"\banew\b", "again"),
    (r"\bwho(so)?ever\b", "name the person: the user, the reader"),
    (r"\b(told|said)\b", "reported, written, named"),
    (r"\bworth\b", "improves kappa by, has a kappa of"),
    (r"\b(come|comes|came|coming) to\b(?! (a halt|light)\b)", "is, are"),
    (r"\b(take|takes|took|taken|taking) the places? of\b", "replaces"),
    (r"\b(go|goes|went|gone|going) by\b", "uses"),
    (r"\bwhat (it|that|this|they|one) takes?\b", "needs"),
    (r"\bthat which\b", "name the thing"),
    (r"\bto be had\b", "available"),
    (r"\bphotographs?\b", "image"),
    (r"(?<!human )(?<!expert )(?<!certified )\bgraders?\b", "model (a grader is a person: human grader)"),
    (r"\bjudg(e|es|ed|ing)\b", "check, rate"),
    (r"\bfellows?\b(?! eyes?\b)", "fellow eye"),
    (r"\bother eye\b", "fellow eye"),
    (r"\breplicates\b", "bootstrap samples"),
    (r"\bdatasets?\b", "data set"),
    (r"\bblend(s|ed|ing)?\b", "eye average"),
    (r"\bfusions?\b", "eye stacking"),
]
# A question may begin so. Nothing else does.
OPENERS = re.compile(r"(what|whoever|whatever|whichever|where|wherever|who|that which|whose)\b", re.IGNORECASE)
# Parts of names in code that the vocabulary replaces.
NAMES = {"photograph", "photographs", "grader", "graders", "told", "said", "anew", "whoever"}
# American and British spelling of the same stem. All text is British. Terms of Keras (optimizer, initializer), the
# stage `organize`, code, names of others (MIT License) and titles are as they are.
SPELLINGS = {
    "aging": "ageing",
    "analyze": "analyse",
    "analyzing": "analysing",
    "artifact": "artefact",
    "behavior": "behaviour",
    "canceled": "cancelled",
    "canceling": "cancelling",
    "catalog": "catalogue",
    "center": "centre",
    "color": "colour",
    "customiz": "customis",
    "defense": "defence",
    "diarrhea": "diarrhoea",
    "edema": "oedema",
    "favor": "favour",
    "generaliz(?!ed linear)": "generalis",
    "gray": "grey",
    "hemorrhage": "haemorrhage",
    "initializ(?!er)": "initialis",
    "labeled": "labelled",
    "labeling": "labelling",
    "maximiz": "maximis",
    "minimiz": "minimis",
    "modeled": "modelled",
    "modeling": "modelling",
    "neighbor": "neighbour",
    "normaliz": "normalis",
    "optimiz(?!er)": "optimis",
    "organiz(?!ed?\\b)": "organis",
    "quantiz": "quantis",
    "randomiz": "randomis",
    "recogniz": "recognis",
    "serializ": "serialis",
    "standardiz": "standardis",
    "summariz": "summaris",
    "synchroniz": "synchronis",
    "traveled": "travelled",
    "utiliz": "use",
    "visualiz": "visualis",
}
COMPILED = [(re.compile(pattern, re.IGNORECASE), instead) for pattern, instead in WORDS] + [
    # In capitals, it is the title of a source or a name of others.
    (re.compile(rf"\b(re|un|pre|de)?{american}"), f"{british} (British spelling)")
    for american, british in SPELLINGS.items()
]
ABBREVIATIONS = re.compile(r"\b(e\.g|i\.e|et al|vs|cf|Fig|Eq|No|pp|approx)\.(?=\s)")
SENTENCE_END = re.compile(r"(?:(?<=[.!?])|(?<=[.!?][\"')*_\]]))\s+(?=[\"'(*_\[]*[A-Z0-9])")
# Messages for people: errors, logs, help, and descriptions of settings.
MESSAGE_CALLS = {"print", "log", "debug", "info", "warning", "error", "exception", "critical", "write", "append"}
MESSAGE_KEYWORDS = {"description", "help", "title", "epilog", "message", "caption"}

Text = tuple[int, str]


def faults(text: str) -> list[str]:
    """Return what the rules find in one block of text."""
    found = []
    for sentence in sentences(text):
        for pattern, instead in COMPILED:
            for match in pattern.finditer(sentence):
                found.append(f"{match[0]!r}: write {instead!r}")
        opener = OPENERS.match(sentence.lstrip("\"'(*_["))
        if opener and not sentence.rstrip("\"')*_]").endswith("?"):
            found.append(f"the sentence opens with {opener[0]!r}: begin with its subject")
        if (count := len(words(sentence))) > LONGEST_SENTENCE:
            found.append(f"a sentence of {count} words, more than {LONGEST_SENTENCE}: {sentence[:60]}...")
    return found


def sentences(text: str) -> list[str]:
    """Split one block of text at the ends of its sentences."""
    text = ABBREVIATIONS.sub(lambda match: match[0].replace(".", ""), " ".join(text.split()))
    return [sentence for sentence in SENTENCE_END.split(text) if sentence.strip()]


def words(sentence: str) -> list[str]:
    """Words of a sentence: anything between blanks that has a letter or a digit."""
    return [word for word in sentence.split() if re.search(r"\w", word)]


def faults_of_file(path: Path) -> list[str]:
    """Return the faults of a file as ``line: fault``."""
    return [f"{line}: {fault}" for line, text in texts(path) for fault in faults(text)] + [
        f"{line}: the name {name!r} has an old word" for line, name in (names(path) if path.suffix == ".py" else ())
    ]


def texts(path: Path) -> Iterator[Text]:
    """Blocks of text of a file, each with its first line."""
    content = path.read_text(encoding="utf-8")
    if path.name == "CHANGELOG.md":  # Older entries are history.
        content = "\n## ".join(content.split("\n## ")[:2])
    if path.suffix == ".md":
        yield from markdown(content)
    elif path.suffix == ".rst":
        yield from restructured(content)
    elif path.suffix in {".yaml", ".yml"}:
        yield from yaml_text(content)
    elif path.suffix == ".py":
        yield from python(content, messages="tests" not in path.parts)
    else:
        yield from comments(content)


# Documents.


def markdown(content: str) -> Iterator[Text]:
    """Headings, paragraphs, bullets and table cells. Code, comments, addresses and generated tables are left out."""
    generated = r"<!-- begin ([\w-]+), by .*?<!-- end \1, by "
    content = re.sub(generated, lambda match: "\n" * match[0].count("\n"), content, flags=re.DOTALL)
    content = re.sub(r"<!--.*?-->", lambda match: re.sub(r"[^\n]", "", match[0]), content, flags=re.DOTALL)
    lines, fence = [], ""
    for line in content.splitlines():
        mark = re.match(r" *(```+|~~~+)", line)
        if mark:
            fence = "" if fence and mark[1].startswith(fence) else fence or mark[1]
            lines.append("")
        else:
            lines.append("" if fence else line)
    yield from blocks(lines, r"\s*([-*+]|\d+\.)\s|#|>|\s*\|", inline_markdown)


def inline_markdown(text: str) -> str:
    text = re.sub(r"(`+)(?:(?!\1).)+\1", PLACEHOLDER, text)
    text = re.sub(r"!?\[([^\]]*)\]\([^)]*\)", r"\1", text)
    text = re.sub(r"<?\w+://[^\s>)]+>?", PLACEHOLDER, text)
    return re.sub(r"</?\w[^>]*>|\*\*|(?<!\w)[*_]|[*_](?!\w)", "", text)


def restructured(content: str) -> Iterator[Text]:
    """Paragraphs of a caption. Directives and Jinja statements are left out."""
    content = re.sub(r"\{%.*?%\}", lambda match: "\n" * match[0].count("\n"), content, flags=re.DOTALL)
    content = re.sub(r"\{\{.*?\}\}", PLACEHOLDER, content, flags=re.DOTALL)
    lines = ["" if line.startswith("..") else line for line in content.splitlines()]
    yield from blocks(lines, r"\s*([-*+]|\d+\.)\s", inline_restructured)


def inline_restructured(text: str) -> str:
    text = re.sub(r"``[^`]+``", PLACEHOLDER, text)
    text = re.sub(r":\w+:`([^`<]+?)(\s*<[^`]*>)?`", r"\1", text)
    return re.sub(r"\w+://\S+", PLACEHOLDER, text.replace("*", ""))


def blocks(lines: list[str], start: str, inline) -> Iterator[Text]:
    """Join lines to blocks, which end at a blank line or where ``start`` matches; table rows become cells."""
    block: list[str] = []
    first = 0
    for number, line in enumerate([*lines, ""], 1):
        begins = re.match(start, line)
        if block and (begins or not line.strip()):
            yield first, " ".join(block)
            block = []
        if begins and line.lstrip().startswith("|"):
            cells = re.split(r"(?<!\\)\|", inline(line).strip().strip("|"))
            yield from ((number, cell.strip()) for cell in cells if re.search(r"\w", cell))
        elif begins and line.startswith("#"):
            yield number, inline(line).lstrip("# ")
        elif line.strip():
            first = first if block else number
            block.append(re.sub(r"^\s*([-*+>]|\d+\.)\s", "", inline(line)).strip())


def yaml_text(content: str) -> Iterator[Text]:
    """Comments, and the values of ``description``."""
    yield from comments(content)
    lines = content.splitlines()
    for number, line in enumerate(lines):
        if match := re.match(r"( *)(- )?(description|title|label): *([>|]-?)? *(.*)", line):
            block = [match[5]]
            for after in lines[number + 1 :]:
                if after.strip() and len(after) - len(after.lstrip()) <= len(match[1]):
                    break
                block.append(after.strip())
            yield number + 1, inline_markdown(" ".join(block).strip(" \"'"))


def comments(content: str) -> Iterator[Text]:
    """Comments that begin with ``#``. Whole lines that follow each other are one text."""
    block: list[str] = []
    first = 0
    for number, line in enumerate([*content.splitlines(), ""], 1):
        whole = re.match(r"\s*#+(?!!)\s?(.*)", line)
        if block and (not whole or not whole[1].strip()):
            yield first, inline_markdown(" ".join(block))
            block = []
        if whole and whole[1].strip():
            first = first if block else number
            block.append(whole[1].strip())
        elif not whole and (after := re.search(r"\s#\s+([^'\"]+)$", line)):
            yield number, inline_markdown(after[1])


# Python.


def python(content: str, *, messages: bool) -> Iterator[Text]:
    """Docstrings and comments and, for ``messages``, strings for people."""
    tree = ast.parse(content)
    yield from python_comments(content)
    found: dict[Text, None] = {}  # A raised error is met twice: as what is raised, and as a call.
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            if docstring := ast.get_docstring(node):
                line = node.body[0].lineno
                yield from ((line + number, text) for number, text in docstring_blocks(docstring))
        elif messages:
            found.update(dict.fromkeys(message_strings(node)))
    yield from found


def docstring_blocks(docstring: str) -> Iterator[Text]:
    """Paragraphs, and of sections such as Args each entry without its name."""
    lines = []
    for line in docstring.splitlines():
        header = re.fullmatch(r"\s*(Args|Returns|Raises|Yields|Attributes|References|Notes|Examples?):", line)
        lines.append("" if header else line)
    entry = r"\s*([-*+]|\d+\.)\s|\s+\*{0,2}\w[\w., ]*( \([^)]*\))?: "
    for line, text in blocks(lines, entry, lambda text: inline_markdown(re.sub(r"``[^`]+``", PLACEHOLDER, text))):
        yield line - 1, re.sub(r"^\*{0,2}[a-z_]\w*( \([^)]*\))?: ", "", text)


def python_comments(content: str) -> Iterator[Text]:
    """Comments of Python or Snakemake code; whole lines that follow each other are one text."""
    block: list[str] = []
    first = last = 0
    for token in tokenize.generate_tokens(io.StringIO(content).readline):
        if token.type != tokenize.COMMENT:
            continue
        text = token.string.lstrip("#!: ")
        if re.match(r"(noqa|type:|pragma|mypy:|fmt:)", text):
            continue
        whole = not token.line[: token.start[1]].strip()
        if block and not (whole and token.start[0] == last + 1):
            yield first, inline_markdown(" ".join(block))
            block = []
        first = first if block else token.start[0]
        last = token.start[0] if whole else 0
        block.append(text)
    if block:
        yield first, inline_markdown(" ".join(block))


def message_strings(node: ast.AST) -> Iterator[Text]:
    """Strings with blanks that are raised, logged, printed, or that describe an argument or a setting."""
    sources: list[ast.expr] = []
    if isinstance(node, ast.Raise) and node.exc:
        sources = [node.exc]
    elif isinstance(node, ast.Call):
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        sources = [keyword.value for keyword in node.keywords if keyword.arg in MESSAGE_KEYWORDS]
        if name in MESSAGE_CALLS or name.endswith(("Error", "Problem")):
            sources += node.args
    for source in sources:
        yield from strings(source)


def strings(node: ast.AST) -> Iterator[Text]:
    """String constants with blanks below a node; a value inside an f-string is one word."""
    if isinstance(node, ast.JoinedStr):
        parts = [part.value if isinstance(part, ast.Constant) else PLACEHOLDER for part in node.values]
        if " " in (text := "".join(map(str, parts))):
            yield node.lineno, inline_markdown(text)
    elif isinstance(node, ast.Constant):
        if isinstance(node.value, str) and " " in node.value.strip():
            yield node.lineno, inline_markdown(node.value)
    else:
        for child in ast.iter_child_nodes(node):
            yield from strings(child)


def names(path: Path) -> Iterator[Text]:
    """Names in Python code that have a word of the old vocabulary, each once."""
    found: dict[str, int] = {}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        for name in (getattr(node, "id", ""), getattr(node, "arg", ""), getattr(node, "name", "")):
            if isinstance(name, str) and NAMES & set(name.lower().split("_")):
                found.setdefault(name, getattr(node, "lineno", 0))
    yield from ((line, name) for name, line in found.items())
