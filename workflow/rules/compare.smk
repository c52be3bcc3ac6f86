# All systems in one table and one figure, and each with each other; and what it takes to grade new photographs by them.


rule compare:
    input:
        scores=all_scores("metrics.json"),
        predictions=all_scores("predictions.csv"),
        inventory=path("inventory", "train.csv"),
    output:
        table=path("comparison", "comparison.csv"),
        pairs=path("comparison", "pairs.csv"),
        markdown=path("comparison", "comparison.md"),
        figure=report(
            path("comparison", "comparison.png"),
            caption="../report/comparison.rst",
            category="Comparison",
            labels={"figure": "kappa and accuracy with intervals"},
        ),
        graders=path("models", "bundle.json"),
    log:
        path("logs", "compare.log"),
    localrule: True
    conda:
        "../../envs/retinaflow.yaml"
    params:
        code=code_of("compare.py"),
        bootstrap=CONFIG.score.bootstrap_samples,
        seed=CONFIG.seed,
        graders=described_graders(),
    script:
        "../scripts/compare.py"
