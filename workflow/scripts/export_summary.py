"""Set what the exported models of all runs differ by as one table."""

from pathlib import Path

from retinaflow.exported import summarise
from retinaflow.logs import job_log

with job_log(snakemake.log[0]):
    summarise(list(map(Path, snakemake.input.differences)), Path(snakemake.output.table), Path(snakemake.output.page))
