"""Snakemake's choice of the next jobs. This module imports nothing of Snakemake."""

from typing import Any

# Jobs and seconds of the limit that Snakemake has by default.
DEFAULT_LIMIT = (100, 1)


def remove_default_limit(workflow: Any) -> None:
    """Remove Snakemake's default limit of 100 new jobs a second, which no workflow run here reaches.

    With a limit, each finished job makes Snakemake (9.27) choose jobs once more in every second until the run ends.
    After 200 jobs, it chooses 200 times a second and uses nearly half of a core. A limit of the user stays.

    Args:
        workflow: Workflow of Snakemake, after its scheduler was made.
    """
    limit = workflow.scheduling_settings.max_jobs_per_timespan
    if limit and (limit.max_jobs, limit.timespan) == DEFAULT_LIMIT:
        workflow.scheduler.job_rate_limiter = None
