"""Compute the raw outputs of a trained network on its validation split and the test set."""

from pathlib import Path

from retinaflow.data.frames import read_frame
from retinaflow.data.trained_on import require_unseen
from retinaflow.jobs import gpus
from retinaflow.jobs.logs import job_log
from retinaflow.jobs.score_cache import CACHE, OUTPUT_PARAMETERS, RAW_OUTPUTS, ScoreCache, ScoredFiles, parameters_of
from retinaflow.networks.backend import choose
from retinaflow.reporting.figures import learning_curves
from retinaflow.storage.documents import read_own

with job_log(snakemake.log[0]):
    files, output, params = snakemake.input, snakemake.output, snakemake.params
    for record in map(Path, files.earlier):
        tables = {split: list(map(Path, files[f"{split}_indices"])) for split in params.unseen}
        shared_patients = snakemake.config["data"]["shared_patients"]
        require_unseen(snakemake.wildcards.training_run, record, tables, shared_patients)
    parameters = parameters_of(params, OUTPUT_PARAMETERS)
    cache = ScoreCache(Path(snakemake.config["results"], CACHE), Path(files.model), parameters)
    scored = {split: ScoredFiles.of(files, split) for split in params.splits}
    # The job that trained the network has often scored it.
    missing = [split for split in scored if not cache.take(scored[split], {RAW_OUTPUTS: Path(output[split])})]
    if missing:
        gpus.claim(snakemake.resources.gpu, f"score {snakemake.wildcards.training_run}")
        choose(params.backend)
        # Imported here, so that the log has the error of a backend that cannot be imported.
        from retinaflow.preprocessing.batches import Images
        from retinaflow.scoring.score import load_model, score_images

        model = load_model(
            Path(files.model),
            params.grade_names,
            objective=params.objective,
            seed=params.seed,
            threads=params.cpu_threads,
        )
        for split in missing:
            key = cache.key(scored[split])
            table, images = Path(output[split]), Images.of(files, split, params.grade_names)
            score_images(
                model,
                images,
                table,
                objective=params.objective,
                tta_views=params.tta_views,
                threads=snakemake.threads,
            )
            cache.keep(key, scored[split], results={RAW_OUTPUTS: table}, rows=len(images))
    best_epoch = read_own(Path(files.record))["best_epoch"]
    history = read_frame(files.history).to_dict("records")
    learning_curves(Path(output.curves), history, best_epoch, snakemake.wildcards.training_run)
