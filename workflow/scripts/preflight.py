"""Judge the photographs and labels of all data sets and list every problem."""

import shutil
from pathlib import Path

from retinaflow.data.preflight import preflight
from retinaflow.jobs.logs import job_log
from retinaflow.storage.files import whole_file

with job_log(snakemake.log[0]):
    tables = zip(map(Path, snakemake.input.inventories), map(Path, snakemake.input.problems), strict=True)
    preflight(
        dict(zip(snakemake.params.datasets, tables, strict=True)),
        snakemake.params.on_problem,
        snakemake.params.exclude_limit,
        Path(snakemake.log.table),
        Path(snakemake.log.summary),
    )
    for name in ("table", "summary"):
        with whole_file(snakemake.output[name]) as part:
            shutil.copyfile(snakemake.log[name], part)
