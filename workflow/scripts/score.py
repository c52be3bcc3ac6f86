"""Score one model on its validation part and on the test set."""

import json
from pathlib import Path

from retinaflow import gpus
from retinaflow.backend import choose
from retinaflow.logs import job_log
from retinaflow.tables import read_table

with job_log(snakemake.log[0]):
    gpus.claim(snakemake.resources.gpu, f"score {snakemake.wildcards.run}")
    choose(snakemake.params.backend)
    # Here, so that the log tells if the backend does not even load.
    from retinaflow.figures import learning_curves
    from retinaflow.loader import Photographs
    from retinaflow.predictions import write_scores
    from retinaflow.score import load_model, predict

    run, classes, threads = snakemake.wildcards.run, snakemake.params.classes, snakemake.threads
    files, output = snakemake.input, snakemake.output
    model = load_model(Path(files.model), classes, snakemake.params.seed, snakemake.params.cpu_threads)
    for part in snakemake.params.parts:
        shards = zip(files[f"{part}_pixels"], files[f"{part}_rows"], strict=True)
        photographs = Photographs(
            [Path(index) for index in files[f"{part}_indices"]],
            [(Path(pixels), Path(rows)) for pixels, rows in shards],
            classes,
        )
        probabilities, _ = predict(model, photographs, threads, snakemake.params.views)
        write_scores(
            run,
            snakemake.params.backbone,
            part,
            photographs.filenames,
            photographs.levels,
            probabilities,
            classes,
            snakemake.params.referable_level,
            Path(output[f"{part}_predictions"]),
            Path(output[f"{part}_metrics"]),
            Path(output[f"{part}_figure"]),
        )
    kept = json.loads(Path(files.record).read_text(encoding="utf-8"))["best_epoch"]
    learning_curves(Path(output.curves), read_table(files.history), kept, run)
