"""Convert a frozen backbone to ONNX."""

import os
from pathlib import Path

from retinaflow.jobs.logs import job_log
from retinaflow.networks.backend import choose
from retinaflow.settings.features import BackboneFeatureSettings

with job_log(snakemake.log[0]):
    # This job claims no GPU.
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    choose("tensorflow")
    # Imported here, so that the log has the error of a backend that does not load.
    from retinaflow.scoring.features import frozen_backbone
    from retinaflow.serving.convert import convert_backbone

    settings = BackboneFeatureSettings.model_validate(snakemake.params.settings)
    files = snakemake.input.weights
    backbone = frozen_backbone(
        settings.backbone,
        settings.image_size,
        layers=settings.feature_layers,
        weights=Path(files[0]) if files else None,
        seed=snakemake.params.seed,
        threads=snakemake.threads,
        normalisation=settings.normalisation,
        pooling=settings.pooling,
        poolings=settings.poolings,
        root=settings.root,
    )
    convert_backbone(backbone, Path(snakemake.output.graph))
