"""Make one shard: the preprocessed pixels of its photographs."""

import logging
from pathlib import Path

from retinaflow.files import digest_files
from retinaflow.logs import job_log
from retinaflow.preprocess import build_shard
from retinaflow.recipe import Recipe

with job_log(snakemake.log[0]):
    report = build_shard(
        Path(snakemake.input.index),
        int(snakemake.wildcards.shard),
        snakemake.params.shards,
        Recipe.parse(snakemake.wildcards.recipe),
        Path(snakemake.output.pixels),
        Path(snakemake.output.rows),
        digest_files(snakemake.input.code),
        snakemake.threads,
    )
    logging.info("%d photographs: %d decoded, %d reused", *report)
