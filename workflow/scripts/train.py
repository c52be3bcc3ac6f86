"""Fine-tune one backbone on one split."""

from pathlib import Path

from retinaflow.files import digest_files
from retinaflow.logs import job_log
from retinaflow.train import train_job


def part(use):
    """Index tables and shards of the photographs used so."""
    files = snakemake.input
    shards = zip(files[f"{use}_pixels"], files[f"{use}_rows"], strict=True)
    return list(map(Path, files[f"{use}_indices"])), [(Path(pixels), Path(rows)) for pixels, rows in shards]


with job_log(snakemake.log[0]):
    train_job(
        snakemake.wildcards.run,
        snakemake.params.backbone,
        snakemake.params.settings,
        snakemake.params.classes,
        snakemake.params.seed,
        part("train"),
        part("validation"),
        Path(snakemake.input.weights[0]) if snakemake.input.weights else None,
        digest_files(snakemake.input.code),
        snakemake.threads,
        snakemake.resources.get("runtime"),
        Path(snakemake.output.model),
        Path(snakemake.output.history),
        Path(snakemake.output.class_indices),
        Path(snakemake.output.record),
        Path(snakemake.params.checkpoints),
    )
