"""Fine-tune one network on the training split."""

import time
from pathlib import Path

from retinaflow.jobs import gpus
from retinaflow.jobs.code import one_digest
from retinaflow.jobs.logs import job_log
from retinaflow.networks.backend import choose
from retinaflow.settings.root import Configuration
from retinaflow.settings.train import TrainingSettings
from retinaflow.storage.file_cache import FileCache

start = time.monotonic()  # before the job waits for a GPU
with job_log(snakemake.log[0]):
    claimed = gpus.claim(snakemake.resources.gpu, f"train {snakemake.wildcards.training_run}")
    settings = TrainingSettings.model_validate(snakemake.params.settings)
    choose(settings.backend)
    # The backend is imported here, so that the log has its errors.
    from retinaflow.jobs.early_scores import EarlyScores
    from retinaflow.training import tracking
    from retinaflow.training.job import SplitFiles, TrainedFiles, TrainingJob, train_job

    run, config = snakemake.wildcards.training_run, Configuration.model_validate(snakemake.config)

    def files_of(split):
        files = snakemake.input
        shards = zip(files[f"{split}_pixels"], files[f"{split}_rows"], strict=True)
        indices = list(map(Path, files[f"{split}_indices"]))
        return SplitFiles(indices, [(Path(pixels), Path(rows)) for pixels, rows in shards])

    # No parameter: after a change of it, models that have enough memory need not be trained again.
    on_out_of_memory = config.models[snakemake.params.network].on_out_of_memory
    settings = settings.model_copy(update={"on_out_of_memory": on_out_of_memory})
    # No parameter either: another model that shares steps is no reason to train this one again.
    alike = [other for other in config.models.values() if settings.head_epochs and other.backbone == settings.backbone]
    job = TrainingJob(
        training_run=run,
        settings=settings,
        grade_names=snakemake.params.grade_names,
        seed=snakemake.params.seed,
        training=files_of("train"),
        validation=files_of("validation"),
        weights=Path(snakemake.input.weights[0]) if snakemake.input.weights else None,
        shared_patients=snakemake.params.shared_patients,
        code=one_digest(snakemake.params.code),
        workers=snakemake.threads,
        start=start,
        minutes=snakemake.resources.get("runtime"),
        outputs=TrainedFiles(
            model=Path(snakemake.output.model),
            history=Path(snakemake.output.history),
            grade_names=Path(snakemake.output.grade_names_file),
            record=Path(snakemake.output.record),
            trained_on=Path(snakemake.output.trained_on),
        ),
        checkpoints=Path(snakemake.params.checkpoints),
        trained=FileCache(Path(snakemake.params.trained)),
        shared=FileCache(Path(config.results, "checkpoints/.cache")) if len(alike) > 1 else None,
        gpus=list(map(str, claimed)),
        trackers=tracking.trackers(config.tracking, run, Path(config.results, "tensorboard", run)),
    )
    # Not part of the training: results of later stages, for which this process has loaded the backend.
    early_scores = EarlyScores(
        training_run=run,
        config=config,
        scripts=Path(snakemake.scriptdir),
        threads=snakemake.threads,
        end=job.deadline,
    )
    train_job(job)
    early_scores.compute()
