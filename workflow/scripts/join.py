"""Join the inventories of several training sets to one."""

from pathlib import Path

from retinaflow.data.joining import JoinJob, join_inventories
from retinaflow.jobs.logs import job_log

with job_log(snakemake.log[0]):
    tables = zip(map(Path, snakemake.input.inventories), map(Path, snakemake.input.problems), strict=True)
    join_inventories(
        JoinJob(
            data_sets=dict(zip(snakemake.params.names, tables, strict=True)),
            inventory=Path(snakemake.output.inventory),
            problems=Path(snakemake.output.problems),
        )
    )
