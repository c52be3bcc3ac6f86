# Stage 1: split of the patients into training and validation.


def split_tables(split):
    """Tables of a side of the split, train or validation: one, or one for each fold."""
    if FOLDS:
        return [path("split", f"fold-{i}", f"{split}.csv") for i in range(1, FOLDS + 1)]
    return [path("split", f"{split}.csv")]


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
        grade_names=GRADE_NAMES,
        validation=None if FOLDS else CONFIG.split.validation,
        folds=FOLDS,
        unit=CONFIG.split.unit,
        seed=CONFIG.seed,
    script:
        "../scripts/split.py"
