"""Rank all models, and write the bundle of those that grade new images."""

from pathlib import Path

from retinaflow.jobs.logs import job_log
from retinaflow.scoring.compare import compare
from retinaflow.serving.bundle import write_bundle

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
    write_bundle(
        Path(snakemake.output.bundle),
        snakemake.params.bundle,
        Path(snakemake.output.table),
        Path(snakemake.input.inventory),
    )
