"""Grade by the features of one frozen backbone."""

from pathlib import Path

from threadpoolctl import threadpool_limits

from retinaflow.logs import job_log
from retinaflow.probe import probe_job

with job_log(snakemake.log[0]):
    files, settings, backbone = snakemake.input, snakemake.params.settings, snakemake.wildcards.backbone
    # As networks do: in another number of threads, sums are rounded otherwise.
    with threadpool_limits(settings["cpu_threads"]):
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
