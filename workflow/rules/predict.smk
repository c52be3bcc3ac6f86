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


def predicting_bundles(wildcards):
    """Input function: bundle of the named model, or those of all models."""
    if LEFT_OUT_SETS:
        raise WorkflowError(
            f"models: none of them grades new images ({MODELS.unbundled(MODELS.ranked[0])}). Set split.leave_out to null."
        )
    if not MODELS.bundled:
        reasons = "; ".join(f"{model}: {MODELS.unbundled(model)}" for model in MODELS.ranked)
        raise WorkflowError(f"models: none of them grades new images ({reasons}). Add a network that is trained.")
    if CONFIG.model and CONFIG.model not in MODELS.bundled:
        reason = f" ({MODELS.unbundled(CONFIG.model)})" if CONFIG.model in MODELS.ranked else ""
        raise WorkflowError(
            f"model: {CONFIG.model!r} grades no new images{reason}; expected one of {', '.join(MODELS.bundled)}, or none for "
            "the best."
        )
    return [path("models", model, "bundle") for model in ([CONFIG.model] if CONFIG.model else MODELS.bundled)]


rule predict:
    input:
        bundles=predicting_bundles,
        comparison=path("comparison", "comparison.csv"),
    output:
        predictions=path("predictions", PREDICTED, "predictions.csv"),
        patients=path("predictions", PREDICTED, "patients.csv"),
        problems=path("predictions", PREDICTED, "problems.csv"),
        drift=path("predictions", PREDICTED, "drift.csv"),
        drift_values=path("predictions", PREDICTED, "drift_values.json"),
    log:
        path("logs", "predict", f"{PREDICTED}.log"),
    conda:
        "../../envs/retinaflow.yaml"
    threads: max(settings.cpu_threads for settings in FEATURE_NETWORKS.values())
    resources:
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
