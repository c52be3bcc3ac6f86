"""Average what all backbones say."""

from pathlib import Path

from retinaflow.logs import job_log
from retinaflow.predictions import average

with job_log(snakemake.log[0]):
    average(
        list(zip(map(Path, snakemake.input.tables), snakemake.params.objectives, strict=True)),
        snakemake.params.objective,
        snakemake.params.classes,
        Path(snakemake.output[0]),
    )
