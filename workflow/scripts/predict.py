"""Grade new photographs."""

from pathlib import Path

from retinaflow.jobs import gpus
from retinaflow.jobs.logs import job_log
from retinaflow.networks.backend import choose
from retinaflow.serving.bundle import read_graders

with job_log(snakemake.log[0]):
    graders = read_graders(snakemake.input.graders)
    system = snakemake.params.system or graders.best
    gpus.claim(snakemake.resources.gpu, f"predict by {system}")
    choose(graders.named(system).backbones[0].backend)
    # Here, so that the log tells if the backend does not even load.
    from retinaflow.serving.predict import predict

    predict(
        snakemake.params.source,
        graders,
        system,
        snakemake.params.limit * 2**30,
        snakemake.threads,
        Path(snakemake.output.predictions),
        Path(snakemake.output.problems),
    )
