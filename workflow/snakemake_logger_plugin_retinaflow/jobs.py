"""Jobs as the screen names them, and the table of a dry run."""

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from . import reasons

# Wildcards that number the jobs of one step: they are counted, not listed.
COUNTED = "shard"
# Of a counted job, the wildcards that are not shown either.
PARTS = ("split", "part")
VARIANTS = ("variant", "recipe")
# Lines of one rule and reason; more of them are one line with their number. People look for the names of trainings.
_MOST_ALIKE = 5
_MOST_LISTED = {"train": 20}
_SIZE = re.compile(r"(\d+)-")


@dataclass
class Job:
    """A job as Snakemake logs it."""

    number: int
    rule: str
    wildcards: Mapping[str, str] = field(default_factory=dict)
    outputs: Sequence[str] = ()
    logs: Sequence[str] = ()
    reason: str = ""

    @property
    def counted(self) -> bool:
        """Whether this is one of many alike, such as a shard."""
        return COUNTED in self.wildcards

    def name(self, variants: Mapping[str, str] | None = None, *, single: bool = False) -> str:
        """The rule and the model, split or variant that it runs for.

        ``variants`` gives short names of preprocessing variants. ``single`` names one of many alike by its number too.
        """
        shown = [self.rule.replace("_", " ")]
        hidden = () if single or not self.counted else (COUNTED, *PARTS)
        for key, value in self.wildcards.items():
            if key in VARIANTS:
                shown.append((variants or {}).get(value, value))
            elif key not in hidden:
                shown.append(f"{key} {value}" if key in (COUNTED, "number") else str(value))
        return " ".join(shown)


def short_variants(jobs: Sequence[Job]) -> dict[str, str]:
    """Image sizes as the names of the preprocessing variants of ``jobs``, unless two of them have the same size."""
    names = {value for job in jobs for key, value in job.wildcards.items() if key in VARIANTS}
    sizes = {name: match[1] for name in names if (match := _SIZE.match(name))}
    counts = Counter(sizes.values())
    return {name: f"{size} px" for name, size in sizes.items() if counts[size] == 1}


def table(jobs: Sequence[Job], *, each: bool, with_reasons: bool, width: int) -> list[str]:
    """Lines for the jobs of a dry run: what runs, how often, and why.

    Jobs of one rule, model and reason are one line, or one line ``each``. Many models of one rule and reason are one
    line. The rules keep their order.
    """
    variants = short_variants(jobs)
    order = list(dict.fromkeys(job.rule for job in jobs))
    jobs = sorted(jobs, key=lambda job: (order.index(job.rule), _natural(job.name(variants, single=True))))
    makers = {output: job for job in jobs for output in job.outputs}

    def makers_of(files: Sequence[str]) -> list[Job]:
        found = {makers[file].number for file in files if file in makers}
        return [job for job in jobs if job.number in found]

    rows: dict[tuple[str, str], _Row] = {}
    for number, job in enumerate(jobs):
        causes = reasons.parse(job.reason)
        # A rule without outputs only gathers what others make.
        why, alike = (
            reasons.describe(causes, label, reasons.exists) if job.outputs else "target"
            for label in (lambda files: _makers(makers_of(files), variants), lambda files: _rules(makers_of(files)))
        )
        name = job.name(variants, single=each)
        key = (f"{number}", "") if each else (name, why if with_reasons else "")
        rows.setdefault(key, _Row(name, why if with_reasons else "", alike if with_reasons else "")).jobs.append(job)
    return _lines(list(rows.values()) if each else _together(list(rows.values())), width)


@dataclass
class _Row:
    """A line of the table: its name and reason, the reason with rules in the place of jobs, and its jobs."""

    name: str
    why: str
    alike: str
    jobs: list[Job] = field(default_factory=list)


def _together(rows: list[_Row]) -> list[_Row]:
    """``rows`` with one row in the place of many that are alike."""
    groups: dict[tuple[str, str, bool], list[_Row]] = {}
    for row in rows:
        groups.setdefault((row.jobs[0].rule, row.alike, row.jobs[0].counted), []).append(row)
    shown = []
    for (rule, alike, counted), group in groups.items():
        if counted or len(group) <= _MOST_LISTED.get(rule, _MOST_ALIKE):
            shown += group
        else:
            shown.append(_Row(rule.replace("_", " "), alike, alike, [job for row in group for job in row.jobs]))
    return shown


def _lines(rows: Sequence[_Row], width: int) -> list[str]:
    counts = [_count(row.jobs) for row in rows]
    columns = [max(map(len, column), default=0) for column in ([row.name for row in rows], counts)]
    return [
        cut(f"{row.name:<{columns[0]}}  {count:>{columns[1]}}  {row.why}".rstrip(), width)
        for row, count in zip(rows, counts, strict=True)
    ]


def cut(text: str, width: int) -> str:
    """``text`` with at most ``width`` characters."""
    return text if len(text) <= width else f"{text[: width - 1]}…"


def _natural(name: str) -> list[tuple[int, str]]:
    """A key that sorts numbers in names by value."""
    return [(int(part), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name)]


def _count(group: Sequence[Job]) -> str:
    if len(group) == 1 and not group[0].counted:
        return ""
    noun = COUNTED if group[0].counted else "job"
    return f"{len(group)} {noun}{'' if len(group) == 1 else 's'}"


def _rules(jobs: Sequence[Job]) -> str:
    return ", ".join(dict.fromkeys(job.rule.replace("_", " ") for job in jobs)) or "another job"


def _makers(jobs: Sequence[Job], variants: Mapping[str, str]) -> str:
    names = list(dict.fromkeys(job.name(variants) for job in jobs))
    if not names:
        return "another job"
    if len(names) <= 2:
        return " and ".join(names)
    return f"{len(jobs)} jobs ({_rules(jobs)})"
