# Estimate disk, memory and hours of a run. No rule needs it, and it is never up to date.


rule plan:
    log:
        path("logs", "plan.log"),
    localrule: True
    conda:
        "../../envs/retinaflow.yaml"
    params:
        images=lambda wildcards: lookups.image_counts(CONFIG),
    script:
        "../scripts/plan.py"
