"""Grade new images."""

from pathlib import Path

from retinaflow.jobs import gpus
from retinaflow.jobs.logs import job_log
from retinaflow.networks.backend import choose
from retinaflow.serving.bundle import read_bundle

with job_log(snakemake.log[0]):
    bundle = read_bundle(snakemake.input.bundle)
    model = snakemake.params.model or bundle.best
    gpus.claim(snakemake.resources.gpu, f"predict by {model}")
    choose(bundle.model(model).networks[0].backend)
    # Imported here, so that the log has the error of a backend that does not load.
    from retinaflow.serving.predict import PredictJob, predict

    predict(
        PredictJob(
            source=snakemake.params.source,
            bundle=bundle,
            model=model,
            max_bytes=snakemake.params.limit * 2**30,
            threads=snakemake.threads,
            predictions=Path(snakemake.output.predictions),
            patients=Path(snakemake.output.patients),
            problems=Path(snakemake.output.problems),
        )
    )
