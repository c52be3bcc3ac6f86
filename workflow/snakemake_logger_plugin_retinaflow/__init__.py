"""A logger plugin for Snakemake: dry runs that fit on a screen; runs with bars, one line a job and the ranking."""

import logging
import os
import re
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from snakemake.logging import ColorizingTextHandler, DefaultFilter, DefaultFormatter, show_logs
from snakemake.settings.enums import Quietness
from snakemake_interface_logger_plugins.base import LogHandlerBase
from snakemake_interface_logger_plugins.common import LogEvent
from snakemake_interface_logger_plugins.settings import LogHandlerSettingsBase

from . import ranking
from .configfiles import check_named_files
from .joblogs import Progress, message, progress_file
from .jobs import COUNTED, Job, table
from .screen import Running, Screen, clock, counted_name, standard_stream

# Jobs find the number of this process there, and leave the terminal to it (`retinaflow.jobs.logs`).
SCREEN = "RETINAFLOW_SCREEN"

# Lines of Snakemake that are of no use beside those of this module. All others are shown.
NOISE = re.compile(
    r"Assuming unrestricted|Building DAG|Using shell|Provided |Rules claiming|Select jobs|Execute \d+ jobs"
    r"|Conda environ|Singularity cont|Group jobs|Job stats|Reasons:|Complete log|Elapsed time|This was a dry-run"
    r"|Some jobs were trigg|Rules with provenance|\d+ jobs have \w+ provenance|Processed \d+ potential"
    r"|Storing output|Retrieving .* from stor"
    r"|Removing local copy|Write-protecting|Touching output|Updating checkpoint|Updating jobs|Shutting down"
    r"|Removing (temporary )?output|Would remove|Trying to restart|Finished jobid|Workflow has started|Job rate limit"
    r"|Unlocking|Full Traceback"
)
_RETRY = re.compile(r"Trying to restart job (\d+)")
_FINISHED = re.compile(r"\(Rule: (.+)\)")
_SYSTEM_ERROR = re.compile(r"^(?:Permission|NotADirectory|FileNotFound|FileExists|OS)Error: .*", re.MULTILINE)
_CACHE = (
    "Snakemake cannot write its cache: {error}\nThe cache is below the home folder, {home}, unless XDG_CACHE_HOME "
    "names another folder. Set it to a folder that can be written to: export XDG_CACHE_HOME=/tmp/cache"
)


@dataclass
class LogHandlerSettings(LogHandlerSettingsBase):
    """The settings of the plugin; Snakemake makes command-line options of them."""

    list_jobs: bool = field(
        default=False, metadata={"help": "Dry run: list each job, instead of one line for jobs that are alike."}
    )
    standard: bool = field(
        default=False, metadata={"help": "Show the output of Snakemake itself, and of jobs, instead of the plugin's."}
    )

    def __post_init__(self) -> None:
        """Check the configuration files of the command line, which Snakemake has not read yet."""
        check_named_files(sys.argv[1:])


def _jobs(count: int) -> str:
    return f"{count} job{'' if count == 1 else 's'}"


class _Filter(DefaultFilter):
    """The filter that Snakemake's own output has, except that failed jobs and the totals of a dry run are shown."""

    def filter(self, record: logging.LogRecord) -> bool:
        event = getattr(record, "event", None)
        if event in (LogEvent.JOB_ERROR, LogEvent.GROUP_ERROR):
            return Quietness.ALL not in self.quiet
        return (event == LogEvent.RUN_INFO and self.dryrun) or super().filter(record)


class LogHandler(LogHandlerBase):
    """Turns the events of Snakemake into lines and bars."""

    def __post_init__(self) -> None:
        """Prepare the screen. Jobs of this process leave the terminal to it."""
        common = self.common_settings
        self.quiet = set(common.quiet or ())
        arguments = (self.quiet, common.debug_dag, common.verbose, common.dryrun, common.printshellcmds)
        self.standard: ColorizingTextHandler | None = None
        stream = standard_stream(common.stdout)
        # With an option for details, the user gets all of them.
        if getattr(self.settings, "standard", False) or common.verbose or common.debug_dag:
            self.standard = ColorizingTextHandler(nocolor=common.nocolor, stream=stream)
            self.setFormatter(DefaultFormatter(self.quiet, common.show_failed_logs))
            self.standard.setFormatter(self.formatter)
            self.addFilter(DefaultFilter(*arguments))
            return
        self.addFilter(_Filter(*arguments))
        self.setFormatter(DefaultFormatter(self.quiet, common.show_failed_logs))
        self.screen = Screen(stream, color=not common.nocolor)
        self.jobs: dict[int, Job] = {}
        self.counts: dict[str, int] = {}
        self.failed: list[str] = []
        self.comparison: Path | None = None
        self.cores = ""
        self.planned = False
        if not common.dryrun:
            os.environ[SCREEN] = str(os.getpid())

    @property
    def writes_to_stream(self) -> bool:
        """Whether the plugin replaces Snakemake's own output."""
        return True

    @property
    def writes_to_file(self) -> bool:
        """Whether the plugin writes a file. Snakemake's complete log goes on beside it."""
        return False

    @property
    def has_filter(self) -> bool:
        """Whether the plugin has a filter of its own."""
        return True

    @property
    def has_formatter(self) -> bool:
        """Whether the plugin has a formatter of its own."""
        return True

    @property
    def needs_rulegraph(self) -> bool:
        """Whether the plugin needs the graph of rules."""
        return False

    def emit(self, record: logging.LogRecord) -> None:
        """Show one event."""
        try:
            if self.standard is not None:
                self.standard.emit(record)
            else:
                self._show(record)
        except BrokenPipeError:
            pass
        except Exception:
            self.handleError(record)

    def close(self) -> None:
        """Take the bars away."""
        if self.standard is None:
            self.screen.end()
        super().close()

    def _show(self, record: logging.LogRecord) -> None:
        event = getattr(record, "event", None)
        actions = {
            LogEvent.RUN_INFO: self._run_info,
            LogEvent.RESOURCES_INFO: self._resources,
            LogEvent.JOB_INFO: self._job_info,
            LogEvent.JOB_FINISHED: self._job_finished,
            LogEvent.JOB_ERROR: self._job_error,
            LogEvent.PROGRESS: self._progress,
            LogEvent.ERROR: self._error,
        }
        if event in actions:
            actions[event](record)
        elif event in (LogEvent.SHELLCMD, LogEvent.GROUP_ERROR):
            self.screen.write(self.format(record))
        elif event is None:
            self._line(record)

    def _line(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.levelno >= logging.WARNING:
            self.screen.write(text.strip("\n"), "error" if record.levelno >= logging.ERROR else "warning")
        elif retry := _RETRY.match(text):
            self.screen.write(f"{self._label(int(retry[1]))} is tried again")
        elif text.startswith("Elapsed time"):
            self._end()
        elif text and not NOISE.match(text):
            self.screen.write(text.rstrip("\n"))

    def _resources(self, record: logging.LogRecord) -> None:
        if cores := getattr(record, "cores", None):
            self.cores = f" on {cores} core{'' if cores == 1 else 's'}"

    def _run_info(self, record: logging.LogRecord) -> None:
        """The numbers of jobs. In a dry run, this event comes before the jobs and after them."""
        self.counts = dict(getattr(record, "stats", {}))
        total = self.counts.get("total", 0)
        if self.common_settings.dryrun:
            if Quietness.RULES in self.quiet or self.jobs:
                self._plan(total)
        else:
            self.screen.write(f"{_jobs(total)}{self.cores}")
            self.screen.begin(total)

    def _plan(self, total: int) -> None:
        if self.planned:
            return
        self.planned = True
        each = bool(getattr(self.settings, "list_jobs", False))
        if self.jobs:
            reasons = Quietness.REASON not in self.quiet
            jobs = list(self.jobs.values())
            lines = table(jobs, each=each, with_reasons=reasons, width=self.screen.width)
        else:
            rules = [(name, count) for name, count in self.counts.items() if name != "total"]
            widest = max((len(name) for name, _ in rules), default=0)
            lines = [f"{name.replace('_', ' '):<{widest}}  {count:>6}" for name, count in rules]
        hint = "" if each or not self.jobs or len(lines) == total else " --logger-retinaflow-list-jobs lists each."
        self.screen.write("\n".join([*lines, f"{_jobs(total)}. Nothing was run: this was a dry run.{hint}"]))

    def _job_info(self, record: logging.LogRecord) -> None:
        fields = record.__dict__
        job = Job(
            fields["jobid"],
            fields["rule_name"],
            dict(fields.get("wildcards") or {}),
            list(fields.get("output") or ()),
            # The folder may be another one when the last events are shown.
            [str(Path(log).absolute()) for log in fields.get("log") or ()],
            fields.get("reason") or "",
        )
        self.jobs[job.number] = job
        if self.common_settings.dryrun:
            return
        with self.screen.lock:
            if job.counted:
                running = self.screen.running.setdefault(job.rule, Running(counted_name(job)))
                running.total = self.counts.get(job.rule, 0)
            else:
                progress = Progress(progress_file(job.logs[0])) if job.logs else None
                self.screen.running[job.number] = Running(job.name(), progress)

    def _job_finished(self, record: logging.LogRecord) -> None:
        number = int(getattr(record, "job_id", -1))
        job = self.jobs.get(number)
        if job is None:
            found = _FINISHED.search(record.getMessage())
            self.screen.write(f"{found[1] if found else 'a job'}: done", "done")
            return
        for output in job.outputs:
            if output.endswith(("comparison.csv", "leave_out.csv")):
                self.comparison = Path(output).absolute()
        with self.screen.lock:
            running = self.screen.running.get(job.rule if job.counted else number)
            if running is None:
                return
            if job.counted:
                running.done += 1
                Progress(progress_file(job.logs[0])).remove() if job.logs else None
                if running.done < running.total:
                    return
                del self.screen.running[job.rule]
                self._done(f"{running.name}, {running.done} {COUNTED}s", running)
            else:
                self._stop(number)
                if job.outputs:
                    self._done(running.name, running)

    def _done(self, name: str, running: Running) -> None:
        result = str(running.progress.state.get("result", "")) if running.progress else ""
        text = f"{name}: done in {clock(running.spent())}{'; ' if result else ''}{result}"
        self.screen.write(text, "done")

    def _stop(self, number: int) -> Running | None:
        """Take a job from the running ones, with its last messages."""
        with self.screen.lock:
            running = self.screen.running.pop(number, None)
            if running is not None and running.progress is not None:
                self.screen.look(running)
                running.progress.remove()
            return running

    def _progress(self, record: logging.LogRecord) -> None:
        self.screen.done, self.screen.total = getattr(record, "done", 0), getattr(record, "total", 0)

    def _job_error(self, record: logging.LogRecord) -> None:
        fields = record.__dict__
        number = fields.get("jobid")
        logs = [str(log) for log in fields.get("log") or ()]
        if number in self.jobs and not self.jobs[number].counted:
            self._stop(number)
        name = self._label(number, fields.get("rule_name") or "a job")
        self.failed.append(name)
        problem = message(logs[0]) if logs else ""
        lines = [f"{name} failed"]
        lines += [f"  {line}".rstrip() for line in (problem or "no message").splitlines()]
        lines += [f"  log: {log}" for log in logs]
        lines += [f"  {key}: {value}" for key, value in (fields.get("aux") or {}).items()]
        if fields.get("rule_msg"):
            lines.append(f"  {fields['rule_msg']}")
        if self.common_settings.show_failed_logs:
            lines += show_logs(logs)
        self.screen.write("\n".join(lines), "error")

    def _label(self, number: int | None, rule: str = "") -> str:
        job = self.jobs.get(number) if number is not None else None
        return job.name(single=True) if job else rule or f"job {number}"

    def _error(self, record: logging.LogRecord) -> None:
        """An exception of Snakemake. That of a failed job only repeats the command; the job's log has the reason."""
        text = record.getMessage()
        if "CalledProcessError" in text:
            return
        found = _SYSTEM_ERROR.findall(text)
        if found and "Traceback" in text:
            if "sourcecache.py" in text:
                text = _CACHE.format(error=found[-1], home=Path.home())
            else:
                text = f"Snakemake ended: {found[-1]}\n--verbose shows where."
        self.screen.write(text.strip("\n"), "error")

    def _end(self) -> None:
        """The last lines of a run."""
        self.screen.end()
        if Quietness.PROGRESS in self.quiet or not self.counts:
            return
        spent = clock(self.screen.spent())
        if self.failed:
            names = ", ".join(dict.fromkeys(self.failed))
            self.screen.write(f"Failed after {spent}: {names}. Run again to go on; what is finished stays.", "error")
            return
        total = self.counts.get("total", 0)
        self.screen.write(f"{'All ' if total > 1 else ''}{_jobs(total)} done in {spent}.", "done")
        if self.comparison is not None:
            lines: list[Any] = ranking.lines(self.comparison)
            self.screen.write("\n".join(["", *lines, f"All metrics: {os.path.relpath(self.comparison.parent)}"]))
