"""Fetch a folder or a file from object storage."""

from pathlib import Path

from retinaflow.errors import RetinaflowError
from retinaflow.jobs.logs import job_log
from retinaflow.networks import weights
from retinaflow.storage import object_storage

with job_log(snakemake.log[0]):
    url, target = snakemake.params.url, Path(snakemake.output[0])
    if limit := snakemake.params.get("limit"):
        object_storage.fetch_folder(object_storage.client(), url, target=target, max_bytes=limit * 2**30)
    else:
        object_storage.fetch_file(object_storage.client(), url, target)
        if snakemake.rule == "download_weights" and (fault := weights.weights_fault(target)):
            raise RetinaflowError(f"{url}: {fault}. {weights.SET}")
