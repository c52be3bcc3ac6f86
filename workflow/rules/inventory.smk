# Stage 0: which photographs there are, with which labels, and what is wrong with them.


rule inventory:
    input:
        labels=ancient(label_file),
        made=made_folders,
        code=code("inventory.py"),
    output:
        inventory=path("inventory", "{dataset}.csv"),
        problems=path("inventory", "{dataset}-problems.csv"),
    log:
        path("logs", "inventory", "{dataset}.log"),
        # Logs outlive a failed job, outputs do not, and that is when one wants to see the problems.
        problems=path("logs", "inventory", "{dataset}-problems.csv"),
    conda:
        "../../envs/retinaflow.yaml"
    threads: 4
    params:
        folders=photograph_folders,
        listings=listings,
        labels=label_table,
        label_digest=label_digest,
        exclude=lambda wildcards: DATASETS[wildcards.dataset]["exclude"],
        data={
            key: CONFIG["data"][key]
            for key in (
                "image_column",
                "level_column",
                "classes",
                "patient",
                "on_problem",
                "exclude_limit",
            )
        },
    script:
        "../scripts/inventory.py"


localrules:
    problems,


rule problems:
    input:
        tables=expand(path("inventory", "{dataset}-problems.csv"), dataset=DATASETS),
        code=code("problems.py"),
    output:
        path("inventory", "problems.csv"),
    log:
        path("logs", "inventory", "problems.log"),
    conda:
        "../../envs/retinaflow.yaml"
    script:
        "../scripts/problems.py"
