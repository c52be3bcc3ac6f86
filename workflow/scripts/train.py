"""Fine-tune one backbone on one split."""

import importlib
import time
from pathlib import Path

from retinaflow.jobs import gpus
from retinaflow.jobs.code import one_digest
from retinaflow.jobs.logs import job_log
from retinaflow.networks.backend import choose


def part(use):
    """Index tables and shards of the photographs used so."""
    files = snakemake.input
    shards = zip(files[f"{use}_pixels"], files[f"{use}_rows"], strict=True)
    return list(map(Path, files[f"{use}_indices"])), [(Path(pixels), Path(rows)) for pixels, rows in shards]


start = time.monotonic()
with job_log(snakemake.log[0]):
    devices = gpus.claim(snakemake.resources.gpu, f"train {snakemake.wildcards.training_run}")
    choose(snakemake.params.settings["backend"])
    # Here, so that the log tells if the backend does not even load.
    from retinaflow.training.train import train_job

    # No import: what is told to whom decides nothing, and no change of it should train anew.
    tracking = importlib.import_module("retinaflow.training.tracking")
    run, config = snakemake.wildcards.training_run, snakemake.config
    train_job(
        run,
        snakemake.params.backbone,
        snakemake.params.settings,
        # No parameter: who follows the advice to change it should not have to train other backbones anew.
        config["models"][run.split("/")[0]]["on_out_of_memory"],
        snakemake.params.classes,
        snakemake.params.seed,
        part("train"),
        part("validation"),
        Path(snakemake.input.weights[0]) if snakemake.input.weights else None,
        one_digest(snakemake.params.code),
        snakemake.threads,
        start,  # before it waited for a GPU
        snakemake.resources.get("runtime"),
        Path(snakemake.output.model),
        Path(snakemake.output.history),
        Path(snakemake.output.grade_names_file),
        Path(snakemake.output.record),
        Path(snakemake.params.checkpoints),
        list(map(str, devices)),
        tracking.trackers(config["tracking"], run, Path(config["results"], "tensorboard", run)),
    )
