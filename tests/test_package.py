"""The installed package: its imports stand in pyproject.toml, its command starts, and its version is one."""

import ast
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.metadata import packages_distributions, version
from pathlib import Path

import pytest

from common import ROOT

PYPROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PROJECT = PYPROJECT["project"]
EXTRAS = PROJECT["optional-dependencies"]
PIP_WHEEL = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-index", "--no-build-isolation"]
LIBRARY = ROOT / "workflow/retinaflow"
SOURCES = sorted(
    path
    for folder in ("retinaflow", "scripts", "snakemake_logger_plugin_retinaflow")
    for path in (ROOT / "workflow" / folder).rglob("*.py")
)
OWN = {"retinaflow", "snakemake_logger_plugin_retinaflow"}
# Modules whose names are not those of their packages.
BROUGHT_BY = {
    "PIL": "pillow",
    "ai_edge_litert": "ai-edge-litert",
    "cv2": "opencv-python-headless",
    "gdcm": "python-gdcm",
    "google": "protobuf",
    "markdown_it": "markdown-it-py",
    "mlflow": "mlflow-skinny",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}


def requirement_names(requirements):
    return {re.match(r"[A-Za-z0-9._-]+", requirement)[0].lower() for requirement in requirements} - {"retinaflow"}


DECLARED = requirement_names(PROJECT["dependencies"]) | {
    name for extra in EXTRAS.keys() - {"dev", "docs"} for name in requirement_names(EXTRAS[extra])
}


def imported(path, everywhere=True):
    """Top names of the modules that a file imports; ``everywhere``: inside functions, too."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree) if everywhere else tree.body:
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0:
            yield node.module


def third_party(path, everywhere=True):
    """Names of the packages whose modules a file imports."""
    tops = {name.split(".")[0] for name in imported(path, everywhere)}
    return {package_of(top) for top in tops - set(sys.stdlib_module_names) - OWN}


def package_of(module):
    return BROUGHT_BY.get(module, module).lower().replace("_", "-")


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT / "workflow").as_posix())
def test_direct_imports_stand_in_pyproject(path):
    assert third_party(path) <= DECLARED


def test_module_names_are_mapped_to_their_packages():
    installed = {module: {name.lower() for name in names} for module, names in packages_distributions().items()}
    known = {module: package for module, package in BROUGHT_BY.items() if module in installed}
    assert known
    assert all(package in installed[module] for module, package in known.items())


def test_base_installation_has_what_errors_and_storage_import():
    base = {LIBRARY / "errors.py", *(LIBRARY / "storage").glob("*.py")}
    needed = set().union(*(third_party(path, everywhere=False) for path in base))
    assert needed == requirement_names(PROJECT["dependencies"])


def test_base_modules_import_no_other_library_module():
    for path in (LIBRARY / "errors.py", *(LIBRARY / "storage").glob("*.py")):
        own = [name for name in imported(path, everywhere=False) if name.startswith("retinaflow.")]
        assert all(name.startswith(("retinaflow.errors", "retinaflow.storage")) for name in own)


def test_the_version_stands_in_pyproject_alone():
    assert version("retinaflow") == PROJECT["version"]
    found = [path for path in SOURCES if PROJECT["version"] in path.read_text(encoding="utf-8")]
    assert found == []


def test_the_command_and_the_module_list_the_same_commands():
    def shown(*command):
        return subprocess.run([*command, "--help"], capture_output=True, text=True, check=True, cwd=ROOT).stdout

    printed = shown(Path(sys.executable).with_name("retinaflow"))
    assert printed == shown(sys.executable, "-m", "retinaflow")
    assert all(f"\n    {name}" in printed for name in ("predict", "serve", "gpus", "plan", "reference"))


def test_a_wheel_holds_the_library_and_its_page(tmp_path):
    subprocess.run(
        [*PIP_WHEEL, "--wheel-dir", tmp_path, copy_of_sources(tmp_path / "source")],
        check=True,
    )
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if not name.split("/")[0].endswith(".dist-info")}
    expected = {
        path.relative_to(ROOT / "workflow").as_posix()
        for package in OWN
        for path in (ROOT / "workflow" / package).rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    }
    assert held == expected
    assert "retinaflow/reporting/templates/model_card.md.jinja" in held
    assert "retinaflow/serving/page/index.html" in held
    assert _preset_names(wheel, tmp_path) == sorted(file.stem for file in (ROOT / "config/datasets").iterdir())


def _preset_names(wheel, folder):
    """Presets that the package of a wheel knows, away from the checkout."""
    program = "from retinaflow.config import presets; print(presets.__file__, *presets.preset_names())"
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(folder / "installed")
    environment = {**os.environ, "PYTHONPATH": str(folder / "installed")}
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=folder, env=environment)
    file, *names = done.stdout.split()
    assert Path(file).is_relative_to(folder)
    return names


def copy_of_sources(folder):
    """A folder to build from: a build leaves files beside the sources."""
    folder.mkdir()
    for name in ("pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, folder)
    shutil.copytree(ROOT / "workflow", folder / "workflow", ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
    return folder
