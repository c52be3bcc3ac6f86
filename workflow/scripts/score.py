"""Compute the raw outputs of a trained network on its validation split and the test set."""

from pathlib import Path

from retinaflow.jobs import gpus
from retinaflow.jobs.logs import job_log
from retinaflow.networks.backend import choose

with job_log(snakemake.log[0]):
    gpus.claim(snakemake.resources.gpu, f"score {snakemake.wildcards.training_run}")
    choose(snakemake.params.backend)
    # Imported here, so that the log has the error of a backend that cannot be imported.
    from retinaflow.data.frames import read_frame
    from retinaflow.data.trained_on import require_unseen
    from retinaflow.preprocessing.batches import Images
    from retinaflow.reporting.figures import learning_curves
    from retinaflow.scoring.raw_outputs import RawOutputs, write_raw_outputs
    from retinaflow.scoring.score import load_model, predict_tta
    from retinaflow.storage.documents import read_own

    files, output, params = snakemake.input, snakemake.output, snakemake.params
    for record in map(Path, files.earlier):
        tables = {split: list(map(Path, files[f"{split}_indices"])) for split in params.unseen}
        shared_patients = snakemake.config["data"]["shared_patients"]
        require_unseen(snakemake.wildcards.training_run, record, tables, shared_patients)
    model = load_model(
        Path(files.model),
        params.grade_names,
        objective=params.objective,
        seed=params.seed,
        threads=params.cpu_threads,
    )
    for split in params.splits:
        images = Images.of(files, split, params.grade_names)
        outputs, no_tta = predict_tta(
            model, images, objective=params.objective, tta_views=params.tta_views, threads=snakemake.threads
        )
        raw_outputs = RawOutputs(images.names, images.filenames, images.patients, images.eyes, images.grades, outputs)
        write_raw_outputs(Path(output[split]), raw_outputs, no_tta)
    best_epoch = read_own(Path(files.record))["best_epoch"]
    history = read_frame(files.history).to_dict("records")
    learning_curves(Path(output.curves), history, best_epoch, snakemake.wildcards.training_run)
