# Stage 2: a tree of class folders for each part, and beside it the index that later stages read.


rule organize:
    input:
        table=part_table,
        problems=part_problems,
    output:
        folders=[directory(path("organized", "{split}", name)) for name in CLASSES],
        index=path("organized", "{split}", "index.csv"),
    log:
        path("logs", "organize", "{split}.log"),
    conda:
        "../../envs/retinaflow.yaml"
    resources:
        mem_mb=organize_memory,
        runtime=scheduled(organize_runtime),
    params:
        code=code_of("organize.py"),
        classes=CLASSES,
        mode=CONFIG.organize.mode,
    script:
        "../scripts/organize.py"
