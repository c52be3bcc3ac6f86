# Heat maps of the image regions that support answers. `all` does not ask for them.


rule explain_run:
    input:
        model=path("models", "{training_run}", "model.keras"),
        predictions=path("scores", "{training_run}", MODELS.scored[-1], "predictions.csv"),
        outputs=path("scores", "{training_run}", MODELS.scored[-1], "raw_outputs.csv"),
        pixels=shards(MODELS.scored[-1], "npy"),
        rows=shards(MODELS.scored[-1], "csv"),
    output:
        figure=report(
            path("explain", "{training_run}", f"{MODELS.scored[-1]}.png"),
            caption="../report/explain.rst",
            category="Models",
            subcategory=lambda wildcards: network_of(wildcards.training_run),
            labels=figure_labels("heat maps of answers", MODELS.scored[-1]),
        ),
        table=path("explain", "{training_run}", f"{MODELS.scored[-1]}.csv"),
    log:
        path("logs", "explain", "{training_run}.log"),
    conda:
        "../../envs/retinaflow.yaml"
    threads: lambda wildcards: network_settings(wildcards).cpu_threads
    resources:
        gpu=1,
        mem_mb=score_memory,
        runtime=scheduled(score_runtime),
    params:
        code=code_of("explain.py"),
        grade_names=GRADE_NAMES,
        objective=lambda wildcards: MODELS.objective(wildcards.training_run),
        seed=CONFIG.seed,
        cpu_threads=lambda wildcards: network_settings(wildcards).cpu_threads,
    script:
        "../scripts/explain.py"
