"""Pool the raw outputs of the folds of a network on the images that each holds out, and average those on test sets."""

from pathlib import Path

from retinaflow.jobs.logs import job_log
from retinaflow.scoring.raw_outputs import average, pool

with job_log(snakemake.log[0]):
    output = snakemake.output
    options = {name: snakemake.params[name] for name in ("objective", "grade_count", "kind")}
    pool([Path(table) for table in snakemake.input.validation], Path(output.validation), **options)
    for split in snakemake.params.tests:
        tables = [(Path(table), options["objective"]) for table in snakemake.input[split]]
        average(tables, Path(output[split]), **options)
