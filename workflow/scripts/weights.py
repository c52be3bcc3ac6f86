"""Fetch the ImageNet weights of one backbone."""

from pathlib import Path

from retinaflow.jobs.logs import job_log
from retinaflow.networks.backend import choose
from retinaflow.networks.weights import fetch

with job_log(snakemake.log[0]):
    choose(snakemake.config["backbones"][snakemake.wildcards.backbone]["backend"])
    fetch(snakemake.wildcards.backbone, Path(snakemake.output[0]))
