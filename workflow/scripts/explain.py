"""Draw heat maps for the most probable predictions of a training run."""

from pathlib import Path

from retinaflow.data.frames import read_frame
from retinaflow.jobs import gpus
from retinaflow.jobs.logs import job_log
from retinaflow.networks.backend import choose

with job_log(snakemake.log[0]):
    gpus.claim(snakemake.resources.gpu, f"explain {snakemake.wildcards.training_run}")
    choose("tensorflow")
    # Imported here, so that the log has the error of a backend that does not load.
    from retinaflow.scoring.score import load_model
    from retinaflow.serving.explain import ExplainJob, explain

    files, params, output = snakemake.input, snakemake.params, snakemake.output
    outputs = read_frame(files.outputs, ("filename", "image"))
    explain(
        ExplainJob(
            training_run=snakemake.wildcards.training_run,
            model=load_model(
                Path(files.model),
                params.grade_names,
                objective=params.objective,
                seed=params.seed,
                threads=params.cpu_threads,
            ),
            objective=params.objective,
            predictions=Path(files.predictions),
            images=dict(zip(outputs["filename"], outputs["image"], strict=True)),
            shards=[(Path(pixels), Path(rows)) for pixels, rows in zip(files.pixels, files.rows, strict=True)],
            grade_names=params.grade_names,
            figure=Path(output.figure),
            table=Path(output.table),
        )
    )
