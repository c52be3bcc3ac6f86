"""Code that a script depends on: the library modules that it imports, and a digest of their code."""

import ast
import functools
import hashlib
from collections.abc import Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from retinaflow.errors import RetinaflowError

LIBRARY = "retinaflow"
# Code that decides no result. A change of it does not run a job again. Settings are classes of values. These values
# are parameters of the jobs.
UNTRACKED = (
    f"{LIBRARY}.config.root",
    f"{LIBRARY}.jobs",
    f"{LIBRARY}.networks.batch_progress",
    f"{LIBRARY}.settings",
    f"{LIBRARY}.training.pace",
    f"{LIBRARY}.training.tracking",
)


def library_folder() -> Path:
    """Folder of the library that this process imports, from a checkout or installed."""
    spec = find_spec(LIBRARY)
    if spec is None or not spec.submodule_search_locations:
        raise RetinaflowError(f"{LIBRARY}: no such package, expected it installed. Run `make setup`.")
    return Path(spec.submodule_search_locations[0])


def code_digests(script: Path, library: Path | None = None) -> dict[str, str]:
    """Digest the library code that a script imports, package by package.

    The digest covers the syntax trees without comments, docstrings and layout. A change of words does not change it.

    Args:
        script: Python file. Its imports, including those inside functions, are followed through the library.
        library: Folder of the package ``retinaflow``. The default is the package that this process imports.

    Returns:
        A digest of 12 hexadecimal digits for each package, such as ``{"data": ..., "storage": ...}``, by name. A module
        at the top, such as ``errors``, has its own entry.

    Raises:
        RetinaflowError: An import cannot be followed. A change of its code would not be noticed.
    """
    folder = library or library_folder()
    packages: dict[str, list[str]] = {}
    for name in sorted(reached_modules(script, folder)):
        package = name.split(".")[1]
        packages.setdefault(package, []).append(f"{name} {_digest(_module_file(name, folder))}")
    return {
        package: hashlib.sha256("\n".join(modules).encode()).hexdigest()[:12] for package, modules in packages.items()
    }


def one_digest(digests: Mapping[str, str]) -> str:
    """Join the digests of ``code_digests`` to one text, for a cache with one key."""
    return " ".join(f"{package}:{digest}" for package, digest in sorted(digests.items()))


def reached_modules(script: Path, library: Path) -> set[str]:
    """Full names of the tracked library modules that a script imports, directly or through other modules.

    Raises:
        RetinaflowError: An import cannot be followed.
    """
    reached: set[str] = set()
    to_read = [script]
    while to_read:
        new = {name for name in imported_modules(to_read.pop(), library) if not _is_untracked(name)} - reached
        reached |= new
        to_read.extend(_module_file(name, library) for name in new)
    return reached


@functools.cache
def imported_modules(file: Path, library: Path) -> frozenset[str]:
    """Full names of the library modules that a Python file imports directly.

    Raises:
        RetinaflowError: An import of the library is relative, has a computed name, or names a module without a file.
    """
    found: set[str] = set()
    for node in ast.walk(_parsed(file)):
        found.update(_modules_of(node, file, library))
    return frozenset(found)


def _modules_of(node: ast.AST, file: Path, library: Path) -> Iterator[str]:
    if isinstance(node, ast.ImportFrom):
        if node.level:
            absolute = f"an absolute one, `from {LIBRARY}.PACKAGE import NAME`"
            raise _unfollowed(file, node, found="a relative import", expected=absolute)
        if _is_own(node.module or ""):
            yield from _imported_names(node, file, library)
    elif isinstance(node, ast.Import):
        for alias in node.names:
            if _is_own(alias.name):
                yield _existing(alias.name, file, node=node, library=library)
    elif isinstance(node, ast.Call) and _called(node) in ("import_module", "__import__"):
        name = node.args[0] if node.args else None
        if not isinstance(name, ast.Constant):
            raise _unfollowed(file, node, found="an import by a computed name", expected="the name as a constant")
        if _is_own(str(name.value)):
            yield _existing(str(name.value), file, node=node, library=library)


def _imported_names(node: ast.ImportFrom, file: Path, library: Path) -> Iterator[str]:
    module = str(node.module)
    for alias in node.names:
        if alias.name == "*":
            raise _unfollowed(file, node, found=f"`from {module} import *`", expected="the names one by one")
        inner = f"{module}.{alias.name}"
        # The name is a module of a package, or else a name inside a module.
        yield inner if _module_file(inner, library).is_file() else _existing(module, file, node=node, library=library)


def _existing(name: str, file: Path, *, node: ast.AST, library: Path) -> str:
    if not _module_file(name, library).is_file():
        raise _unfollowed(file, node, found=f"{name}, which is not a module", expected="a module of the library")
    return name


def _unfollowed(file: Path, node: ast.AST, *, found: str, expected: str) -> RetinaflowError:
    line = getattr(node, "lineno", 0)
    return RetinaflowError(
        f"{file}, line {line}: found {found}, expected {expected}. Otherwise, a change of the "
        "imported code would not run the stage again."
    )


def _is_own(module: str) -> bool:
    return module.split(".")[0] == LIBRARY


def _is_untracked(module: str) -> bool:
    return any(module == name or module.startswith(f"{name}.") for name in UNTRACKED)


def _called(node: ast.Call) -> str:
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def _module_file(name: str, library: Path) -> Path:
    return library.joinpath(*name.split(".")[1:]).with_suffix(".py")


@functools.cache
def _parsed(file: Path) -> ast.Module:
    return ast.parse(file.read_text(encoding="utf-8"), filename=str(file))


@functools.cache
def _digest(file: Path) -> str:
    lines: list[str] = []
    _describe(_parsed(file), lines)
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def _describe(value: Any, lines: list[str]) -> None:
    """Append a text of a syntax tree. It is the same in every version of Python that has its nodes."""
    if isinstance(value, ast.AST):
        lines.append(type(value).__name__)
        for field, inner in ast.iter_fields(value):
            # Newer versions of Python add fields. They are empty in code that does not use them.
            if inner is not None and inner != [] and field != "type_comment":
                lines.append(field)
                _describe(inner, lines)
        lines.append(")")
    elif isinstance(value, list):
        for inner in value:
            if not _is_docstring(inner):
                _describe(inner, lines)
        lines.append("]")
    else:
        lines.append(f"{type(value).__name__} {value!r}")


def _is_docstring(node: Any) -> bool:
    """Whether a statement is only text: a docstring, also of an attribute."""
    return isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
