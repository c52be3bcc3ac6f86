"""Join the photographs of a data set with its labels and list what is wrong."""

from importlib.metadata import version
from pathlib import Path

from retinaflow.data.inventory import take_inventory
from retinaflow.data.labels import read_labels
from retinaflow.jobs.code import one_digest
from retinaflow.jobs.logs import job_log

DECODERS = ("pillow", "simplejpeg", "opencv-python-headless")

with job_log(snakemake.log[0]):
    data = snakemake.params.data
    take_inventory(
        snakemake.wildcards.data_set,
        [Path(folder) for folder in snakemake.params.folders],
        read_labels(snakemake.params.labels, data["image_column"], data["grade_column"]),
        data["grade_names"],
        data["patient_pattern"],
        snakemake.params.exclude,
        data["pixel_limit"],
        Path(*snakemake.input.train) if snakemake.input.train else None,
        Path(snakemake.output.inventory),
        Path(snakemake.output.problems),
        # Snakemake deletes outputs before the job; this one outlives it.
        Path(snakemake.output.inventory).parent / ".cache" / f"{snakemake.wildcards.data_set}.json",
        " ".join([one_digest(snakemake.params.code), *map(version, DECODERS)]),
        snakemake.threads,
    )
