# Graders that look at both eyes of a patient, made of what each backbone puts out and of its features.


rule blend:
    input:
        **{part: own_outputs(part) for part in system_parts("blend")},
    output:
        **{part: path("scores", "{network}+eye_average", part, "raw_outputs.csv") for part in system_parts("blend")},
    log:
        path("logs", "blend", "{network}.log"),
    localrule: True
    conda:
        "../../envs/retinaflow.yaml"
    params:
        code=code_of("blend.py"),
        parts=system_parts("blend"),
        objective=lambda wildcards: system_objective(wildcards.network),
        classes=len(CLASSES),
        weight=CONFIG.eyes.fellow_eye_weight,
    script:
        "../scripts/blend.py"


# Of the fine-tuned network, of photographs that it was not trained on.
rule run_features:
    input:
        **{f"{part}_indices": indices(part) for part in SCORED},
        **{f"{part}_pixels": shards(part, "npy") for part in SCORED},
        **{f"{part}_rows": shards(part, "csv") for part in SCORED},
        model=path("models", "{training_run}", "model.keras"),
    output:
        **{f"{part}_features": path("scores", "{training_run}", part, "features.npy") for part in SCORED},
        **{f"{part}_images": path("scores", "{training_run}", part, "features.csv") for part in SCORED},
    log:
        path("logs", "features", "{training_run}.log"),
    conda:
        "../../envs/retinaflow.yaml"
    threads: lambda wildcards: network_settings(wildcards).cpu_threads
    resources:
        gpu=1,
        mem_mb=score_memory,
        runtime=scheduled(run_features_runtime),
    params:
        code=code_of("run_features.py"),
        parts=SCORED,
        classes=CLASSES,
        objective=lambda wildcards: system_objective(wildcards.training_run),
        augment=lambda wildcards: (
            network_settings(wildcards).augment.model_dump() if CONFIG.features.views > 1 else None
        ),
        views=CONFIG.features.views,
        seed=CONFIG.seed,
        backend=lambda wildcards: network_settings(wildcards).backend,
        cpu_threads=lambda wildcards: network_settings(wildcards).cpu_threads,
    script:
        "../scripts/run_features.py"


rule fusion:
    input:
        **{
            f"{part}_{kind}": of_runs(part, file)
            for part in SCORED
            for kind, file in (
                ("outputs", "raw_outputs.csv"),
                ("features", "features.npy"),
                ("images", "features.csv"),
            )
        },
    output:
        **{
            part: path("scores", "{network}+eye_stacking", folder, "raw_outputs.csv")
            for part, folder in zip(SCORED, system_parts("fusion"))
        },
    log:
        path("logs", "fusion", "{network}.log"),
    conda:
        "../../envs/retinaflow.yaml"
    threads: 2
    resources:
        mem_mb=fusion_memory,
        runtime=scheduled(fusion_runtime),
    params:
        code=code_of("fusion.py"),
        parts=SCORED,
        objective=lambda wildcards: system_objective(wildcards.network),
        classes=len(CLASSES),
        seed=CONFIG.seed,
    script:
        "../scripts/fusion.py"
