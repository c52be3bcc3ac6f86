# New images, without labels, graded by the best of the models or by the one that is named. `all` does not ask for it.


@functools.cache
def new_images():
    """What tells the new images from what they were before: a text for each file."""
    if CONFIG.images is None:
        raise WorkflowError(
            "images: none, so there is nothing to predict. Name the images: `snakemake predict --config "
            f"images=FOLDER`, with {sources.EXPECTED}."
        )
    try:
        return sources.states(CONFIG.images)
    except RetinaflowError as error:
        raise WorkflowError(str(error)) from None


def decision_rule_files():
    """The decision_rule_files that new images are graded by."""
    graders = described_graders()["graders"].values()
    return [path("models", file) for its in graders for file in (its["decision"], its["blended"]) if file]


rule predict:
    input:
        graders=path("models", "bundle.json"),
        models=[path("models", run, "model.keras") for run in MODELS.training_runs],
        decision_rule_files=decision_rule_files(),
    output:
        predictions=path("predictions", PREDICTED, "predictions.csv"),
        problems=path("predictions", PREDICTED, "problems.csv"),
    log:
        path("logs", "predict", f"{PREDICTED}.log"),
    conda:
        "../../envs/retinaflow.yaml"
    threads: max(CONFIG.models[network].cpu_threads for network in CONFIG.models)
    resources:
        gpu=1,
        mem_mb=predict_memory,
        runtime=scheduled(predict_runtime),
    params:
        code=code_of("predict.py"),
        # Functions, as what a folder is called may look like a wildcard.
        source=lambda wildcards: CONFIG.images,
        listing=lambda wildcards: archives.combined(new_images()),
        system=CONFIG.model,
        limit=CONFIG.data.unpack_limit,
    script:
        "../scripts/predict.py"
