# Stage 1: split of the patients into training and validation.


def split_tables(split):
    """Tables of a side of the split, train or validation: one, or one for each fold."""
    if FOLDS:
        return [path("split", f"fold-{i}", f"{split}.csv") for i in range(1, FOLDS + 1)]
    return [path("split", f"{split}.csv")]


def given_split():
    """Label tables that prescribe the split, by the name of the training set; None if it is chosen."""
    columns = lookups.split_columns(CONFIG)
    if not columns:
        return None
    return {
        data_set.partition("-")[2]: {
            "path": lookups.label_tables(DATA_SETS[data_set]),
            "image_column": DATA_SETS[data_set].image_column,
            "grade_column": columns[data_set],
        }
        for data_set in TRAINING_SETS
    }


def given_digests():
    """Digests of the label tables or lists that prescribe the split."""
    tables = [table for source in (given_split() or {}).values() for table in source["path"]]
    return [table_digest(table) for table in [*tables, *(file for files in lists().values() for file in files)]]


def lists():
    """Lists of names that prescribe the split, by its sides."""
    given = CONFIG.split.lists.model_dump() if CONFIG.split.lists else {}
    return {side: files for side, files in given.items() if files}


def set_tables(side):
    """Tables of a side of the split, train or validation, of each training set that is left out in turn."""
    return [path("split", f"{name}-{side}.csv") for name in LEFT_OUT_SETS]


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
        given=given_split(),
        lists=lists(),
        validation_sets=[data_set.partition("-")[2] for data_set in lookups.validation_sets(CONFIG)],
        given_digests=given_digests(),
    script:
        "../scripts/split.py"


if LEFT_OUT_SETS:

    localrules:
        divide_split,

    # Both sides of each data set. The training that leaves it out has none of them, and all others have.
    rule divide_split:
        input:
            train=split_tables("train"),
            validation=split_tables("validation"),
        output:
            train=set_tables("train"),
            validation=set_tables("validation"),
        log:
            path("logs", "divide_split.log"),
        conda:
            "../../envs/retinaflow.yaml"
        params:
            code=code_of("divide_split.py"),
            data_sets=LEFT_OUT_SETS,
            grade_names=GRADE_NAMES,
        script:
            "../scripts/divide_split.py"
