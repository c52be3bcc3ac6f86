# Stage 1: which patients train and which validate.


rule split:
    input:
        inventory=path("inventory", "train.csv"),
        problems=path("inventory", "train-problems.csv"),
    output:
        train=split_tables("train"),
        validation=split_tables("validation"),
    log:
        path("logs", "split.log"),
    localrule: True
    conda:
        "../../envs/retinaflow.yaml"
    params:
        code=code_of("split.py"),
        classes=CLASSES,
        validation=None if FOLDS else CONFIG.split.validation,
        folds=FOLDS,
        unit=CONFIG.split.unit,
        seed=CONFIG.seed,
    script:
        "../scripts/split.py"
