"""Grade new images."""

from pathlib import Path

from retinaflow.data.sources import PREDICTED
from retinaflow.jobs.logs import job_log
from retinaflow.serving.bundle import first_ranked, read_bundle
from retinaflow.serving.predict import AnswerTables, PredictJob, predict
from retinaflow.serving.runtime import load_bundled_model

with job_log(snakemake.log[0]):
    params, output = snakemake.params, snakemake.output
    folder = first_ranked([Path(folder) for folder in snakemake.input.bundles], Path(snakemake.input.comparison))
    predict(
        PredictJob(
            source=params.source,
            loaded=load_bundled_model(read_bundle(folder), snakemake.threads, images=PREDICTED),
            max_bytes=params.limit * 2**30,
            threads=snakemake.threads,
            tables=AnswerTables(*(Path(output[name]) for name in AnswerTables._fields)),
        )
    )
