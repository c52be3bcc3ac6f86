"""Convert a trained network to ONNX."""

import os
from pathlib import Path

from retinaflow.jobs.logs import job_log
from retinaflow.networks.backend import choose

with job_log(snakemake.log[0]):
    # This job claims no GPU.
    os.environ["CUDA_VISIBLE_DEVICES"] = "-1"
    choose("tensorflow")
    # Imported here, so that the log has the error of a backend that does not load.
    from retinaflow.scoring.score import load_model
    from retinaflow.serving.convert import convert_network

    params = snakemake.params
    model = load_model(
        Path(snakemake.input.model),
        params.grade_names,
        objective=params.objective,
        seed=params.seed,
        threads=snakemake.threads,
    )
    convert_network(model, params.objective, len(params.grade_names), Path(snakemake.output.graph))
