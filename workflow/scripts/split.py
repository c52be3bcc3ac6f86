"""Split the inventory of the training set by patient."""

from pathlib import Path

from retinaflow.logs import job_log
from retinaflow.split import write_split

with job_log(snakemake.log[0]):
    write_split(
        Path(snakemake.input.inventory),
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
