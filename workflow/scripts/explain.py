"""Show what the most confident answers of a run rest on."""

from pathlib import Path

from retinaflow import gpus
from retinaflow.backend import choose
from retinaflow.logs import job_log
from retinaflow.tables import stream_table

with job_log(snakemake.log[0]):
    gpus.claim(snakemake.resources.gpu, f"explain {snakemake.wildcards.run}")
    choose("tensorflow")
    # Here, so that the log tells if the backend does not even load.
    from retinaflow.explain import explain
    from retinaflow.score import load_model

    files, params, output = snakemake.input, snakemake.params, snakemake.output
    explain(
        snakemake.wildcards.run,
        load_model(Path(files.model), params.classes, params.seed, params.cpu_threads, params.objective),
        params.objective,
        Path(files.predictions),
        {row["filename"]: row["image"] for row in stream_table(files.outputs, ("filename", "image"))},
        [(Path(pixels), Path(rows)) for pixels, rows in zip(files.pixels, files.rows, strict=True)],
        params.classes,
        Path(output.figure),
        Path(output.table),
    )
