"""Sort the photographs of one part into class folders."""

from pathlib import Path

from retinaflow.logs import job_log
from retinaflow.organize import organize

with job_log(snakemake.log[0]):
    index = Path(snakemake.output.index)
    organize(Path(snakemake.input.table), snakemake.params.classes, snakemake.params.mode, index.parent, index)
