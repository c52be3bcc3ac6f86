"""Unpack one archive of photographs."""

from pathlib import Path

from retinaflow.archives import unpack
from retinaflow.logs import job_log

with job_log(snakemake.log[0]):
    unpack(snakemake.params.source, Path(snakemake.output.folder), snakemake.params.limit * 2**30)
