"""Write one model in the formats of other runtimes and compare their answers."""

import os
import sys
from pathlib import Path

from retinaflow.errors import RetinaflowError
from retinaflow.jobs.logs import job_log
from retinaflow.networks.backend import choose

with job_log(snakemake.log[0]):
    # The other runtimes compute there, too, and nobody else is kept from a GPU.
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    choose("tensorflow")
    # Here, so that the log tells if the backend does not even load.
    try:
        from retinaflow.serving.export import export
    except ModuleNotFoundError as error:  # in a container that was not made for this
        raise RetinaflowError(
            f"export: {error.name} is not installed for {sys.executable}. Install the extra `export`."
        ) from error
    from retinaflow.preprocessing.batches import Images
    from retinaflow.preprocessing.variant import Variant
    from retinaflow.scoring.decision_rules import read_decision
    from retinaflow.scoring.score import load_model

    files, params, output = snakemake.input, snakemake.params, snakemake.output
    decision = read_decision(files.decision)
    export(
        snakemake.wildcards.training_run,
        load_model(Path(files.model), params.classes, params.seed, params.cpu_threads, decision.objective),
        Path(files.model),
        Variant.parse(params.recipe),
        decision,
        params.views,
        Images.of(files, "train", params.classes),
        Images.of(files, "validation", params.classes),
        params.seed,
        snakemake.threads,
        {kind: Path(output[kind]) for kind in params.formats},
        Path(output.differences),
    )
