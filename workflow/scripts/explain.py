"""Show what the most confident answers of a run rest on."""

from pathlib import Path

from retinaflow.jobs import gpus
from retinaflow.jobs.logs import job_log
from retinaflow.networks.backend import choose
from retinaflow.storage.tables import stream_table

with job_log(snakemake.log[0]):
    gpus.claim(snakemake.resources.gpu, f"explain {snakemake.wildcards.training_run}")
    choose("tensorflow")
    # Here, so that the log tells if the backend does not even load.
    from retinaflow.scoring.score import load_model
    from retinaflow.serving.explain import explain

    files, params, output = snakemake.input, snakemake.params, snakemake.output
    explain(
        snakemake.wildcards.training_run,
        load_model(Path(files.model), params.classes, params.seed, params.cpu_threads, params.objective),
        params.objective,
        Path(files.predictions),
        {row["filename"]: row["image"] for row in stream_table(files.outputs, ("filename", "image"))},
        [(Path(pixels), Path(rows)) for pixels, rows in zip(files.pixels, files.rows, strict=True)],
        params.classes,
        Path(output.figure),
        Path(output.table),
    )
