"""Probe the features of one frozen backbone."""

from pathlib import Path

from threadpoolctl import threadpool_limits

from retinaflow.jobs.logs import job_log
from retinaflow.scoring.probe import ProbeJob, probe_job
from retinaflow.scoring.ridge import THREADS
from retinaflow.settings.features import BackboneFeatureSettings

with job_log(snakemake.log[0]):
    files, params = snakemake.input, snakemake.params
    settings = BackboneFeatureSettings.model_validate(params.settings)
    with threadpool_limits(THREADS):
        probe_job(
            ProbeJob(
                network=snakemake.wildcards.network,
                layer="+".join(settings.feature_layers) or "last",
                indices=[Path(index) for index in files.indices],
                features=[(Path(array), Path(rows)) for array, rows in zip(files.features, files.rows, strict=True)],
                grade_names=params.grade_names,
                bootstrap_samples=params.bootstrap_samples,
                seed=params.seed,
                output=Path(snakemake.output[0]),
            )
        )
