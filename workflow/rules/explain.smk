# Heat maps of the image regions that support answers. `all` does not ask for them.

# The last split that is labelled with the grades of the networks.
EXPLAINED = [split for split in MODELS.scored if split not in SCALES][-1]


rule explain_run:
    input:
        model=path("models", "{training_run}", "model.keras"),
        predictions=path("scores", "{training_run}", EXPLAINED, "predictions.csv"),
        outputs=path("scores", "{training_run}", EXPLAINED, "raw_outputs.csv"),
        pixels=shards(EXPLAINED, "npy"),
        rows=shards(EXPLAINED, "csv"),
    output:
        figure=report(
            path("explain", "{training_run}", f"{EXPLAINED}.png"),
            caption="../report/explain.rst",
            category="Models",
            subcategory=lambda wildcards: network_of(wildcards.training_run),
            labels=figure_labels("heat maps of answers", EXPLAINED),
        ),
        table=path("explain", "{training_run}", f"{EXPLAINED}.csv"),
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
