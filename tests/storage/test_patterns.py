"""Regular expressions of users and bundles: the answers of ``re``, in bounded time."""

import re
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from retinaflow.errors import RetinaflowError
from retinaflow.storage.patterns import BoundedPattern

# Each takes hours with `re` alone, for the text beside it.
CATASTROPHES = {
    r"(?P<patient>(a+)+)b": "a" * 60,
    r"(?P<patient>(a|a)*)b": "a" * 60,
    r"(?P<patient>(?:\w+\s?)*)!": "a" * 60,
    r"(?P<patient>" + "a?" * 60 + "a" * 60 + ")b": "a" * 90,
    r"(?P<patient>" + "(a|a)" * 60 + ")b": "a" * 90,
    r"(?P<patient>.*.*.*.*.*.*.*.*)=": "a" * 200,
    "(?x)(?P<patient> # [\n (a+)+ # ]\n )b": "a" * 60,
    r"(?P<patient>(?#[)(a+)+(?#]))b": "a" * 60,
    r"(?P<patient>(a{1,40}){1,40})b": "a" * 60,
    r"(?P<patient>[]](a+)+)b": "]" + "a" * 60,
}


@pytest.mark.parametrize("pattern", CATASTROPHES)
def test_catastrophic_pattern_ends_with_a_message(pattern):
    start = time.monotonic()
    with pytest.raises(RetinaflowError, match=r"data.patient_pattern: .*takes more than 1 s for the name"):
        BoundedPattern(pattern, where="data.patient_pattern").groups_of(CATASTROPHES[pattern])
    assert time.monotonic() - start < 20  # 1 s on an idle machine


@pytest.mark.parametrize(
    "pattern", ["(", "(?P<patient>", "a{99999999999999999999}", "(" * 400 + "a" + ")" * 400 + "(", "a" * 1001, "*"]
)
def test_pattern_that_cannot_be_compiled_is_an_error(pattern):
    with pytest.raises(RetinaflowError, match=r"^bundle: "):
        BoundedPattern(pattern, where="bundle")


@pytest.mark.parametrize(
    "pattern",
    [
        r"(?P<patient>.+)_(?P<eye>left|right)",
        r"(?P<patient>\w+)",
        r"(?P<patient>(?:a|b_)*)(?P<eye>l|r)?",
        r"(?P<patient>.)(?P=patient)",
        r"(?P<patient>[^_]+)(?=_)_.*",
    ],
)
@settings(max_examples=60, deadline=None)
@given(st.text(alphabet="ab_éé1\n-leftrigh\udc80", max_size=12))
def test_answers_are_those_of_re(pattern, text):
    match = re.compile(pattern, re.DOTALL).fullmatch(text)
    found = BOUNDED.setdefault(pattern, BoundedPattern(pattern, where="test")).groups_of(text)
    assert found == (match.groupdict() if match else None)


BOUNDED: dict[str, BoundedPattern] = {}


def test_process_answers_again_after_a_timeout():
    bounded = BoundedPattern(r"(?P<patient>(a+)+)b", where="test")
    assert bounded.groups_of("aab") == {"patient": "aa"}
    with pytest.raises(RetinaflowError):
        bounded.groups_of("a" * 60)
    assert bounded.groups_of("ab") == {"patient": "a"}
    assert bounded.groups_of("c\nd") is None
