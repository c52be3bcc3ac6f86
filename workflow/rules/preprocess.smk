# Stage 3: decode, crop and resize once; uint8 RGB arrays that every network of the same image size shares.


rule preprocess:
    input:
        index=path("organized", "{split}", "index.csv"),
    output:
        pixels=path("shards", "{variant}", "{split}", "{shard}.npy"),
        rows=path("shards", "{variant}", "{split}", "{shard}.csv"),
    log:
        path("logs", "preprocess", "{variant}", "{split}", "{shard}.log"),
    # Test images come before trainings, so that the job that trains a network can score it.
    priority: lambda wildcards: 1 if wildcards.variant in FIRST_VARIANTS else 0.5
    conda:
        "../../envs/retinaflow.yaml"
    # Shards side by side use all cores without sharing Python's lock; few shards take threads to do so.
    threads: lambda wildcards: max(1, 4 // SHARDS[wildcards.split])
    resources:
        mem_mb=preprocess_memory,
        runtime=scheduled(preprocess_runtime),
    params:
        code=code_of("preprocess.py"),
        shards=lambda wildcards: SHARDS[wildcards.split],
    script:
        "../scripts/preprocess.py"
