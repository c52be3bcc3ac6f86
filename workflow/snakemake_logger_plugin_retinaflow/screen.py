"""The screen of a run: lines that stay and, on a terminal, bars below them."""

import os
import re
import shutil
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, TextIO

from .joblogs import Progress
from .jobs import Job, cut

if TYPE_CHECKING:
    from rich.progress import Progress as Bars

# A pipe has no width; longer lines are hard to read in a file.
PIPE_WIDTH = 120
# Seconds between two looks at the progress of jobs, and between two lines about a job where there are no bars.
LOOK, LINE = 0.5, 600
_MOST_BARS = 8
# Control characters except tab and line feed, and those that reverse the direction of text.
_CONTROL = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
_STYLES = {"error": "red", "warning": "yellow", "done": "green", "strong": "bold"}


def clean(text: str) -> str:
    """``text`` with control characters as escapes, so that no name of a file acts on a terminal."""
    return _CONTROL.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def clock(seconds: float) -> str:
    """Seconds as 0:07, 12:30 or 1:05:00."""
    minutes, rest = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


@dataclass
class Running:
    """A job that runs, or several counted ones of one rule."""

    name: str
    progress: Progress | None = None
    start: float = field(default_factory=time.monotonic)
    shown: float = field(default_factory=time.monotonic)
    # When the present state of `progress` was read.
    read: float = 0.0
    # Of counted jobs.
    done: int = 0
    total: int = 0

    def spent(self) -> float:
        """Seconds since the job began."""
        return time.monotonic() - self.start

    def share(self) -> float | None:
        """The share that is done, from 0 to 1, or None if it is not known."""
        if self.total:
            return self.done / self.total
        share, left = self._number("share"), self.left()
        if left is not None:
            spent = self.spent()
            return spent / (spent + left) if spent + left else None
        return None if share is None else max(0.0, min(1.0, share))

    def left(self) -> float | None:
        """Seconds to come, or None if they are not known."""
        left = self._number("left")
        return None if left is None else max(0.0, left - (time.monotonic() - self.read))

    def note(self) -> str:
        """The step that the job is at, and the time left or spent."""
        state = self.progress.state if self.progress else {}
        step = f"{self.done}/{self.total}" if self.total else str(state.get("step", ""))
        left = self.left()
        spent = clock(self.spent())
        return ", ".join(filter(None, [step, spent if left is None else f"{clock(left)} left"]))

    def _number(self, name: str) -> float | None:
        value = self.progress.state.get(name) if self.progress else None
        return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


class Screen:
    """Writes lines to ``stream``. On a terminal, bars of the running jobs stand below them."""

    def __init__(self, stream: TextIO, *, color: bool = True) -> None:
        self.stream = stream
        self.terminal = stream.isatty() and os.environ.get("TERM", "dumb") != "dumb"
        self.color = color
        self.lock = threading.RLock()
        self.running: dict[object, Running] = {}
        self.done, self.total = 0, 0
        self._bars: Bars | None = None
        self._thread: threading.Thread | None = None
        self._end = threading.Event()
        self._start = time.monotonic()

    @property
    def width(self) -> int:
        """Characters of a line."""
        return shutil.get_terminal_size().columns if self.terminal else PIPE_WIDTH

    def spent(self) -> float:
        """Seconds since the run began."""
        return time.monotonic() - self._start

    def write(self, text: str, style: str = "") -> None:
        """Write lines that stay. They are not broken: a terminal does so itself."""
        text = clean(text)
        with self.lock:
            if self._bars is None:
                # `stream` may be one of those that cannot show all characters.
                encoding = self.stream.encoding or "utf-8"
                print(text.encode(encoding, "backslashreplace").decode(encoding), file=self.stream, flush=True)
            else:
                self._bars.console.print(
                    text, style=_STYLES.get(style), markup=False, highlight=False, emoji=False, soft_wrap=True
                )

    def begin(self, total: int) -> None:
        """Show the progress of a run of ``total`` jobs from now on."""
        self.total = total
        if self._thread is None:
            if self.terminal:
                self._show_bars()
            self._thread = threading.Thread(target=self._watch, daemon=True)
            self._thread.start()

    def end(self) -> None:
        """Take the bars away."""
        self._end.set()
        if self._thread is not None:
            self._thread.join()
            self._thread = None
        with self.lock:
            if self._bars is not None:
                self._bars.stop()
                self._bars = None

    def look(self, running: Running) -> None:
        """Read the progress of a job and write its messages."""
        if running.progress is None:
            return
        before = running.progress.state
        messages = running.progress.read()
        if running.progress.state is not before:
            running.read = time.monotonic()
        for message in messages:
            self.write(f"{running.name}: {message}", "warning")

    def _show_bars(self) -> None:
        # Here, as runs without a terminal do not need it.
        from rich.console import Console
        from rich.progress import BarColumn, TextColumn
        from rich.progress import Progress as Bars
        from rich.table import Column

        self._bars = Bars(
            TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis")),
            BarColumn(bar_width=16),
            TextColumn("{task.fields[note]}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis")),
            console=Console(file=self.stream, no_color=not self.color or None, legacy_windows=False),
            auto_refresh=False,
            transient=True,
        )
        self._bars.start()

    def _watch(self) -> None:
        while not self._end.wait(LOOK):
            with self.lock:
                for running in list(self.running.values()):
                    self.look(running)
                self._draw() if self._bars is not None else self._report()

    def _draw(self) -> None:
        if (bars := self._bars) is None:
            return
        for task in list(bars.task_ids):
            bars.remove_task(task)
        shown = sorted(self.running.values(), key=lambda running: running.start)
        for running in shown[:_MOST_BARS]:
            share = running.share()
            total, done = (None, 0) if share is None else (100, round(100 * share))
            bars.add_task(clean(running.name), total=total, completed=done, note=clean(running.note()))
        more = len(shown) - _MOST_BARS
        note = f"{self.done} of {self.total}, {clock(self.spent())}"
        bars.add_task("all jobs", total=self.total or None, completed=self.done, note=note)
        if more > 0:
            bars.add_task(f"and {more} more", total=None, visible=True, note="")
        bars.refresh()

    def _report(self) -> None:
        for running in self.running.values():
            if time.monotonic() - running.shown >= LINE:
                running.shown = time.monotonic()
                self.write(cut(f"{running.name}: {running.note()}", self.width))


def standard_stream(stdout: bool) -> TextIO:
    """The stream that Snakemake would write to."""
    return sys.stdout if stdout else sys.stderr


def counted_name(job: Job) -> str:
    """The name of all counted jobs of a rule together."""
    return job.rule.replace("_", " ")
