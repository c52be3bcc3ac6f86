# ImageNet weights, fetched on the submit host so that jobs need no internet.


localrules:
    fetch_weights,


rule fetch_weights:
    output:
        path("weights", "{backbone}.h5"),
    log:
        path("logs", "weights", "{backbone}.log"),
    conda:
        "../../envs/retinaflow.yaml"
    script:
        "../scripts/weights.py"
