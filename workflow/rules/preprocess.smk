# Stage 3: decode, crop and resize once; uint8 RGB arrays that every backbone of the same image size shares.


rule preprocess:
    input:
        index=path("organized", "{part}", "index.csv"),
    output:
        pixels=path("shards", "{recipe}", "{part}", "{shard}.npy"),
        rows=path("shards", "{recipe}", "{part}", "{shard}.csv"),
    log:
        path("logs", "preprocess", "{recipe}", "{part}", "{shard}.log"),
    conda:
        "../../envs/retinaflow.yaml"
    # Shards side by side use all cores without sharing Python's lock; few shards take threads to do so.
    threads: lambda wildcards: max(1, 4 // SHARDS[wildcards.part])
    resources:
        mem_mb=preprocess_memory,
        runtime=scheduled(preprocess_runtime),
    params:
        code=code_of("preprocess.py"),
        shards=lambda wildcards: SHARDS[wildcards.part],
    script:
        "../scripts/preprocess.py"
