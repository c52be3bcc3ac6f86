# Stage 2: a tree of grade folders for each split, and the index that later stages read.


def split_table(wildcards):
    """The table that lists the images of a split."""
    if wildcards.split in MODELS.tests:
        return path("inventory", f"{wildcards.split}.csv")
    # A fold is stored once, as its validation side. The other folds train on these images.
    return path("split", wildcards.split, "validation.csv") if FOLDS else path("split", f"{wildcards.split}.csv")


def split_problems(wildcards):
    """Problems of a test set; the rule split checks those of the other splits."""
    return [path("inventory", f"{wildcards.split}-problems.csv")] if wildcards.split in MODELS.tests else []


rule organize:
    input:
        table=split_table,
        problems=split_problems,
    output:
        folders=[directory(path("organized", "{split}", name)) for name in GRADE_NAMES],
        index=path("organized", "{split}", "index.csv"),
    log:
        path("logs", "organize", "{split}.log"),
    wildcard_constraints:
        split=any_of(split for split in SHARDS if split not in SCALES),
    conda:
        "../../envs/retinaflow.yaml"
    resources:
        mem_mb=organize_memory,
        runtime=scheduled(organize_runtime),
    params:
        code=code_of("organize.py"),
        grade_names=lambda wildcards: lookups.grade_names(CONFIG, wildcards.split),
        mode=CONFIG.organize.mode,
    script:
        "../scripts/organize.py"


if SCALES:

    # The folders have other names in each of these splits, so that they are no outputs.
    use rule organize as organize_scale with:
        output:
            index=path("organized", "{split}", "index.csv"),
        wildcard_constraints:
            split=any_of(SCALES),
