# Stage 5: score each model on what it did not train on.


rule score:
    input:
        **{f"{part}_indices": indices(part) for part in SCORED},
        **{f"{part}_pixels": shards(part, "npy") for part in SCORED},
        **{f"{part}_rows": shards(part, "csv") for part in SCORED},
        model=path("models", "{run}", "model.keras"),
        history=path("models", "{run}", "history.csv"),
        record=path("models", "{run}", "run.json"),
        code=code("score.py"),
    output:
        **{
            f"{part}_{name}": path("scores", "{run}", part, file)
            for part in SCORED
            for name, file in (
                ("predictions", "predictions.csv"),
                ("metrics", "metrics.json"),
                ("figure", "confusion_matrix.png"),
            )
        },
        curves=path("scores", "{run}", "learning_curves.png"),
    log:
        path("logs", "score", "{run}.log"),
    conda:
        "../../envs/retinaflow.yaml"
    threads: lambda wildcards: training_settings(wildcards)["cpu_threads"]
    resources:
        gpu=1,
        mem_mb=score_memory,
        runtime=scheduled(score_runtime),
    params:
        backbone=lambda wildcards: backbone_of(wildcards.run),
        parts=SCORED,
        classes=CLASSES,
        referable_level=CONFIG["score"]["referable_level"],
        views=CONFIG["score"]["views"],
        seed=CONFIG["seed"],
        backend=lambda wildcards: training_settings(wildcards)["backend"],
        cpu_threads=lambda wildcards: training_settings(wildcards)["cpu_threads"],
    script:
        "../scripts/score.py"


localrules:
    pool,


rule pool:
    input:
        folds=out_of_fold_tables,
        code=code("pool.py"),
    output:
        predictions=path("scores", "{backbone}", "out-of-fold", "predictions.csv"),
        metrics=path("scores", "{backbone}", "out-of-fold", "metrics.json"),
        figure=path("scores", "{backbone}", "out-of-fold", "confusion_matrix.png"),
    log:
        path("logs", "pool", "{backbone}.log"),
    conda:
        "../../envs/retinaflow.yaml"
    params:
        classes=CLASSES,
        referable_level=CONFIG["score"]["referable_level"],
    script:
        "../scripts/pool.py"
