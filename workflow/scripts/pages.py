"""Write the pages of the report."""

from pathlib import Path

from retinaflow.jobs.logs import job_log
from retinaflow.reporting.pages import page_of
from retinaflow.reporting.report import provenance

with job_log(snakemake.log[0]):
    files, output = snakemake.input, snakemake.output
    page_of(Path(files.comparison), Path(output.comparison), "Comparison")
    page_of(Path(files.problems), Path(output.problems), "Images and labels")
    provenance(snakemake.params.changed, [Path(record) for record in files.records], Path(output.provenance))
