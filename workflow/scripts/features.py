"""Features of the photographs of one part by one backbone."""

from pathlib import Path

from retinaflow.jobs import gpus
from retinaflow.jobs.logs import job_log
from retinaflow.networks.backend import choose

with job_log(snakemake.log[0]):
    gpus.claim(snakemake.resources.gpu, f"features {snakemake.wildcards.network} {snakemake.wildcards.split}")
    files, params, threads = snakemake.input, snakemake.params, snakemake.threads
    choose(params.settings["backend"])
    # Here, so that the log tells if the backend does not even load.
    from retinaflow.preprocessing.batches import Images
    from retinaflow.scoring.features import frozen_backbone, write_features

    shards = [(Path(pixels), Path(rows)) for pixels, rows in zip(files.pixels, files.rows, strict=True)]
    write_features(
        frozen_backbone(
            params.settings["backbone"],
            params.settings["image_size"],
            params.settings["feature_layers"],
            Path(files.weights[0]) if files.weights else None,
            params.seed,
            params.settings["cpu_threads"],
        ),
        Images([Path(files.index)], shards, params.classes),
        [Path(files.index)],
        params.settings["views"],
        params.settings["augment"],
        params.seed,
        threads,
        Path(snakemake.output.features),
        Path(snakemake.output.rows),
    )
