"""Put together what all folds of a backbone say of what they held out, and average what they say of the test set."""

from pathlib import Path

from retinaflow.logs import job_log
from retinaflow.predictions import average, pool

with job_log(snakemake.log[0]):
    objective, classes = snakemake.params.objective, snakemake.params.classes
    pool([Path(table) for table in snakemake.input.validation], objective, classes, Path(snakemake.output.validation))
    if tables := snakemake.input.get("test"):
        average([(Path(table), objective) for table in tables], objective, classes, Path(snakemake.output.test))
