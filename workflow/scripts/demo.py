"""Draw one data set of the demo."""

from pathlib import Path

from retinaflow.data.demo import draw_collection
from retinaflow.jobs.logs import job_log

with job_log(snakemake.log[0]):
    draw_collection(
        Path(snakemake.output.images),
        Path(snakemake.output.labels),
        patients=snakemake.params.patients,
        first_patient=snakemake.params.first_patient,
        size=snakemake.params.size,
        seed=snakemake.params.seed,
    )
