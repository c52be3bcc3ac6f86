# Stage 0: which photographs there are, with which labels, and what is wrong with them.


rule inventory:
    input:
        labels=ancient(label_file),
        made=made_folders,
        train=train_inventory,
    output:
        inventory=path("inventory", "{data_set}.csv"),
        problems=path("inventory", "{data_set}-problems.csv"),
    log:
        path("logs", "inventory", "{data_set}.log"),
    # Where cores are few, what is wrong with either data set is said before anything is made of the other.
    priority: 1
    conda:
        "../../envs/retinaflow.yaml"
    threads: 4
    resources:
        mem_mb=inventory_memory,
        runtime=scheduled(inventory_runtime),
    params:
        code=code_of("inventory.py"),
        folders=photograph_folders,
        listings=listings,
        labels=label_table,
        label_digest=label_digest,
        exclude=lambda wildcards: DATASETS[wildcards.data_set].exclude,
        data=CONFIG.data.model_dump(
            include={"image_column", "grade_column", "grade_names", "patient_pattern", "pixel_limit"}
        ),
    script:
        "../scripts/inventory.py"


# All problems of all data sets at once. No other stage waits for it, since it would run again after whatever changes
# either of them: split and organize judge what they read themselves, by the same rules.
rule judge:
    input:
        inventories=expand(path("inventory", "{data_set}.csv"), data_set=DATASETS),
        problems=expand(path("inventory", "{data_set}-problems.csv"), data_set=DATASETS),
    output:
        table=path("inventory", "problems.csv"),
        summary=path("inventory", "problems.md"),
    log:
        path("logs", "inventory", "preflight.log"),
        # Logs outlive a failed job, outputs do not, and that is when one wants to see the problems.
        table=path("logs", "inventory", "problems.csv"),
        summary=path("logs", "inventory", "problems.md"),
    priority: 1
    localrule: True
    conda:
        "../../envs/retinaflow.yaml"
    params:
        code=code_of("preflight.py"),
        datasets=list(DATASETS),
        on_problem=CONFIG.data.on_problem.model_dump(),
        exclude_limit=CONFIG.data.exclude_limit,
    script:
        "../scripts/preflight.py"
