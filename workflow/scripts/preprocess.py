"""Make one shard: the preprocessed pixels of its photographs."""

import logging
from pathlib import Path

from retinaflow.jobs.code import one_digest
from retinaflow.jobs.logs import job_log
from retinaflow.preprocessing.preprocess import build_shard
from retinaflow.preprocessing.variant import Recipe

with job_log(snakemake.log[0]):
    report = build_shard(
        Path(snakemake.input.index),
        int(snakemake.wildcards.shard),
        snakemake.params.shards,
        Recipe.parse(snakemake.wildcards.variant),
        Path(snakemake.output.pixels),
        Path(snakemake.output.rows),
        one_digest(snakemake.params.code),
        snakemake.threads,
    )
    logging.info("%d photographs: %d decoded, %d reused", *report)
