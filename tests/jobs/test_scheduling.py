from types import SimpleNamespace

import pytest
from snakemake.cli import get_argument_parser
from snakemake.scheduling.job_scheduler import JobRateLimiter
from snakemake.settings.types import MaxJobsPerTimespan

from retinaflow.jobs.scheduling import remove_default_limit


def workflow_with(limit):
    """A workflow with this limit, as Snakemake makes it."""
    settings = SimpleNamespace(max_jobs_per_timespan=limit)
    return SimpleNamespace(
        scheduling_settings=settings, scheduler=SimpleNamespace(job_rate_limiter=limit and JobRateLimiter(limit))
    )


def test_snakemake_s_own_limit_is_removed():
    workflow = workflow_with(get_argument_parser().parse_args([]).max_jobs_per_timespan)
    assert workflow.scheduler.job_rate_limiter is not None
    remove_default_limit(workflow)
    assert workflow.scheduler.job_rate_limiter is None


@pytest.mark.parametrize("limit", ["10/1s", "100/1m"])
def test_a_limit_of_the_user_stays(limit):
    workflow = workflow_with(MaxJobsPerTimespan.parse_choice(limit))
    remove_default_limit(workflow)
    assert workflow.scheduler.job_rate_limiter.max_jobs == int(limit.split("/")[0])


def test_no_limit_is_no_error():
    workflow = workflow_with(None)
    remove_default_limit(workflow)
    assert workflow.scheduler.job_rate_limiter is None
