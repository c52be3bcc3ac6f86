# Features of all photographs of a part, by a backbone as its weights file has it.


rule features:
    input:
        index=path("organized", "{split}", "index.csv"),
        pixels=part_shards("npy"),
        rows=part_shards("csv"),
        weights=lambda wildcards: weights_of(wildcards.network),
    output:
        features=path("features", "{network}", "{split}.npy"),
        rows=path("features", "{network}", "{split}.csv"),
    log:
        path("logs", "features", "{network}", "{split}.log"),
    conda:
        "../../envs/retinaflow.yaml"
    threads: lambda wildcards: CONFIG.models[wildcards.network].cpu_threads
    resources:
        gpu=1,
        mem_mb=features_memory,
        runtime=scheduled(features_runtime),
    params:
        code=code_of("features.py"),
        settings=feature_settings,
        classes=CLASSES,
        seed=CONFIG.seed,
    script:
        "../scripts/features.py"
