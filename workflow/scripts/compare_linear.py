"""Rank the linear models in a first table, while networks train."""

from pathlib import Path

from retinaflow.jobs.logs import job_log
from retinaflow.scoring.compare import ComparisonFiles, compare

with job_log(snakemake.log[0]):
    compare(
        [Path(file) for file in snakemake.input.scores],
        [Path(table) for table in snakemake.input.predictions],
        bootstrap_samples=snakemake.params.bootstrap_samples,
        seed=snakemake.params.seed,
        files=ComparisonFiles(
            table=Path(snakemake.output.table),
            pairs=None,
            repeats=None,
            data_sets=None,
            markdown=Path(snakemake.output.markdown),
        ),
    )
