# Compare all models in one table and one figure, and in pairs.


def score_files(file, models=MODELS.names):
    """Every `metrics.json`, or `predictions.csv`, that the comparison of some models reads."""
    return [path("scores", model, split, file) for model in models for split in MODELS.splits_of(model)]


def referable_names(split):
    """Names of the referable grades of a split; none if no grade of its scale starts there."""
    names, lowest = lookups.grade_names(CONFIG, split), lookups.screened_grade(CONFIG)
    if split in SCALES:
        lowest = SCALES[split].referable_grade(lowest)
    return [] if lowest is None else names[lowest:]


def roc_curves(split):
    """Content of the figure of ROC curves of a split."""
    scored = [model for model in MODELS.ranked if split in MODELS.splits_of(model)]
    return {
        "predictions": {model: path("scores", model, split, "predictions.csv") for model in scored},
        "referable_names": referable_names(split),
    }


# Models that are compared on each of the joined training sets; none if there is a single training set.
COMPARED_BY_SET = MODELS.ranked if TRAINING_SETS != ["train"] else []


rule compare:
    input:
        scores=score_files("metrics.json"),
        predictions=score_files("predictions.csv"),
        records=[path("models", run, "training_run.json") for run in MODELS.training_runs],
        decision_rules=[path("models", model, "decision_rule.json") for model in COMPARED_BY_SET],
        raw_outputs=[
            table for model in COMPARED_BY_SET for table in raw_outputs_of([model], MODELS.splits_of(model)[0])
        ],
        folds=[path("organized", fold, "index.csv") for fold in TRAINING_SPLITS if FOLDS and COMPARED_BY_SET],
    output:
        **{
            f"{split}_roc": report(
                path("comparison", f"roc-{split}.png"),
                caption="../report/model_curves.rst",
                category="Comparison",
                labels={"figure": f"ROC of all models on {split}"},
            )
            for split in MODELS.tests
        },
        table=path("comparison", "comparison.csv"),
        pairs=path("comparison", "pairs.csv"),
        repeats=path("comparison", "repeats.csv"),
        data_sets=path("comparison", "by_data_set.csv"),
        markdown=path("comparison", "comparison.md"),
        figure=report(
            path("comparison", "comparison.png"),
            caption="../report/comparison.rst",
            category="Comparison",
            labels={"figure": "kappa and accuracy with intervals"},
        ),
    log:
        path("logs", "compare.log"),
    localrule: True
    conda:
        "../../envs/retinaflow.yaml"
    params:
        code=code_of("compare.py"),
        bootstrap_samples=CONFIG.score.bootstrap_samples,
        seed=CONFIG.seed,
        repeats=lookups.repeats(CONFIG),
        curves={split: roc_curves(split) for split in MODELS.tests},
        data_sets=[data_set.partition("-")[2] for data_set in TRAINING_SETS if COMPARED_BY_SET],
        by_data_set={model: model_output_kind(model) for model in COMPARED_BY_SET},
        runs={network: MODELS.runs_of(network) for network in CONFIG.models},
    script:
        "../scripts/compare.py"
