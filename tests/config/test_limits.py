"""The text of a configuration: repeated keys, and limits that keep every check short."""

import time

import pytest
import yaml

from common import ROOT
from configurations import written
from retinaflow.config.limits import check_text
from retinaflow.config.loading import load
from retinaflow.errors import RetinaflowError


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
    (tmp_path / "config.yaml").write_text("a: &a\n  b: 1\n  c: *a\nd:\n  b: 1\n  <<: *a\ne: *a\n")
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
