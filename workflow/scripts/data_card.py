"""Write the card of the photographs and labels."""

from pathlib import Path

from retinaflow.jobs.logs import job_log
from retinaflow.reporting.cards import data_card
from retinaflow.reporting.report import page_of

with job_log(snakemake.log[0]):
    files, params, output = snakemake.input, snakemake.params, snakemake.output
    data_card(
        dict(zip(params.datasets, map(Path, files.inventories), strict=True)),
        dict(zip(params.datasets, map(Path, files.problems), strict=True)),
        dict(zip(params.parts, map(Path, files.indices), strict=True)),
        params.classes,
        Path(output.card),
    )
    page_of(Path(output.card), Path(output.page), "Data card")
