"""Features of a trained model, of its validation part and of the test set."""

from pathlib import Path

from retinaflow.jobs import gpus
from retinaflow.jobs.logs import job_log
from retinaflow.networks.backend import choose

with job_log(snakemake.log[0]):
    gpus.claim(snakemake.resources.gpu, f"features {snakemake.wildcards.training_run}")
    choose(snakemake.params.backend)
    # Here, so that the log tells if the backend does not even load.
    from retinaflow.preprocessing.batches import Images
    from retinaflow.scoring.features import fine_tuned, write_features
    from retinaflow.scoring.score import load_model

    files, output, params = snakemake.input, snakemake.output, snakemake.params
    model = load_model(Path(files.model), params.classes, params.seed, params.cpu_threads, params.objective)
    network = fine_tuned(model)
    for part in params.parts:
        write_features(
            network,
            Images.of(files, part, params.classes),
            [Path(index) for index in files[f"{part}_indices"]],
            params.views,
            params.augment,
            params.seed,
            snakemake.threads,
            Path(output[f"{part}_features"]),
            Path(output[f"{part}_images"]),
        )
