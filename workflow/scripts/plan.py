"""Estimate images, disk, GPU memory and hours of a run."""

import logging

from retinaflow.config.loading import load
from retinaflow.jobs.logs import job_log
from retinaflow.jobs.plan import plan

with job_log(snakemake.log[0]):
    text = plan(load(snakemake.config), snakemake.params.images)
    logging.info("estimate for this configuration:\n\n%s", text, extra={"screen": True})
