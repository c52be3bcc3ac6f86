"""Fetch a folder or a file from object storage."""

from pathlib import Path

from retinaflow import objects, weights
from retinaflow.errors import RetinaflowError
from retinaflow.logs import job_log

with job_log(snakemake.log[0]):
    url, target = snakemake.params.url, Path(snakemake.output[0])
    if limit := snakemake.params.get("limit"):
        objects.fetch_folder(objects.client(), url, target, limit * 2**30)
    else:
        objects.fetch_file(objects.client(), url, target)
        if snakemake.rule == "download_weights" and (fault := weights.fault(target)):
            raise RetinaflowError(f"{url}: {fault}. {weights.SET}")
