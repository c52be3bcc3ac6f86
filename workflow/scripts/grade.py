"""Fit what turns the outputs of a system into answers, and grade its parts."""

from pathlib import Path

from retinaflow.jobs.logs import job_log
from retinaflow.scoring.predictions import grade_system

with job_log(snakemake.log[0]):
    parts, output = snakemake.params.parts, snakemake.output
    grade_system(
        snakemake.wildcards.model,
        snakemake.params.objective,
        {part: Path(table) for part, table in zip(parts, snakemake.input.outputs, strict=True)},
        [Path(table) for table in snakemake.input.inventories],
        snakemake.params.classes,
        snakemake.params.referable_grade,
        snakemake.params.referable_sensitivity,
        snakemake.params.bootstrap,
        snakemake.params.seed,
        Path(output.decision),
        {
            part: tuple(Path(output[f"{part}_{name}"]) for name in ("predictions", "metrics", "figure"))
            for part in parts
        },
        snakemake.params.kind,
    )
