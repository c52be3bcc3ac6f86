"""Fetch the ImageNet weights of one backbone."""

from pathlib import Path

from retinaflow.jobs.logs import job_log
from retinaflow.networks.backend import choose
from retinaflow.networks.weights import fetch

with job_log(snakemake.log[0]):
    name, config = snakemake.wildcards.network, snakemake.config
    # The backbone of a linear model has the settings that all networks share.
    settings = config["models"].get(name, {"backbone": name, "backend": config["train"]["backend"]})
    choose(settings["backend"])
    fetch(settings["backbone"], Path(snakemake.output[0]))
