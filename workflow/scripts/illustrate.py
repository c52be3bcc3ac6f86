"""Draw how a system does on a part."""

from pathlib import Path

from retinaflow.jobs.logs import job_log
from retinaflow.reporting.report import illustrate

with job_log(snakemake.log[0]):
    files, wildcards = snakemake.input, snakemake.wildcards
    illustrate(
        f"{wildcards.model} on {wildcards.split}",
        Path(files.predictions),
        Path(files.metrics),
        Path(files.outputs),
        [(Path(pixels), Path(rows)) for pixels, rows in zip(files.pixels, files.rows, strict=True)],
        snakemake.params.objective,
        snakemake.params.kind,
        snakemake.params.classes,
        snakemake.params.referable_grade,
        {name: Path(figure) for name, figure in snakemake.output.items()},
    )
