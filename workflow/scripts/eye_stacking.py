"""Grade by what the networks of a backbone make of both eyes."""

from pathlib import Path

from threadpoolctl import threadpool_limits

from retinaflow.jobs.logs import job_log
from retinaflow.scoring.eye_stacking import fuse
from retinaflow.scoring.ridge import THREADS

with job_log(snakemake.log[0]):
    files, params = snakemake.input, snakemake.params
    with threadpool_limits(THREADS):
        fuse(
            {
                part: [
                    (Path(outputs), Path(features), Path(images))
                    for outputs, features, images in zip(
                        *(files[f"{part}_{kind}"] for kind in ("outputs", "features", "images")), strict=True
                    )
                ]
                for part in params.parts
            },
            params.objective,
            params.classes,
            params.seed,
            {part: Path(snakemake.output[part]) for part in params.parts},
        )
