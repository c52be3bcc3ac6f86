"""Unpack one archive of images."""

from pathlib import Path

from retinaflow.jobs.logs import job_log
from retinaflow.storage.archives import unpack

with job_log(snakemake.log[0]):
    unpack(snakemake.params.source, Path(snakemake.output.folder), snakemake.params.limit * 2**30)
