"""The checks that `make lint` runs."""

import re
import subprocess
import sys

import pytest

from common import ROOT


@pytest.mark.parametrize(
    "command",
    [
        ["ruff", "check", "."],
        ["ruff", "format", "--check", "."],
        ["mypy"],
        ["snakefmt", "--check", "Snakefile", "workflow/rules"],
    ],
    ids=" ".join,
)
def test_clean(command):
    result = subprocess.run([sys.executable, "-m", *command], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


def test_snakemake_lint_finds_nothing_else():
    """One lint is accepted: functions stand beside the rules that use them (docs/decisions/0038)."""
    command = [sys.executable, "-m", "snakemake", "--lint", "--configfile", "config/demo.yaml"]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    printed = result.stdout + result.stderr
    lints = set(re.findall(r"^    \* (.+)$", printed, re.MULTILINE))
    assert lints == {"Mixed rules and functions in same snakefile.:"}, printed
