# Features of all images of a split, by a backbone with the weights of its file.

from retinaflow.settings.features import BackboneFeatureSettings


def feature_settings(wildcards):
    """Parameter function: the settings that decide the features of a network."""
    return BackboneFeatureSettings.of(FEATURE_NETWORKS[wildcards.network], CONFIG.features).parameters()


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
    priority: lambda wildcards: int(wildcards.network in FIRST)
    conda:
        "../../envs/retinaflow.yaml"
    threads: lambda wildcards: FEATURE_NETWORKS[wildcards.network].cpu_threads
    resources:
        gpu=1,
        mem_mb=features_memory,
        runtime=scheduled(features_runtime),
    params:
        code=code_of("features.py"),
        settings=feature_settings,
        grade_names=GRADE_NAMES,
        seed=CONFIG.seed,
    script:
        "../scripts/features.py"
