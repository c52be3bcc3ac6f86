"""Code that a stage depends on: imports through packages, and digests that ignore words."""

import pytest

from common import ROOT
from retinaflow.errors import RetinaflowError
from retinaflow.jobs import code

SCRIPTS = sorted((ROOT / "workflow/scripts").glob("*.py"))


@pytest.fixture
def library(tmp_path):
    """A small library: a chain of imports over packages, in each of the forms that an import may have."""
    folder = tmp_path / "retinaflow"
    files = {
        "errors.py": "class RetinaflowError(Exception): ...",
        "storage/files.py": "from retinaflow.errors import RetinaflowError\n",
        "data/split.py": "from retinaflow.storage import files\n\ndef split():\n    return files\n",
        "data/labels.py": "import retinaflow.storage.files\n",
        "training/fit.py": "def fit():\n    from retinaflow.data.split import split\n    return split\n",
        "training/tracking.py": "from retinaflow.data.labels import labels\n",
        "jobs/logs.py": "from retinaflow.data import labels\n",
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
        (folder / name).with_name("__init__.py").touch()
    return folder


@pytest.fixture
def script(tmp_path):
    """Write a script and return its path."""

    def write(text):
        path = tmp_path / "script.py"
        path.write_text(text)
        code.imported_modules.cache_clear()
        code._parsed.cache_clear()
        code._digest.cache_clear()
        return path

    return write


def test_imports_are_followed_through_packages(library, script):
    path = script("from retinaflow.training import fit\n")
    assert code.reached_modules(path, library) == {
        *("retinaflow.training.fit", "retinaflow.data.split", "retinaflow.storage.files", "retinaflow.errors")
    }
    assert list(code.code_digests(path, library)) == ["data", "errors", "storage", "training"]


@pytest.mark.parametrize(
    "text",
    [
        "import retinaflow.data.split\n",
        "import retinaflow.data.split as division\n",
        "from retinaflow.data import split\n",
        "from retinaflow.data.split import split\n",
        "def late():\n    from retinaflow.data.split import split as s\n",
        "import importlib\nimportlib.import_module('retinaflow.data.split')\n",
        "__import__('retinaflow.data.split')\n",
    ],
)
def test_each_form_of_an_import_is_found(library, script, text):
    assert "retinaflow.data.split" in code.reached_modules(script(text), library)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("from . import split\n", "a relative import"),
        ("from ..data import split\n", "a relative import"),
        ("from retinaflow.data.split import *\n", "import \\*"),
        ("from retinaflow.data import missing\n", "retinaflow.data, which is not a module"),
        ("import retinaflow.missing\n", "retinaflow.missing, which is not a module"),
        ("import importlib\nimportlib.import_module('retinaflow.' + 'data')\n", "a computed name"),
        ("from importlib import import_module\nimport_module(name)\n", "a computed name"),
    ],
)
def test_an_import_that_cannot_be_followed_is_an_error(library, script, text, found):
    with pytest.raises(RetinaflowError, match=f"script.py, line [12]: .*{found}"):
        code.code_digests(script(text), library)


def test_untracked_code_is_left_out(library, script):
    text = "from retinaflow.jobs import logs\nfrom retinaflow.training import tracking\n"
    assert not code.code_digests(script(text), library)


@pytest.mark.parametrize(
    "words",
    [
        '"""Split."""\n\nfrom retinaflow.storage import files\n\n\ndef split():\n    return files\n',
        "from retinaflow.storage import files\n\ndef split():\n    # A reason.\n    return files  # another\n",
        'from retinaflow.storage import files\n\ndef split():\n    """Split.\n\n    More."""\n    return (files)\n',
    ],
)
def test_words_keep_the_digest(library, script, words):
    text = "from retinaflow.data import split\n"
    before = code.code_digests(script(text), library)
    (library / "data/split.py").write_text(words)
    assert code.code_digests(script(text), library) == before


@pytest.mark.parametrize("statement", ["return files, 1", "return None", "files", "return 'files'", "return [files]"])
def test_computation_changes_the_digest_of_its_package(library, script, statement):
    text = "from retinaflow.data import split\n"
    before = code.code_digests(script(text), library)
    (library / "data/split.py").write_text(f"from retinaflow.storage import files\n\ndef split():\n    {statement}\n")
    after = code.code_digests(script(text), library)
    assert {name for name in before if before[name] != after[name]} == {"data"}


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_imports_of_every_script_can_be_followed(path):
    digests = code.code_digests(path)
    assert all(len(digest) == 12 for digest in digests.values())
    assert code.one_digest(digests).count(":") == len(digests)


def test_training_depends_on_no_reporting_code():
    assert set(code.code_digests(ROOT / "workflow/scripts/train.py")) <= {
        *("errors", "storage", "data", "preprocessing", "networks", "evaluation", "config", "training")
    }
