"""Regular expressions of a configuration or a bundle, matched in bounded time.

The engine of Python can try an exponential number of ways to match a text. A text that a pattern can match only in few
ways is matched directly. Any other one is matched by a process of its own, which is ended after ``MATCH_SECONDS``.
"""

import contextlib
import json
import re
import select
import subprocess
import sys
import threading
import weakref
from typing import BinaryIO, cast

from retinaflow.errors import RetinaflowError

LONGEST_PATTERN = 1_000  # characters, as in `settings.section`
MATCH_SECONDS = 1.0  # for one text
DIRECT_STEPS = 1_000_000  # at 50 million steps a second

# Answers each line, a JSON list of one text, with the groups of the match. It needs no package and ends with its input.
_PROGRAM = """
import json, re, sys
compiled = re.compile(json.loads(sys.stdin.readline()), re.DOTALL)
for line in sys.stdin:
    match = compiled.fullmatch(json.loads(line))
    print(json.dumps(match and match.groupdict()), flush=True)
"""
# Escapes and sets of characters, which count as one character.
_CHARACTER = re.compile(r"\\.|\[\^?\]?(?:\\.|[^\]\\])*\]", re.DOTALL)
_OPENED = re.compile(r"\(\?(?:P?<[=!]?\w*>?|[:=!>])")
_BACK_REFERENCE = re.compile(r"\\[1-9]|\(\?P=|\(\?\(")
# Comments may hide brackets. Repeated groups repeat everything in them.
_OTHER = re.compile(r"\(\?#|\(\?[aiLmsu]*x|\)[*+{]")


class BoundedPattern:
    """A compiled regular expression whose ``groups_of`` ends after ``MATCH_SECONDS`` at most.

    Attributes:
        groups: Names of its groups.
    """

    def __init__(self, pattern: str, *, where: str) -> None:
        """Compile ``pattern``. In it, ``.`` matches each character.

        Args:
            pattern: A regular expression.
            where: Key of the pattern for messages, such as ``data.patient_pattern``.

        Raises:
            RetinaflowError: ``pattern`` is no regular expression, or longer than ``LONGEST_PATTERN``.
        """
        if len(pattern) > LONGEST_PATTERN:
            raise RetinaflowError(
                f"{where}: a pattern of {len(pattern)} characters, expected at most {LONGEST_PATTERN}. Shorten it."
            )
        try:
            self._compiled = re.compile(pattern, re.DOTALL)
        except (re.error, OverflowError, RecursionError) as error:
            raise RetinaflowError(f"{where}: {pattern!r} is no regular expression ({error}).") from error
        self.groups = tuple(self._compiled.groupindex)
        self._pattern, self._where = pattern, where
        self._ways = _ways(pattern)
        self._matcher: _Matcher | None = None
        self._lock = threading.Lock()

    def groups_of(self, text: str) -> dict[str, str | None] | None:
        """Return the groups by name if the whole ``text`` matches, else None.

        Raises:
            RetinaflowError: No answer within ``MATCH_SECONDS``.
        """
        if self._ways is not None:
            repeats, factor = self._ways
            if factor * (len(text) + 1) ** repeats <= DIRECT_STEPS:
                match = self._compiled.fullmatch(text)
                return match.groupdict() if match else None
        with self._lock:
            return self._ask(text)

    def _ask(self, text: str) -> dict[str, str | None] | None:
        matcher = self._matcher or _Matcher(self._pattern)
        # Ended processes are not used again.
        self._matcher = None
        try:
            answer = matcher.answer(text, MATCH_SECONDS)
        except OSError:
            answer = b""
        if not answer:
            matcher.end()
            raise RetinaflowError(
                f"{self._where}: {self._pattern[:200]!r} takes more than {MATCH_SECONDS:g} s for the name "
                f"{text[:80]!r}. "
                "Expected a pattern that decides at once: do not repeat a group that has a repeat in it, as in (a+)+."
            )
        self._matcher = matcher
        groups: dict[str, str | None] | None = json.loads(answer)
        return groups


class _Matcher:
    """The process that matches texts. It ends with this object, and with the process that started it."""

    def __init__(self, pattern: str) -> None:
        process = subprocess.Popen(  # noqa: S603
            [sys.executable, "-I", "-S", "-c", _PROGRAM], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._input, self._output = cast(BinaryIO, process.stdin), cast(BinaryIO, process.stdout)
        self.end = weakref.finalize(self, _end, process)
        self._send(pattern)
        # The start of the process does not count as time of a text.
        self.answer("", 20 * MATCH_SECONDS)

    def _send(self, text: str) -> None:
        self._input.write(json.dumps(text).encode() + b"\n")
        self._input.flush()

    def answer(self, text: str, seconds: float) -> bytes:
        """Return the line of the answer, or nothing if there is none after ``seconds``."""
        self._send(text)
        return self._output.readline() if select.select([self._output], [], [], seconds)[0] else b""


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    process.wait()
    for pipe in filter(None, (process.stdin, process.stdout)):
        with contextlib.suppress(OSError):  # Its input was not yet written.
            pipe.close()


def _ways(pattern: str) -> tuple[int, int] | None:
    """Return r and f, so that a text of n characters is matched in about f * n**r steps. None if that is unknown."""
    plain = _CHARACTER.sub("c", pattern)
    if _OTHER.search(plain):
        return None
    references = len(_BACK_REFERENCE.findall(pattern))
    plain = _OPENED.sub("(", plain)
    repeats = sum(map(plain.count, "*+{")) + references
    return repeats, 2 ** (plain.count("?") + plain.count("|")) * (len(pattern) + 1)
