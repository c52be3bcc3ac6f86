"""Join the scores of all models on the data sets that were left out of their trainings."""

from pathlib import Path

from retinaflow.jobs.logs import job_log
from retinaflow.scoring.leave_out import compare_left_out

with job_log(snakemake.log[0]):
    params = snakemake.params
    scored = {
        name: (
            [Path(snakemake.input.scores[i]) for i in places],
            [Path(snakemake.input.predictions[i]) for i in places],
        )
        for name, places in params.left_out.items()
    }
    compare_left_out(
        scored,
        bootstrap_samples=params.bootstrap_samples,
        seed=params.seed,
        repeats=params.repeats,
        table=Path(snakemake.output.table),
        markdown=Path(snakemake.output.markdown),
    )
