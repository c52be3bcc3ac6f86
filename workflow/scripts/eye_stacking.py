"""Grade by the outputs and features of a network for both eyes."""

from pathlib import Path

from threadpoolctl import threadpool_limits

from retinaflow.jobs.logs import job_log
from retinaflow.scoring.eye_stacking import RunFiles, StackingModels, stack_eyes
from retinaflow.scoring.ridge import THREADS


def run_files(split):
    files = zip(*(snakemake.input[f"{split}_{kind}"] for kind in ("outputs", "features", "images")), strict=True)
    return [RunFiles(Path(outputs), Path(features), Path(images)) for outputs, features, images in files]


with job_log(snakemake.log[0]):
    splits = snakemake.params.splits
    with threadpool_limits(THREADS):
        stack_eyes(
            {split: run_files(split) for split in splits},
            {split: Path(snakemake.output[split]) for split in splits},
            objective=snakemake.params.objective,
            models=StackingModels(
                model=f"{snakemake.wildcards.network}+eye_stacking",
                network=snakemake.wildcards.network,
                inputs=snakemake.params.sources,
                grade_names=snakemake.params.grade_names,
                files=list(map(Path, snakemake.output.models)),
            ),
            seed=snakemake.params.seed,
        )
