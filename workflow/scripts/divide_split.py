"""Divide both sides of the split by data set."""

from pathlib import Path

from retinaflow.data.divide_split import divide_split
from retinaflow.jobs.logs import job_log

with job_log(snakemake.log[0]):
    files, output = snakemake.input, snakemake.output
    (train,), (validation,) = files.train, files.validation
    tables = zip(map(Path, output.train), map(Path, output.validation), strict=True)
    divide_split(
        {"train": Path(train), "validation": Path(validation)},
        {
            name: {"train": of_train, "validation": of_validation}
            for name, (of_train, of_validation) in zip(snakemake.params.data_sets, tables, strict=True)
        },
        snakemake.params.grade_names,
    )
