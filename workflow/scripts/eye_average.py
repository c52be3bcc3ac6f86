"""Average the raw outputs of a model over both eyes of each patient."""

from pathlib import Path

from retinaflow.jobs.logs import job_log
from retinaflow.scoring.eyes import average_eyes
from retinaflow.scoring.raw_outputs import read_raw_outputs, write_raw_outputs

with job_log(snakemake.log[0]):
    params = snakemake.params
    for split in params.splits:
        (table,) = snakemake.input[split]
        own = read_raw_outputs(Path(table), params.objective, grade_count=params.grade_count)
        averaged = average_eyes(own.outputs, own.patients, eyes=own.eyes, fellow_eye_weight=params.fellow_eye_weight)
        write_raw_outputs(Path(snakemake.output[split]), own._replace(outputs=averaged))
