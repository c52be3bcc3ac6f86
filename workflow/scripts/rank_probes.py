"""Rank the backbones by the kappa of a linear model on their features."""

import logging
from pathlib import Path

from retinaflow.jobs.logs import job_log
from retinaflow.scoring.probe import rank

with job_log(snakemake.log[0]):
    probes = [Path(probe) for probe in snakemake.input.probes]
    logging.info("%s", rank(probes, Path(snakemake.output.table), Path(snakemake.output.markdown)))
