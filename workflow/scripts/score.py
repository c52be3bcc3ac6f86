"""What one model says of its validation part and of the test set."""

import json
from pathlib import Path

from retinaflow.jobs import gpus
from retinaflow.jobs.logs import job_log
from retinaflow.networks.backend import choose
from retinaflow.storage.tables import read_table

with job_log(snakemake.log[0]):
    gpus.claim(snakemake.resources.gpu, f"score {snakemake.wildcards.training_run}")
    choose(snakemake.params.backend)
    # Here, so that the log tells if the backend does not even load.
    from retinaflow.preprocessing.batches import Images
    from retinaflow.reporting.figures import learning_curves
    from retinaflow.scoring.raw_outputs import Outputs, write_outputs
    from retinaflow.scoring.score import load_model, predict_views

    run, classes, objective = snakemake.wildcards.training_run, snakemake.params.classes, snakemake.params.objective
    files, output = snakemake.input, snakemake.output
    model = load_model(Path(files.model), classes, snakemake.params.seed, snakemake.params.cpu_threads, objective)
    for part in snakemake.params.parts:
        photographs = Images.of(files, part, classes)
        names = photographs.names, photographs.filenames, photographs.patients, photographs.eyes
        said, single = predict_views(model, photographs, snakemake.threads, objective, snakemake.params.views)
        write_outputs(Path(output[part]), Outputs(*names, photographs.grades, said), single)
    kept = json.loads(Path(files.record).read_text(encoding="utf-8"))["best_epoch"]
    learning_curves(Path(output.curves), read_table(files.history), kept, run)
