"""Pool the raw outputs of the folds of a network on the images that each holds out, and average those on a test set."""

from pathlib import Path

from retinaflow.jobs.logs import job_log
from retinaflow.scoring.raw_outputs import average, pool

with job_log(snakemake.log[0]):
    output = snakemake.output
    options = {name: snakemake.params[name] for name in ("objective", "grade_count", "kind")}
    pool([Path(table) for table in snakemake.input.validation], Path(output.validation), **options)
    if tables := snakemake.input.get("test"):
        average([(Path(table), options["objective"]) for table in tables], Path(output.test), **options)
