"""The text of a configuration: repeated keys, and limits that keep every check short."""

import subprocess
import sys
import time

import pytest
import yaml
from snakemake.exceptions import WorkflowError

from common import ROOT
from configurations import written
from retinaflow.config.limits import check_text
from retinaflow.config.loading import load
from retinaflow.errors import RetinaflowError
from snakemake_logger_plugin_retinaflow import LogHandlerSettings
from snakemake_logger_plugin_retinaflow.configfiles import named_files


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("seed: 1\ndata: {}\nseed: 2\n", "seed stands in line 1 and again in line 3"),
        ("train:\n  epochs: 1\n  lr: 2\n  epochs: 3\n", "train.epochs stands in line 2 and again in line 4"),
        ("a:\n- {b: 1, b: 2}\n", "a.b stands in line 2 and again in line 2"),
        ('{"seed": 1,\n"seed": 2}', "seed stands in line 1 and again in line 2"),
    ],
)
def test_repeated_key_is_named(tmp_path, text, expected):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(RetinaflowError, match=rf"config\.yaml: {expected}"):
        check_text([ROOT / "config/config.yaml", tmp_path / "config.yaml"])


def test_distinct_keys_are_accepted(tmp_path):
    (tmp_path / "config.yaml").write_text("a: &a\n  b: 1\nd:\n  b: 1\n  <<: *a\ne: *a\n")
    (tmp_path / "config.json").write_text('{\n\t"a": {\n\t\t"b": 1}}')
    (tmp_path / "empty.yaml").touch()
    check_text([*(ROOT / "config").glob("*.yaml"), *tmp_path.iterdir()])


def bomb(levels):
    """A list of lists that an alias repeats ten times on each level."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    for level in range(1, levels):
        lines.append(f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * 10)}]")
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (yaml.safe_load(bomb(9)), "it has more than 1000000 values, with each alias in full"),
        (yaml.safe_load("&a [*a]"), "an alias refers to the section that it stands in"),
        ({"a": 10**10_000}, "a number has more than 300 digits"),
    ],
)
@pytest.mark.parametrize("key", ["seed", "train", "models", "nonsense"])
def test_huge_values_are_refused_in_short_time(key, value, expected):
    start = time.monotonic()
    with pytest.raises(RetinaflowError) as caught:
        load(written(**{key: value}))
    assert expected in str(caught.value)
    assert len(str(caught.value)) < 1000
    assert time.monotonic() - start < 5


def test_deep_nesting_gets_a_message():
    nested = []
    for _ in range(3000):
        nested = [nested]
    with pytest.raises(RetinaflowError, match="nested too deep, expected at most 50 levels"):
        load(written(train=nested))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a: " + "[" * 3000 + "]" * 3000, "sections are nested too deep"),
        ("a: " + "[" * 60 + "]" * 60, "sections are nested too deep"),
        ("a: &a\n  b: 1\n  c: *a\n", "an alias refers to the section that it stands in"),
        (bomb(9), "it has more than 1000000 values, with each alias in full"),
        ("a: 1\n#" + "x" * 2_000_000, "2000006 bytes, expected at most 2000000"),
        ("data: {}\nseed: " + "9" * 10_000, "the number in line 2 has 10000 digits, expected at most 300"),
    ],
)
def test_text_beyond_the_limits_is_named(tmp_path, text, expected):
    (tmp_path / "config.yaml").write_text(text)
    with pytest.raises(RetinaflowError, match=rf"config\.yaml: {expected}"):
        check_text([tmp_path / "config.yaml"])


def test_many_values_are_accepted():
    names = [f"{number}_left" for number in range(100_000)]
    assert len(load(written(data__train__exclude=names)).data.train.exclude) == len(names)


BAD = {"bomb": bomb(9), "deep": "a: " + "[" * 3000 + "]" * 3000, "long": "seed: " + "9" * 10_000}


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["-n", "--configfile", "a", "b", "-c", "1", "c"], ["a", "b"]),
        (["--configfiles=a", "--configfile=b c", "all"], ["a", "b c"]),
        (["--configf", "a", "--config", "b=1"], ["a"]),
        (["all", "-n"], []),
    ],
)
def test_configuration_files_of_a_command_line(arguments, expected):
    assert named_files(arguments) == expected


@pytest.mark.parametrize("name", BAD)
def test_file_of_the_command_line_is_checked_before_it_is_read(tmp_path, name, monkeypatch):
    """Snakemake makes the settings of the plugin before it reads configuration files."""
    (tmp_path / "bad.yaml").write_text(BAD[name])
    monkeypatch.setattr(sys, "argv", ["snakemake", "-n", "--configfile", str(tmp_path / "bad.yaml")])
    start = time.monotonic()
    with pytest.raises(WorkflowError, match=r"bad\.yaml: "):
        LogHandlerSettings()
    assert time.monotonic() - start < 5
    monkeypatch.setattr(sys, "argv", ["snakemake", "--configfile", str(tmp_path / "missing.yaml")])
    LogHandlerSettings()


def test_snakemake_refuses_a_bomb_in_short_time(tmp_path):
    (tmp_path / "bad.yaml").write_text(BAD["bomb"])
    command = [sys.executable, "-m", "snakemake", "--logger", "retinaflow", "-n", "--configfile", tmp_path / "bad.yaml"]
    done = subprocess.run(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert "bad.yaml: it has more than 1000000 values" in done.stdout
    assert "Traceback" not in done.stdout
