"""Average what a system says of both eyes."""

from pathlib import Path

from retinaflow.jobs.logs import job_log
from retinaflow.scoring.eyes import blend
from retinaflow.scoring.raw_outputs import read_outputs, write_outputs

with job_log(snakemake.log[0]):
    for part in snakemake.params.parts:
        said = read_outputs(Path(snakemake.input[part][0]), snakemake.params.objective, snakemake.params.classes)
        blended = blend(said.outputs, said.patients, said.eyes, snakemake.params.weight)
        write_outputs(Path(snakemake.output[part]), said._replace(outputs=blended))
