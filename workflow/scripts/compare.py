"""Rank all models, draw the comparison, and describe the models that grade new images."""

from pathlib import Path

from retinaflow.jobs.logs import job_log
from retinaflow.reporting.figures import comparison_figure
from retinaflow.scoring.compare import compare
from retinaflow.serving.bundle import write_bundle

with job_log(snakemake.log[0]):
    comparison = compare(
        [Path(file) for file in snakemake.input.scores],
        [Path(table) for table in snakemake.input.predictions],
        bootstrap_samples=snakemake.params.bootstrap_samples,
        seed=snakemake.params.seed,
        table=Path(snakemake.output.table),
        pairs=Path(snakemake.output.pairs),
        markdown=Path(snakemake.output.markdown),
    )
    comparison_figure(Path(snakemake.output.figure), comparison.ranked)
    write_bundle(
        Path(snakemake.output.bundle),
        snakemake.params.bundle,
        Path(snakemake.output.table),
        Path(snakemake.input.inventory),
    )
