"""Join the photographs of a data set with its labels and list what is wrong."""

import shutil
from importlib.metadata import version
from pathlib import Path

from retinaflow.files import digest_files, whole_file
from retinaflow.inventory import take_inventory
from retinaflow.labels import read_labels
from retinaflow.logs import job_log

with job_log(snakemake.log[0]):
    data = snakemake.params.data
    take_inventory(
        snakemake.wildcards.dataset,
        [Path(folder) for folder in snakemake.params.folders],
        read_labels(snakemake.params.labels, data["image_column"], data["level_column"]),
        data["classes"],
        data["patient"],
        data["on_problem"],
        snakemake.params.exclude,
        data["exclude_limit"],
        Path(snakemake.output.inventory),
        Path(snakemake.log.problems),
        # Snakemake deletes outputs before the job; this one outlives it.
        Path(snakemake.output.inventory).parent / ".kept" / f"{snakemake.wildcards.dataset}.json",
        f"{digest_files(snakemake.input.code)} {version('pillow')}",
        snakemake.threads,
    )
    with whole_file(snakemake.output.problems) as part:
        shutil.copyfile(snakemake.log.problems, part)
