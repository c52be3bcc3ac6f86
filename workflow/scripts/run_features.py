"""Compute the features of the images that a training run is scored on, by its trained network."""

from pathlib import Path

from retinaflow.jobs import gpus
from retinaflow.jobs.logs import job_log
from retinaflow.networks.backend import choose
from retinaflow.settings.augment import AugmentSettings

with job_log(snakemake.log[0]):
    gpus.claim(snakemake.resources.gpu, f"features {snakemake.wildcards.training_run}")
    choose(snakemake.params.backend)
    # The backend is imported here, so that the log has its errors.
    from retinaflow.preprocessing.batches import Images
    from retinaflow.scoring.features import FeatureViews, fine_tuned, write_features
    from retinaflow.scoring.score import load_model

    files, output, params = snakemake.input, snakemake.output, snakemake.params
    model = load_model(
        Path(files.model),
        params.grade_names,
        objective=params.objective,
        seed=params.seed,
        threads=params.cpu_threads,
    )
    network = fine_tuned(model)
    views = FeatureViews(params.views, AugmentSettings.model_validate(params.augment or {}), params.seed)
    for split in params.splits:
        write_features(
            network,
            Images.of(files, split, params.grade_names),
            indices=[Path(index) for index in files[f"{split}_indices"]],
            views=views,
            threads=snakemake.threads,
            features=Path(output[f"{split}_features"]),
            rows=Path(output[f"{split}_images"]),
        )
