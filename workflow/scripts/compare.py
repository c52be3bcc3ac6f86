"""Rank all systems, and describe those that grade new photographs."""

from pathlib import Path

from retinaflow.jobs.logs import job_log
from retinaflow.scoring.compare import compare
from retinaflow.serving.bundle import write_graders

with job_log(snakemake.log[0]):
    compare(
        [Path(metrics) for metrics in snakemake.input.scores],
        [Path(table) for table in snakemake.input.predictions],
        snakemake.params.bootstrap,
        snakemake.params.seed,
        Path(snakemake.output.table),
        Path(snakemake.output.pairs),
        Path(snakemake.output.markdown),
        Path(snakemake.output.figure),
    )
    write_graders(
        Path(snakemake.output.graders),
        snakemake.params.graders,
        Path(snakemake.output.table),
        Path(snakemake.input.inventory),
    )
