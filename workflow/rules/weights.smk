# ImageNet weights, fetched on the submit host so that jobs need no internet.


rule fetch_weights:
    output:
        path("weights", "{backbone}.h5"),
    log:
        path("logs", "weights", "{backbone}.log"),
    localrule: True
    conda:
        "../../envs/retinaflow.yaml"
    script:
        "../scripts/weights.py"
