"""Join the differences of the exported models of all training runs to one table."""

from pathlib import Path

from retinaflow.jobs.logs import job_log
from retinaflow.serving.exported import summarise_differences

with job_log(snakemake.log[0]):
    summarise_differences(
        list(map(Path, snakemake.input.differences)), Path(snakemake.output.table), Path(snakemake.output.page)
    )
