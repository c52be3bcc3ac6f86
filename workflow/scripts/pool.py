"""Score the held-out predictions of all folds of a backbone together."""

from pathlib import Path

from retinaflow.logs import job_log
from retinaflow.predictions import pool

with job_log(snakemake.log[0]):
    pool(
        snakemake.wildcards.backbone,
        [Path(table) for table in snakemake.input.folds],
        snakemake.params.classes,
        snakemake.params.referable_level,
        Path(snakemake.output.predictions),
        Path(snakemake.output.metrics),
        Path(snakemake.output.figure),
    )
