"""Write the card of a model."""

from pathlib import Path

from retinaflow.jobs.logs import job_log
from retinaflow.reporting.cards import model_card
from retinaflow.reporting.pages import page_of

with job_log(snakemake.log[0]):
    files, output, model = snakemake.input, snakemake.output, snakemake.wildcards.model
    model_card(
        model,
        [Path(metrics) for metrics in files.metrics],
        Path(files.decision_rule),
        [Path(record) for record in files.records],
        Path(output.card),
    )
    page_of(Path(output.card), Path(output.page), f"Model card: {model}")
