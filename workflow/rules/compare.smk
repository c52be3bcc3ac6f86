# All backbones in one table and one figure.


localrules:
    compare,


rule compare:
    input:
        scores=all_metrics(),
        code=code("compare.py"),
    output:
        table=path("comparison", "comparison.csv"),
        markdown=path("comparison", "comparison.md"),
        figure=path("comparison", "comparison.png"),
    log:
        path("logs", "compare.log"),
    conda:
        "../../envs/retinaflow.yaml"
    script:
        "../scripts/compare.py"
