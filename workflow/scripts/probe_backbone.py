"""Grade by the features of one frozen backbone."""

from pathlib import Path

from threadpoolctl import threadpool_limits

from retinaflow.jobs.logs import job_log
from retinaflow.scoring.probe import probe_job
from retinaflow.scoring.ridge import THREADS

with job_log(snakemake.log[0]):
    files, settings, backbone = snakemake.input, snakemake.params.settings, snakemake.wildcards.network
    with threadpool_limits(THREADS):
        probe_job(
            backbone,
            "+".join(settings["feature_layers"]) or "last",
            [Path(index) for index in files.indices],
            [(Path(features), Path(rows)) for features, rows in zip(files.features, files.rows, strict=True)],
            snakemake.params.classes,
            snakemake.params.bootstrap,
            snakemake.params.seed,
            Path(snakemake.output[0]),
        )
