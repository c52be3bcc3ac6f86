"""Fit the decision rule of a model, grade its splits, and draw their confusion matrices."""

from pathlib import Path

from retinaflow.evaluation.grades import GradeScale
from retinaflow.jobs.logs import job_log
from retinaflow.reporting.figures import confusion_matrix_figure
from retinaflow.scoring.local_patients import local_patients
from retinaflow.scoring.predictions import GradingJob, grade_model

with job_log(snakemake.log[0]):
    splits, output, params = snakemake.params.splits, snakemake.output, snakemake.params
    inventories = dict(zip(params.data_sets, map(Path, snakemake.input.inventories), strict=True))
    job = GradingJob(
        model=snakemake.wildcards.model,
        objective=params.objective,
        raw_outputs={split: Path(table) for split, table in zip(splits, snakemake.input.raw_outputs, strict=True)},
        inventories=list(inventories.values()),
        grade_names=params.grade_names,
        referable_grade=params.referable_grade,
        referable_sensitivity=params.referable_sensitivity,
        bootstrap_samples=params.bootstrap_samples,
        seed=params.seed,
        decision_rule=Path(output.decision_rule),
        predictions={split: Path(output[f"{split}_predictions"]) for split in splits},
        metrics={split: Path(output[f"{split}_metrics"]) for split in splits},
        kind=params.kind,
        folds=[Path(table) for table in snakemake.input.folds],
        local=local_patients(inventories, params.recalibration, params.seed),
        data_sets=params.joined_sets,
        scales={split: GradeScale(**scale) for split, scale in params.scales.items()},
    )
    for split, matrix in grade_model(job).items():
        title = f"{job.model} on {split}"
        confusion_matrix_figure(Path(output[f"{split}_figure"]), matrix, job.names_of(split), title)
