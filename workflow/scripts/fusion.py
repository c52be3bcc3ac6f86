"""Grade by what the networks of a backbone make of both eyes."""

from pathlib import Path

from threadpoolctl import threadpool_limits

from retinaflow.fusion import fuse
from retinaflow.logs import job_log
from retinaflow.ridge import THREADS

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
