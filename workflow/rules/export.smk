# Trained models in the formats of other runtimes, and how far these are from Keras. `all` does not ask for it.


rule export_run:
    input:
        packages_of_export,
        **{
            f"{part}_{kind}": files
            for part in ("train", "validation")
            for kind, files in {
                "indices": indices(part),
                "pixels": shards(part, "npy"),
                "rows": shards(part, "csv"),
            }.items()
        },
        model=path("models", "{training_run}", "model.keras"),
        decision=path("models", "{training_run}", "decision_rule.json"),
    output:
        **{kind: path("export", "{training_run}", EXPORTED[kind]) for kind in CONFIG.export.formats},
        differences=path("export", "{training_run}", "differences.csv"),
    log:
        path("logs", "export", "{training_run}.log"),
    conda:
        "../../envs/export.yaml"
    threads: lambda wildcards: network_settings(wildcards).cpu_threads
    resources:
        mem_mb=score_memory,
        runtime=scheduled(score_runtime),
    params:
        code=code_of("export_run.py"),
        classes=CLASSES,
        recipe=lambda wildcards: lookups.variant(CONFIG, backbone_of(wildcards.training_run)).name,
        views=CONFIG.score.tta_views,
        seed=CONFIG.seed,
        cpu_threads=lambda wildcards: network_settings(wildcards).cpu_threads,
        formats=CONFIG.export.formats,
    script:
        "../scripts/export_run.py"


rule export_summary:
    input:
        differences=[path("export", run, "differences.csv") for run in RUNS],
    output:
        table=path("export", "export.csv"),
        page=path("export", "export.md"),
    log:
        path("logs", "export", "summary.log"),
    localrule: True
    conda:
        "../../envs/retinaflow.yaml"
    params:
        code=code_of("export_summary.py"),
    script:
        "../scripts/export_summary.py"
