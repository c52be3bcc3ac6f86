# ImageNet weights, fetched on the submit host so that jobs need no internet.


rule fetch_weights:
    output:
        path("weights", "{network}.h5"),
    log:
        path("logs", "weights", "{network}.log"),
    localrule: True
    conda:
        "../../envs/retinaflow.yaml"
    script:
        "../scripts/weights.py"
