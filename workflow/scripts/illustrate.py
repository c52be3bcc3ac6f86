"""Draw the figures of a model on a split."""

from pathlib import Path

from retinaflow.evaluation.grades import GradeScale
from retinaflow.jobs.logs import job_log
from retinaflow.reporting.report import IllustrateJob, illustrate

with job_log(snakemake.log[0]):
    files, wildcards, params = snakemake.input, snakemake.wildcards, snakemake.params
    illustrate(
        IllustrateJob(
            title=f"{wildcards.model} on {wildcards.split}",
            predictions=Path(files.predictions),
            metrics=Path(files.metrics),
            raw_outputs=Path(files.outputs),
            decision_rule=Path(files.decision_rule),
            kind=params.kind,
            objective=params.objective,
            shards=[(Path(pixels), Path(rows)) for pixels, rows in zip(files.pixels, files.rows, strict=True)],
            grade_names=params.grade_names,
            referable_grade=params.referable_grade,
            scale=GradeScale(**params.scale) if params.scale else None,
            figures={name: Path(figure) for name, figure in snakemake.output.items()},
        )
    )
