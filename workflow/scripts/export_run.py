"""Export one model to the formats of other runtimes, and compare their outputs with Keras."""

import os
import sys
from pathlib import Path

from retinaflow.errors import RetinaflowError
from retinaflow.jobs.logs import job_log
from retinaflow.networks.backend import choose

with job_log(snakemake.log[0]):
    # The other runtimes compute on the CPU, too. This job claims no GPU.
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    choose("tensorflow")
    # Imported here, so that the log has the error of a backend that does not load.
    try:
        from retinaflow.serving.export import ExportJob, export
    except ModuleNotFoundError as error:  # in a container without the extra
        raise RetinaflowError(
            f"export: {error.name} is not installed for {sys.executable}. Install the extra `export`."
        ) from error
    from retinaflow.preprocessing.batches import Images
    from retinaflow.preprocessing.variant import Variant
    from retinaflow.scoring.decision_rules import read_decision_rule
    from retinaflow.scoring.score import load_model

    files, params, output = snakemake.input, snakemake.params, snakemake.output
    rule = read_decision_rule(files.decision_rule)
    model = load_model(
        Path(files.model),
        params.grade_names,
        objective=rule.objective,
        seed=params.seed,
        threads=params.cpu_threads,
    )
    export(
        ExportJob(
            training_run=snakemake.wildcards.training_run,
            model=model,
            keras_file=Path(files.model),
            variant=Variant.parse(params.variant),
            decision_rule=rule,
            tta_views=params.tta_views,
            training=Images.of(files, "train", params.grade_names),
            validation=Images.of(files, "validation", params.grade_names),
            seed=params.seed,
            threads=snakemake.threads,
            files={kind: Path(output[kind]) for kind in params.formats},
            differences=Path(output.differences),
        )
    )
