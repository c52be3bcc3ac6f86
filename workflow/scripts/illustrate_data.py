"""Draw the figures of the data."""

from pathlib import Path

from retinaflow.jobs.logs import job_log
from retinaflow.reporting.report import IllustrateDataJob, illustrate_data

with job_log(snakemake.log[0]):
    files = snakemake.input
    illustrate_data(
        IllustrateDataJob(
            indices=dict(zip(snakemake.params.splits, map(Path, files.indices), strict=True)),
            shards=[(Path(pixels), Path(rows)) for pixels, rows in zip(files.pixels, files.rows, strict=True)],
            records=[Path(record) for record in files.records],
            grade_names=snakemake.params.grade_names,
            grades=Path(snakemake.output.grades),
            samples=Path(snakemake.output.samples),
        )
    )
