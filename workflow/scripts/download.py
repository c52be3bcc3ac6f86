"""Fetch a folder or a file from object storage."""

from pathlib import Path

from retinaflow import objects
from retinaflow.logs import job_log

with job_log(snakemake.log[0]):
    url, target = snakemake.params.url, Path(snakemake.output[0])
    if "limit" in snakemake.params.keys():
        objects.fetch_folder(objects.client(), url, target, snakemake.params.limit * 2**30)
    else:
        objects.fetch_file(objects.client(), url, target)
