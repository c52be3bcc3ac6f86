"""Draw what photographs there are."""

from pathlib import Path

from retinaflow.jobs.logs import job_log
from retinaflow.reporting.report import illustrate_data

with job_log(snakemake.log[0]):
    files = snakemake.input
    illustrate_data(
        dict(zip(snakemake.params.parts, map(Path, files.indices), strict=True)),
        [(Path(pixels), Path(rows)) for pixels, rows in zip(files.pixels, files.rows, strict=True)],
        [Path(record) for record in files.records],
        snakemake.params.classes,
        Path(snakemake.output.grades),
        Path(snakemake.output.samples),
    )
