"""Split the inventory of the training set by patient."""

from pathlib import Path

from retinaflow.data.problem_policy import require_fit
from retinaflow.data.split import write_split
from retinaflow.jobs.logs import job_log

with job_log(snakemake.log[0]):
    inventory, data = Path(snakemake.input.inventory), snakemake.config["data"]
    require_fit("train", inventory, Path(snakemake.input.problems), data["on_problem"], data["exclude_limit"])
    write_split(
        inventory,
        snakemake.params.classes,
        snakemake.params.validation,
        snakemake.params.folds,
        snakemake.params.unit,
        snakemake.params.seed,
        [
            (Path(train), Path(validation))
            for train, validation in zip(snakemake.output.train, snakemake.output.validation, strict=True)
        ],
    )
