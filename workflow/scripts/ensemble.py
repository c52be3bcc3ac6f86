"""Average what all backbones say."""

from pathlib import Path

from retinaflow.jobs.logs import job_log
from retinaflow.scoring.raw_outputs import average

with job_log(snakemake.log[0]):
    for part in snakemake.params.parts:
        average(
            list(zip(map(Path, snakemake.input[part]), snakemake.params.objectives, strict=True)),
            snakemake.params.objective,
            snakemake.params.classes,
            Path(snakemake.output[part]),
        )
