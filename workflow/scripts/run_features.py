"""Compute the features of the images that a training run is scored on, by its trained network."""

from pathlib import Path

from retinaflow.jobs import gpus
from retinaflow.jobs.logs import job_log
from retinaflow.jobs.score_cache import (
    CACHE,
    FEATURE_PARAMETERS,
    FEATURE_ROWS,
    FEATURE_VALUES,
    ScoreCache,
    ScoredFiles,
    parameters_of,
)
from retinaflow.networks.backend import choose
from retinaflow.settings.augment import AugmentSettings

with job_log(snakemake.log[0]):
    files, output, params = snakemake.input, snakemake.output, snakemake.params
    parameters = parameters_of(params, FEATURE_PARAMETERS)
    cache = ScoreCache(Path(snakemake.config["results"], CACHE), Path(files.model), parameters)
    targets = {
        split: {FEATURE_VALUES: Path(output[f"{split}_features"]), FEATURE_ROWS: Path(output[f"{split}_images"])}
        for split in params.splits
    }
    # The job that trained the network has often computed them. They are large, so no copy of them stays.
    missing = [split for split in targets if not cache.take(ScoredFiles.of(files, split), targets[split], move=True)]
    if missing:
        gpus.claim(snakemake.resources.gpu, f"features {snakemake.wildcards.training_run}")
        choose(params.backend)
        # The backend is imported here, so that the log has its errors.
        from retinaflow.preprocessing.batches import Images
        from retinaflow.scoring.features import FeatureViews, fine_tuned, write_features
        from retinaflow.scoring.score import load_model

        model = load_model(
            Path(files.model),
            params.grade_names,
            objective=params.objective,
            seed=params.seed,
            threads=params.cpu_threads,
        )
        network = fine_tuned(model)
        views = FeatureViews(params.views, AugmentSettings.model_validate(params.augment or {}), params.seed)
        for split in missing:
            write_features(
                network,
                Images.of(files, split, params.grade_names),
                indices=[Path(index) for index in files[f"{split}_indices"]],
                views=views,
                threads=snakemake.threads,
                features=targets[split][FEATURE_VALUES],
                rows=targets[split][FEATURE_ROWS],
            )
