"""Build one shard: the preprocessed pixels of its images."""

import logging
from pathlib import Path

from retinaflow.jobs.code import one_digest
from retinaflow.jobs.logs import job_log
from retinaflow.preprocessing.preprocess import ShardJob, build_shard
from retinaflow.preprocessing.variant import Variant

with job_log(snakemake.log[0]):
    report = build_shard(
        ShardJob(
            index=Path(snakemake.input.index),
            number=int(snakemake.wildcards.shard),
            shards=snakemake.params.shards,
            variant=Variant.parse(snakemake.wildcards.variant),
            pixels=Path(snakemake.output.pixels),
            rows=Path(snakemake.output.rows),
            code=one_digest(snakemake.params.code),
            threads=snakemake.threads,
        )
    )
    logging.info("%d images: %d decoded, %d reused", *report)
