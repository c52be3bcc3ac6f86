"""Fit a linear model to the features of frozen backbones, and score it."""

from pathlib import Path

from threadpoolctl import threadpool_limits

from retinaflow.data.trained_on import require_unseen
from retinaflow.jobs.logs import job_log
from retinaflow.scoring.fit_linear import LinearJob, LinearRun, StoredSplit, fit_linear
from retinaflow.scoring.ridge import THREADS
from retinaflow.storage.files import digest_files


def stored(split):
    files = snakemake.input
    arrays, rows = files[f"{split}_features"], files[f"{split}_rows"]
    return StoredSplit(Path(files[f"{split}_index"]), list(zip(map(Path, arrays), map(Path, rows), strict=True)))


with job_log(snakemake.log[0]):
    params = snakemake.params
    for record in map(Path, snakemake.input.earlier):
        tables = {split: [Path(snakemake.input[f"{split}_index"])] for split in params.unseen}
        require_unseen(snakemake.wildcards.linear, record, tables, snakemake.config["data"]["shared_patients"])
    weights = {network: snakemake.input.get(f"{network}_weights") for network in params.networks}
    with threadpool_limits(THREADS):
        fit_linear(
            LinearJob(
                model=snakemake.wildcards.linear,
                eyes=params.eyes,
                fallback=params.fallback,
                networks=[
                    {**description, "digest": digest_files(weights[network]) if weights[network] else None}
                    for network, description in params.networks.items()
                ],
                splits={split: stored(split) for split in params.splits},
                runs=[
                    LinearRun(fitted, held_out, Path(file))
                    for (fitted, held_out), file in zip(params.runs, snakemake.output.models, strict=True)
                ],
                outputs={split: Path(snakemake.output[split]) for split in params.outputs},
                grade_names=params.grade_names,
                seed=params.seed,
                joined=params.joined,
            )
        )
