"""Compute the features of the images of one split by one backbone."""

from pathlib import Path

from retinaflow.jobs import gpus
from retinaflow.jobs.logs import job_log
from retinaflow.networks.backend import choose
from retinaflow.settings.augment import AugmentSettings
from retinaflow.settings.features import BackboneFeatureSettings

with job_log(snakemake.log[0]):
    gpus.claim(snakemake.resources.gpu, f"features {snakemake.wildcards.network} {snakemake.wildcards.split}")
    files, params = snakemake.input, snakemake.params
    settings = BackboneFeatureSettings.model_validate(params.settings)
    choose(settings.backend)
    # The backend is imported here, so that the log has its errors.
    from retinaflow.preprocessing.batches import Images
    from retinaflow.scoring.features import FeatureViews, frozen_backbone, write_features

    network = frozen_backbone(
        settings.backbone,
        settings.image_size,
        layers=settings.feature_layers,
        weights=Path(files.weights[0]) if files.weights else None,
        seed=params.seed,
        threads=settings.cpu_threads,
        normalisation=settings.normalisation,
        pooling=settings.pooling,
        poolings=settings.poolings,
        root=settings.root,
    )
    shards = [(Path(pixels), Path(rows)) for pixels, rows in zip(files.pixels, files.rows, strict=True)]
    write_features(
        network,
        Images([Path(files.index)], shards, params.grade_names),
        indices=[Path(files.index)],
        views=FeatureViews(settings.views, settings.augment or AugmentSettings(), params.seed),
        threads=snakemake.threads,
        features=Path(snakemake.output.features),
        rows=Path(snakemake.output.rows),
    )
