# New photographs, without labels, graded by the best of the models or by the one that is named. `all` does not ask for it.


rule predict:
    input:
        graders=path("models", "bundle.json"),
        models=[path("models", run, "model.keras") for run in RUNS],
        decisions=decisions(),
    output:
        predictions=path("predictions", PREDICTED, "predictions.csv"),
        problems=path("predictions", PREDICTED, "problems.csv"),
    log:
        path("logs", "predict", f"{PREDICTED}.log"),
    conda:
        "../../envs/retinaflow.yaml"
    threads: max(CONFIG.models[backbone].cpu_threads for backbone in CONFIG.models)
    resources:
        gpu=1,
        mem_mb=predict_memory,
        runtime=scheduled(predict_runtime),
    params:
        code=code_of("predict.py"),
        # Functions, as what a folder is called may look like a wildcard.
        source=lambda wildcards: CONFIG.images,
        listing=lambda wildcards: archives.combined(new_photographs()),
        system=CONFIG.model,
        limit=CONFIG.data.unpack_limit,
    script:
        "../scripts/predict.py"
