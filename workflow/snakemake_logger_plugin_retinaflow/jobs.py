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

    Jobs of one rule, model and reason are one line, or one line ``each``. The rules keep their order.
    """
    variants = short_variants(jobs)
    order = list(dict.fromkeys(job.rule for job in jobs))
    jobs = sorted(jobs, key=lambda job: (order.index(job.rule), _natural(job.name(variants, single=True))))
    makers = {output: job for job in jobs for output in job.outputs}

    def label(files: Sequence[str]) -> str:
        found = {makers[file].number for file in files if file in makers}
        return _makers([job for job in jobs if job.number in found], variants)

    rows: dict[tuple[str, str], list[Job]] = {}
    for number, job in enumerate(jobs):
        # A rule without outputs only gathers what others make.
        why = "target" if not job.outputs else reasons.describe(reasons.parse(job.reason), label, reasons.exists)
        key = (f"{number}", "") if each else (job.name(variants), why if with_reasons else "")
        rows.setdefault(key, []).append(job)
        job.reason = why
    names = [group[0].name(variants, single=each) for group in rows.values()]
    counts = [_count(group) for group in rows.values()]
    columns = [max(map(len, column), default=0) for column in (names, counts)]
    lines = []
    for name, count, group in zip(names, counts, rows.values(), strict=True):
        why = group[0].reason if with_reasons else ""
        lines.append(cut(f"{name:<{columns[0]}}  {count:>{columns[1]}}  {why}".rstrip(), width))
    return lines


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


def _makers(jobs: Sequence[Job], variants: Mapping[str, str]) -> str:
    names = list(dict.fromkeys(job.name(variants) for job in jobs))
    if not names:
        return "another job"
    if len(names) <= 2:
        return " and ".join(names)
    rules = dict.fromkeys(job.rule.replace("_", " ") for job in jobs)
    return f"{len(jobs)} jobs ({', '.join(rules)})"
