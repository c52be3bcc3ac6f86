# Features of all images of a split, by a network as its weights file has it.


def feature_settings(wildcards):
    """Parameter function: the settings that decide the features of a network."""
    chosen = CONFIG.models[wildcards.network].model_dump()
    decisive = ("backbone", "backend", "cpu_threads", "image_size", "feature_layers")
    views = CONFIG.features.views
    # The first view is the image as it is.
    return {
        **{key: chosen[key] for key in decisive},
        "views": views,
        "augment": chosen["augment"] if views > 1 else None,
    }


rule features:
    input:
        index=path("organized", "{split}", "index.csv"),
        pixels=split_shards("npy"),
        rows=split_shards("csv"),
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
        classes=GRADE_NAMES,
        seed=CONFIG.seed,
    script:
        "../scripts/features.py"
