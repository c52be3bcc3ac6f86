"""Put together what all folds of a backbone say of what they held out, and average what they say of the test set."""

from pathlib import Path

from retinaflow.jobs.logs import job_log
from retinaflow.scoring.raw_outputs import average, pool

with job_log(snakemake.log[0]):
    objective, classes, kind = (snakemake.params[name] for name in ("objective", "classes", "kind"))
    folds = [Path(table) for table in snakemake.input.validation]
    pool(folds, objective, classes, Path(snakemake.output.validation), kind)
    if tables := snakemake.input.get("test"):
        average([(Path(table), objective) for table in tables], objective, classes, Path(snakemake.output.test), kind)
