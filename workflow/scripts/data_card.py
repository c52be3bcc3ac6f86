"""Write the card of the images and grades."""

from pathlib import Path

from retinaflow.jobs.logs import job_log
from retinaflow.reporting.cards import data_card
from retinaflow.reporting.pages import page_of

with job_log(snakemake.log[0]):
    files, params, output = snakemake.input, snakemake.params, snakemake.output
    data_card(
        dict(zip(params.data_sets, map(Path, files.inventories), strict=True)),
        dict(zip(params.data_sets, map(Path, files.problems), strict=True)),
        indices=dict(zip(params.splits, map(Path, files.indices), strict=True)),
        grade_names=params.grade_names,
        card=Path(output.card),
    )
    page_of(Path(output.card), Path(output.page), "Data card")
