# Grade new images, which have no labels, by the best model or a named one. `all` does not ask for it.


@functools.cache
def new_images():
    """States of the new images, a text for each file. They change with the files."""
    if CONFIG.images is None:
        raise WorkflowError(
            "images: none, so there is nothing to predict. Name the images: `snakemake predict --config "
            f"images=FOLDER`, with {sources.EXPECTED_SOURCE}."
        )
    try:
        return sources.source_states(CONFIG.images)
    except RetinaflowError as error:
        raise WorkflowError(str(error)) from None


def decision_rule_files():
    """Decision rules of the bundle's models."""
    models = bundle_content()["models"].values()
    return [path("models", file) for model in models for file in (model["decision_rule"], model["eye_average"]) if file]


rule predict:
    input:
        bundle=path("models", "bundle.json"),
        models=[path("models", run, "model.keras") for run in MODELS.training_runs],
        decision_rule_files=decision_rule_files(),
    output:
        predictions=path("predictions", PREDICTED, "predictions.csv"),
        patients=path("predictions", PREDICTED, "patients.csv"),
        problems=path("predictions", PREDICTED, "problems.csv"),
    log:
        path("logs", "predict", f"{PREDICTED}.log"),
    conda:
        "../../envs/retinaflow.yaml"
    threads: max(settings.cpu_threads for settings in FEATURE_NETWORKS.values())
    resources:
        gpu=1,
        mem_mb=predict_memory,
        runtime=scheduled(predict_runtime),
    params:
        code=code_of("predict.py"),
        # Functions: the name of a folder may look like a wildcard.
        source=lambda wildcards: CONFIG.images,
        listing=lambda wildcards: archives.combined(new_images()),
        model=CONFIG.model,
        limit=CONFIG.data.unpack_limit,
    script:
        "../scripts/predict.py"
