"""Average the raw outputs of a network over both eyes."""

from pathlib import Path

from retinaflow.jobs.logs import job_log
from retinaflow.scoring.eyes import blend
from retinaflow.scoring.raw_outputs import read_outputs, write_outputs

with job_log(snakemake.log[0]):
    params = snakemake.params
    for split in params.splits:
        raw = read_outputs(Path(snakemake.input[split][0]), params.objective, params.grade_count)
        averaged = blend(raw.outputs, raw.patients, raw.eyes, params.weight)
        write_outputs(Path(snakemake.output[split]), raw._replace(outputs=averaged))
