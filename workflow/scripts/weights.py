"""Fetch the ImageNet weights of one backbone."""

from pathlib import Path

from retinaflow.jobs.logs import job_log
from retinaflow.networks.backend import choose
from retinaflow.networks.weights import fetch

with job_log(snakemake.log[0]):
    choose(snakemake.config["backbones"][snakemake.wildcards.network]["backend"])
    fetch(snakemake.wildcards.network, Path(snakemake.output[0]))
