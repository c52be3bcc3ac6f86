"""The layers of the library: imports run downwards only, absolute, without circles; functions are short."""

import ast
from collections import defaultdict
from graphlib import TopologicalSorter

import pytest

from common import ROOT

LIBRARY = ROOT / "workflow/retinaflow"
# From the bottom to the top. A package may import those of the lines above its own, and of its own line none.
LAYERS = [
    ["errors"],
    ["settings"],
    ["storage"],
    ["data"],
    ["preprocessing", "networks", "evaluation"],
    ["config"],
    ["training"],
    ["scoring"],
    ["reporting", "jobs"],
    ["serving"],
    ["cli"],
    ["__main__"],
]
HEIGHT = {name: height for height, names in enumerate(LAYERS) for name in names}
MODULES = sorted(path for path in LIBRARY.rglob("*.py") if path.name != "__init__.py")


LONGEST = 60


def package(name: str) -> str:
    """First step below ``retinaflow`` of a module's name."""
    return name.split(".")[1]


def module_name(path):
    return ".".join(path.relative_to(LIBRARY.parent).with_suffix("").parts)


def imports(path):
    """Full names of the library modules that a file imports, wherever in it."""
    known = {module_name(module) for module in MODULES}
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: line {node.lineno} imports relatively"
            inner = {f"{node.module}.{alias.name}" for alias in node.names} & known
            yield from inner or {node.module} & known
        elif isinstance(node, ast.Import):
            yield from {alias.name for alias in node.names} & known


@pytest.mark.parametrize("path", MODULES, ids=module_name)
def test_imports_run_downwards(path):
    own = package(module_name(path))
    upwards = [name for name in imports(path) if package(name) != own and HEIGHT[package(name)] >= HEIGHT[own]]
    assert not upwards


def test_no_circle_within_a_package():
    graph = {module_name(path): set(imports(path)) for path in MODULES}
    assert len(list(TopologicalSorter(graph).static_order())) == len(MODULES)


def test_package_files_are_empty():
    assert not [path for path in LIBRARY.rglob("__init__.py") if path.read_text(encoding="utf-8").strip()]


def test_test_files_have_names_of_their_own():
    """pytest imports test files by their names alone."""
    names = sorted(path.name for path in (ROOT / "tests").rglob("test_*.py"))
    assert len(set(names)) == len(names)


def test_functions_fit_on_a_screen():
    found = {
        node.name
        for path in (ROOT / "workflow").rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno - node.lineno + 1 > LONGEST
    }
    assert not found


# Constants that mean the same thing in two modules that do not import each other.
SAME = {"ENSEMBLE", "EXAMPLES", "AT_ONCE", "BATCH"}


def public_names(path):
    """Names of functions, classes and constants that a module defines, without loggers."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            names = [node.name]
        elif isinstance(node, ast.Assign):
            names = [target.id for target in node.targets if isinstance(target, ast.Name)]
        else:
            names = [node.target.id] if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) else []
        yield from (name for name in names if not name.startswith("_") and name not in ("log", "progress"))


def test_public_name_means_one_thing():
    places = defaultdict(set)
    for path in MODULES:
        for name in public_names(path):
            places[name].add(module_name(path))
    assert {name: found for name, found in places.items() if len(found) > 1 and name not in SAME} == {}
