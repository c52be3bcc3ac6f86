"""Limits on the text of a configuration, so that every mistake in it gets a message in short time."""

import itertools
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import yaml

from retinaflow.config.messages import raise_problems

LARGEST_FILE = 2_000_000  # bytes
MOST_VALUES = 1_000_000  # values, with each alias in full; a long text counts as several
DEEPEST = 50  # levels
LONGEST_NUMBER = 300  # digits
PER_VALUE = 100  # characters of text that count as one value


class _TooMuchError(Exception):
    """A configuration exceeds a limit."""


class _Loader(yaml.SafeLoader):
    """A loader that ends at the first section that is nested too deep. A deep document takes PyYAML long."""

    _depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self._depth += 1
        if self._depth > DEEPEST + 2:
            raise _TooMuchError(_TOO_DEEP)
        node = super().compose_node(parent, index)
        self._depth -= 1
        return node


_TOO_DEEP = f"sections are nested too deep, expected at most {DEEPEST} levels; correct the indentation"


def check_text(paths: Iterable[str | os.PathLike[str]]) -> None:
    """Check configuration files as text: size, repeated keys, nesting, aliases, long numbers.

    Snakemake, which reads ``paths``, keeps the last of two equal keys and drops the other with its whole content.

    Raises:
        RetinaflowError: one error that lists all mistakes, each with its file.
    """
    problems = []
    for path in paths:
        if (size := Path(path).stat().st_size) > LARGEST_FILE:
            problems.append(f"{path}: {size} bytes, expected at most {LARGEST_FILE}; name files, do not write them out")
            continue
        try:
            root = yaml.compose(Path(path).read_text(encoding="utf-8"), Loader=_Loader)
        except yaml.YAMLError:  # JSON, which Snakemake reads too, may be indented by tabs
            continue
        except _TooMuchError as error:
            problems.append(f"{path}: {error}")
            continue
        if too_much := _size_problem(root):
            problems.append(f"{path}: {too_much}")
            continue
        problems += [f"{path}: {problem}" for problem in (*_long_numbers(root, set()), *_repeated(root, (), set()))]
    raise_problems(problems)


def size_problems(values: Any) -> list[str]:
    """The limit that ``values``, a configuration as read, exceed, if any."""
    return [f"configuration: {problem}" for problem in [_size_problem(values)] if problem]


def _size_problem(content: Any) -> str:
    """The limit that a document, or a configuration as read, exceeds with each alias in full, if any."""
    try:
        _size(content, frozenset(), {})
    except _TooMuchError as error:
        return str(error)
    return ""


def _size(value: Any, opened: frozenset[int], sizes: dict[int, int]) -> int:
    """The number of values in ``value``. An alias is counted once and then known, so that this takes little time."""
    inner = _inner(value)
    if inner is None:
        return _length(value)
    if id(value) in opened:
        raise _TooMuchError("an alias refers to the section that it stands in; write out what is meant")
    if len(opened) > DEEPEST:
        raise _TooMuchError(_TOO_DEEP)
    if id(value) not in sizes:
        sizes[id(value)] = 1 + sum(_size(one, opened | {id(value)}, sizes) for one in inner)
    if sizes[id(value)] > MOST_VALUES:
        raise _TooMuchError(f"it has more than {MOST_VALUES} values, with each alias in full; use fewer aliases")
    return sizes[id(value)]


def _inner(value: Any) -> Iterable[Any] | None:
    """The values in a section or list, or in the node of one. None for a single value."""
    if isinstance(value, yaml.MappingNode):
        return itertools.chain.from_iterable(value.value)
    if isinstance(value, Mapping):
        return itertools.chain(value.keys(), value.values())
    if isinstance(value, yaml.SequenceNode):
        return list(value.value)
    return value if isinstance(value, list) else None


def _length(value: Any) -> int:
    """The number of values that a single value counts as."""
    if isinstance(value, int) and value.bit_length() > 4 * LONGEST_NUMBER:
        raise _TooMuchError(f"a number has more than {LONGEST_NUMBER} digits; correct it")
    text = value.value if isinstance(value, yaml.ScalarNode) else value
    return 1 + (len(text) // PER_VALUE if isinstance(text, str) else 0)


def _long_numbers(node: yaml.Node | None, seen: set[int]) -> Iterable[str]:
    for inner in _nodes(node, seen):
        if isinstance(inner, yaml.ScalarNode) and inner.tag.endswith(":int") and len(inner.value) > LONGEST_NUMBER:
            found = f"the number in line {inner.start_mark.line + 1} has {len(inner.value)} digits"
            yield f"{found}, expected at most {LONGEST_NUMBER}; correct it"


def _nodes(node: yaml.Node | None, seen: set[int]) -> Iterable[yaml.Node]:
    """All nodes of a document, each once, however often an alias names it."""
    if node is None or id(node) in seen:
        return
    seen.add(id(node))
    yield node
    if isinstance(node, yaml.SequenceNode):
        for inner in node.value:
            yield from _nodes(inner, seen)
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield from _nodes(key, seen)
            yield from _nodes(value, seen)


def _repeated(node: yaml.Node | None, steps: tuple[str, ...], seen: set[int]) -> Iterable[str]:
    if id(node) in seen:
        return
    seen.add(id(node))
    if isinstance(node, yaml.SequenceNode):
        for inner in node.value:
            yield from _repeated(inner, steps, seen)
    if isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for key, value in node.value:
            name, line = str(key.value), key.start_mark.line + 1
            if name in lines:
                key_path = ".".join((*steps, name))
                yield f"{key_path} stands in line {lines[name]} and again in line {line}; keep one of them"
            lines[name] = line
            yield from _repeated(value, (*steps, name), seen)
