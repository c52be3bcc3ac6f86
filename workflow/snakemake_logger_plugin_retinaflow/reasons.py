"""Short reasons for jobs, from the text that Snakemake logs with each."""

import ast
import os
import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import PurePath
from typing import Any

MISSING = "Missing output files"
INCOMPLETE = "Incomplete output files"
UPDATED = "Updated input files"
AFTER = "Input files updated by another job"
PARAMETERS = "Params have changed since last execution"
# Snakemake's sentences without a list of files or values, and the short form of each.
PLAIN = {
    "Set of input files has changed since last execution": "other inputs than last time",
    "Code has changed since last execution": "script changed",
    "Software environment definition has changed since last execution": "software environment changed",
    "Forced execution": "forced",
    "Rules with neither input nor output files are always executed.": "always runs",
    "Rules with a run or shell declaration but no output are always executed.": "always runs",
}

_STARTS = "|".join(map(re.escape, [MISSING, INCOMPLETE, UPDATED, AFTER, PARAMETERS, *PLAIN]))
_VALUES = re.compile(r"before: (?P<before>.*) now: (?P<now>.*?) *$", re.DOTALL)
_NOTHING = "<nothing exclusive>"
_DIGEST = re.compile(r"[0-9a-f]{8,128}")
_LONGEST = 30  # characters of a value
_MOST = 3  # changed values that are named


@dataclass
class Causes:
    """The causes that Snakemake names for one job."""

    missing: list[str] = field(default_factory=list)
    updated: list[str] = field(default_factory=list)
    # Files that another job of this run makes.
    after: list[str] = field(default_factory=list)
    # Short texts of all other causes.
    other: list[str] = field(default_factory=list)


def parse(reason: str) -> Causes:
    """The causes in ``reason``, the text of Snakemake's ``Reason``. A text of unknown form is a cause as it is."""
    causes = Causes()
    for sentence in re.split(rf"; (?=(?:{_STARTS}))", reason.strip()):
        start, _, rest = sentence.partition(": ")
        if start == MISSING:
            causes.missing += rest.split(", ")
        elif start == UPDATED:
            causes.updated += rest.split(", ")
        elif start == AFTER:
            causes.after += rest.split(", ")
        elif start == INCOMPLETE:
            causes.other.append("unfinished")
        elif start == PARAMETERS:
            causes.other += changed_parameters(rest)
        elif sentence:
            causes.other.append(PLAIN.get(sentence, sentence))
    return causes


def describe(causes: Causes, label: Callable[[Sequence[str]], str], exists: Callable[[str], bool]) -> str:
    """One short text for ``causes``.

    ``label`` names the jobs that make some files; ``exists`` looks for a file.
    """
    if causes.missing and not any(map(exists, causes.missing)) and not causes.updated and not causes.other:
        return "new"
    found = list(causes.other)
    if causes.missing:
        found.append("output missing")
    code = sorted({name for name in map(_package, causes.updated) if name})
    if code:
        found.append(f"code of {', '.join(code)} changed")
    files = [name for name in causes.updated if not _package(name)]
    if files:
        found.append(f"input changed: {_shortened([PurePath(name).name for name in files], 2)}")
    if not found and causes.after:
        found.append(f"after {label(causes.after)}")
    return "; ".join(dict.fromkeys(found))


def changed_parameters(text: str) -> list[str]:
    """The changes of parameters that Snakemake reports as two sets of values, those of before and those of now.

    It does not report names, except inside a dictionary. Two dictionaries are compared if they share a key.
    """
    match = _VALUES.search(text)
    before, now = ([], []) if not match else map(_values, (match["before"], match["now"]))
    code, changes, data = set(), [], False
    for value in now:
        other = _counterpart(value, before)
        if _is_code(value) and (other is None or _is_code(other)):
            code |= _different(other or {}, value)
        elif isinstance(value, dict) and isinstance(other, dict):
            changes += _named_changes(other, value)
        elif _is_digest(value):
            data = True
        elif other is not None:
            changes.append(_change(other, value))
    found = [f"code of {', '.join(sorted(code))} changed"] if code else []
    if data:
        found.append("input changed")
    if changes:
        found.append(f"parameter changed: {_shortened(changes, _MOST)}")
    return found or ["parameter changed"]


def _package(name: str) -> str:
    """The package of the library that a Python file is of; nothing for another file."""
    parts = PurePath(name).parts
    if not name.endswith(".py") or "retinaflow" not in parts:
        return ""
    below = parts[parts.index("retinaflow") + 1 :]
    return below[0].removesuffix(".py") if below else ""


def _shortened(names: Sequence[str], most: int) -> str:
    more = len(names) - most
    return ", ".join(names[:most]) + (f" and {more} more" if more > 0 else "")


def _values(text: str) -> list[Any]:
    """The values of a text that lists their ``repr``, separated by commas; those that can be read."""
    values = []
    for part in _split(text.strip()):
        if part in ("", _NOTHING):
            continue
        with suppress(ValueError, SyntaxError, MemoryError, RecursionError):
            values.append(ast.literal_eval(part))
    return values


def _split(text: str) -> list[str]:
    """The parts of ``text`` between its commas, except those inside quotes and brackets."""
    parts, depth, quote, start, skip = [], 0, "", 0, False
    for place, character in enumerate(text):
        if skip:
            skip = False
        elif quote:
            skip = character == "\\"
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character in "([{":
            depth += 1
        elif character in ")]}":
            depth -= 1
        elif character == "," and depth == 0:
            parts.append(text[start:place].strip())
            start = place + 1
    return [*parts, text[start:].strip()]


def _counterpart(value: Any, before: list[Any]) -> Any:
    """The former value of ``value``: of dictionaries, that with most keys in common; of others, the only one."""
    if isinstance(value, dict):
        alike = [other for other in before if isinstance(other, dict) and other.keys() & value.keys()]
        return max(alike, key=lambda other: len(other.keys() & value.keys()), default=None)
    alike = [other for other in before if type(other) is type(value) and _is_digest(other) == _is_digest(value)]
    return alike[0] if len(alike) == 1 else None


def _is_digest(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return bool(value) and all(map(_is_digest, value))
    return isinstance(value, str) and bool(_DIGEST.fullmatch(value))


def _is_code(value: Any) -> bool:
    """Whether a parameter is a dictionary from packages of the library to digests of their code."""
    return isinstance(value, dict) and bool(value) and _is_digest(list(value.values()))


def _different(before: dict[str, Any], now: dict[str, Any]) -> set[str]:
    return {str(key) for key in before.keys() | now.keys() if before.get(key) != now.get(key)}


def _named_changes(before: dict[str, Any], now: dict[str, Any]) -> list[str]:
    changes = []
    for key in [*now, *(key for key in before if key not in now)]:
        old, new = before.get(key), now.get(key)
        if old == new:
            continue
        if isinstance(old, dict) and isinstance(new, dict):
            changes += _named_changes(old, new)
        else:
            changes.append(f"{key} {_change(old, new)}")
    return changes


def _change(before: Any, now: Any) -> str:
    """Both values, or the part that differs if they are long."""
    if isinstance(before, list | tuple) and isinstance(now, list | tuple) and len(f"{before}{now}") > _LONGEST:
        gone = [f"- {_short(value)}" for value in before if value not in now]
        added = [f"+ {_short(value)}" for value in now if value not in before]
        if gone or added:
            return _shortened([*gone, *added], _MOST)
    old, new = (" ".join(str(value).split()) for value in (before, now))
    if max(len(old), len(new)) > _LONGEST:
        alike = next((place for place, pair in enumerate(zip(old, new, strict=False)) if pair[0] != pair[1]), 0)
        start = max(0, min(alike - _LONGEST // 3, len(new) - _LONGEST))
        old, new = (f"…{text[start:]}" if start else text for text in (old, new))
    return f"{_short(old)} -> {_short(new)}"


def _short(value: Any) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}…"


def exists(name: str) -> bool:
    """Whether a file of a job is there."""
    return os.path.lexists(name)
