"""Fetch the ImageNet weights of one backbone."""

from pathlib import Path

from retinaflow.jobs.logs import job_log
from retinaflow.networks.backend import choose
from retinaflow.networks.weights import fetch

with job_log(snakemake.log[0]):
    settings = snakemake.config["models"][snakemake.wildcards.network]
    choose(settings["backend"])
    fetch(settings["backbone"], Path(snakemake.output[0]))
