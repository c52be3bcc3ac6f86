"""Average the raw outputs of all networks."""

from pathlib import Path

from retinaflow.jobs.logs import job_log
from retinaflow.scoring.raw_outputs import average

with job_log(snakemake.log[0]):
    params = snakemake.params
    for split in params.splits:
        average(
            list(zip(map(Path, snakemake.input[split]), params.objectives, strict=True)),
            Path(snakemake.output[split]),
            objective=params.objective,
            grade_count=params.grade_count,
        )
