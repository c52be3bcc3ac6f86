# What a run would take, before it is started. Makes nothing that other rules need, and is never up to date.


rule plan:
    log:
        path("logs", "plan.log"),
    localrule: True
    conda:
        "../../envs/retinaflow.yaml"
    params:
        photographs=lambda wildcards: lookups.image_counts(CONFIG),
    script:
        "../scripts/plan.py"
