"""Plain English in documents, comments, docstrings, names and messages."""

import pytest

from common import ROOT
from prose import comments, faults, faults_of_file, markdown, names, python, restructured, sentences, yaml_text

FOLDERS = [".github", "benchmarks", "config", "docs", "envs", "profiles", "tests", "workflow"]
SUFFIXES = {".md", ".rst", ".yaml", ".yml", ".py", ".smk"}
# These name the forbidden words.
RULES = {"tests/prose.py", "tests/test_prose.py"}


def checked_files():
    found = [path for folder in FOLDERS for path in (ROOT / folder).rglob("*") if path.suffix in SUFFIXES]
    found += [path for path in ROOT.iterdir() if path.suffix in SUFFIXES or path.name in {"Makefile", "Snakefile"}]
    return sorted(path for path in found if path.relative_to(ROOT).as_posix() not in RULES)


FILES = checked_files()


def test_most_kinds_of_files_are_checked():
    assert {path.suffix for path in FILES} >= SUFFIXES
    assert len(FILES) > 100


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_text_is_plain_english(path):
    found = faults_of_file(path)
    assert not found, "\n".join(f"{path.relative_to(ROOT)}:{fault}" for fault in found)


# The rules.


@pytest.mark.parametrize(
    "sentence",
    [
        "The network is trained anew.",
        "Users are told of each epoch.",
        "The kept epoch, as said above, is the best.",
        "Show how much a backbone is worth.",
        "The precision comes to the same there.",
        "The file takes the place of the default.",
        "The ranking goes by kappa.",
        "The extra installs what it takes.",
        "Use that which is ranked first.",
        "Whoever has few images can freeze more.",
        "It suits whoever reads results in Python.",
        "What follows are contracts.",
        "Where the labels have both eyes, both are used.",
        "Whatever decides an outcome is an input.",
        "Train first. Where it stops is in the log.",
        "A photograph is decoded once.",
        "The grader of the left eye has a high kappa.",
        "The stage judges both tables.",
        "Use the label of the other eye.",
        "One file a dataset.",
        "The color of lesions is kept.",
        "Pixels are renormalized.",
        "A neighboring grade is labeled.",
        "The model is a fusion.",
        " ".join(["word"] * 31) + ".",
    ],
)
def test_bad_sentence_is_found(sentence):
    assert faults(sentence)


@pytest.mark.parametrize(
    "sentence",
    [
        "The network is trained again.",
        "The log names each epoch.",
        "Human graders agree with a kappa of 0.8.",
        "The fellow eye has the same grade in most patients.",
        "What is wrong with the labels?",
        "Skip the image if its file is broken.",
        "The job shows where it stopped.",
        "Fundus photography needs dilated pupils.",
        "A data set has its own columns.",
        " ".join(["word"] * 30) + ".",
        "Two short sentences. " * 10,
    ],
)
def test_good_sentence_passes(sentence):
    assert faults(sentence) == []


def test_sentences_end_at_a_stop_before_a_capital():
    text = "Cohen et al. 1968 define kappa. It is 0.5 here, e.g. for ResNet50. (See below.) Done!"
    assert sentences(text) == [
        "Cohen et al 1968 define kappa.",
        "It is 0.5 here, eg for ResNet50.",
        "(See below.)",
        "Done!",
    ]


def test_markdown_is_read_without_code_and_addresses():
    content = (
        "# Title\n\nOne `told` [link](told.md)\ntwo.\n\n- first\n  line\n- second\n\n"
        "```bash\ntold\n```\n\n| a | b |\n|---|---|\n| told | <https://told.org> |\n<!-- told\n-->\n"
    )
    assert list(markdown(content)) == [
        (1, "Title"),
        (3, "One CODE link two."),
        (6, "first line"),
        (8, "second"),
        (14, "a"),
        (14, "b"),
        (16, "told"),
        (16, "CODE"),
    ]


def test_captions_are_read_without_directives():
    content = '{% set a = "told" %}\nMean of ``told`` over\n{{ told }} rows.\n\n.. raw:: told\n'
    assert list(restructured(content)) == [(2, "Mean of CODE over CODE rows.")]


def test_yaml_comments_and_descriptions_are_read():
    content = "# One\n# two.\nkey: told  # three\ndescription: >-\n  four\n  five\nother: told\n"
    assert list(yaml_text(content)) == [(1, "One two."), (3, "three"), (4, "four five")]


def test_comments_of_a_makefile_are_read():
    assert list(comments("# One\n\n#\ntarget: told # two\n")) == [(1, "One"), (4, "two")]


def test_python_docstrings_comments_and_messages_are_read():
    content = (
        '"""Module."""\n# One\n# two.\nx = "told here"  # three\n'
        'def f(a):\n    """First.\n\n    Args:\n        a (int): Size of it.\n    """\n'
        '    raise ValueError(f"{a} is too small")\n'
    )
    found = [text for _, text in python(content, messages=True)]
    assert found == ["One two.", "three", "Module.", "First.", "Size of it.", "CODE is too small"]
    assert len(list(python(content, messages=False))) == 5


def test_descriptions_of_settings_are_messages():
    (found,) = python('Field(4, description="Size of a batch")\n', messages=True)
    assert found == (1, "Size of a batch")


def test_names_with_old_words_are_found(tmp_path):
    path = tmp_path / "module.py"
    path.write_text("def look_at(photograph, image):\n    told_twice = retold = photograph\n")
    assert list(names(path)) == [(1, "photograph"), (2, "told_twice")]
