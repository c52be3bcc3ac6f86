"""Rank all models and draw the comparison."""

from itertools import chain
from pathlib import Path

from retinaflow.jobs.logs import job_log
from retinaflow.reporting.figures import comparison_figure
from retinaflow.reporting.report import draw_model_curves
from retinaflow.scoring.by_data_set import HeldOutFiles, JoinedSets
from retinaflow.scoring.compare import ComparisonFiles, compare, kept_phases

with job_log(snakemake.log[0]):
    runs = chain.from_iterable(snakemake.params.runs.values())
    records = dict(zip(runs, map(Path, snakemake.input.records), strict=True))
    held_out = zip(snakemake.input.raw_outputs, snakemake.input.decision_rules, strict=True)
    joined = JoinedSets(
        snakemake.params.data_sets,
        {
            model: HeldOutFiles(Path(raw_outputs), Path(rule), kind)
            for (model, kind), (raw_outputs, rule) in zip(snakemake.params.by_data_set.items(), held_out, strict=True)
        },
        [Path(table) for table in snakemake.input.folds],
    )
    comparison = compare(
        [Path(file) for file in snakemake.input.scores],
        [Path(table) for table in snakemake.input.predictions],
        bootstrap_samples=snakemake.params.bootstrap_samples,
        seed=snakemake.params.seed,
        files=ComparisonFiles(
            table=Path(snakemake.output.table),
            pairs=Path(snakemake.output.pairs),
            repeats=Path(snakemake.output.repeats),
            data_sets=Path(snakemake.output.data_sets),
            markdown=Path(snakemake.output.markdown),
            selected=Path(snakemake.output.selected),
        ),
        repeats=snakemake.params.repeats,
        phases=kept_phases(records, snakemake.params.runs),
        data_sets=joined,
        left_out=snakemake.params.left_out,
    )
    comparison_figure(Path(snakemake.output.figure), comparison.ranked)
    for split, curves in snakemake.params.curves.items():
        predictions = {model: Path(table) for model, table in curves["predictions"].items()}
        draw_model_curves(
            Path(snakemake.output.table),
            predictions,
            split,
            referable_names=curves["referable_names"],
            figure=Path(snakemake.output[f"{split}_roc"]),
        )
