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


# With `split.leave_out`, each data set that is left out has a comparison of its own.
COMPARED = path("comparison", "{without}") if LEFT_OUT_SETS else path("comparison")


def left_out_set(wildcards):
    """Parameter function: name of the data set that is left out of the models of a comparison; empty if there is none."""
    return wildcards.get("without", "").removeprefix("without-")


def of_comparison(models, wildcards):
    """Those of some models that are in one comparison: all, or those that its data set is left out of."""
    return [model for model in models if lookups.left_out_of(model) == left_out_set(wildcards)]


def roc_curves(wildcards):
    """Parameter function: content of the figure of ROC curves of each test split."""
    ranked = of_comparison(MODELS.ranked, wildcards)
    return {
        split: {
            "predictions": {
                lookups.common_name(model): path("scores", model, split, "predictions.csv")
                for model in ranked
                if split in MODELS.splits_of(model)
            },
            "referable_names": referable_names(split),
        }
        for split in MODELS.tests
    }


def compared_by_set(wildcards):
    """Models that are compared on each of the joined training sets; none if there is a single training set."""
    return of_comparison(MODELS.ranked, wildcards) if JOINED_SETS else []


def compared_runs(wildcards):
    """Parameter function: training runs of each network of a comparison."""
    return {
        lookups.common_name(network): MODELS.runs_of(network) for network in of_comparison(MODELS.networks, wildcards)
    }


def compared_sets(wildcards):
    """Parameter function: names of the joined training sets of the models of a comparison."""
    return [name for name in JOINED_SETS if name != left_out_set(wildcards)]


def comparison_labels(figure):
    """Labels of a figure of a comparison in the report."""
    return {**({"left out": "{without}"} if LEFT_OUT_SETS else {}), "figure": figure}


rule compare:
    input:
        scores=lambda wildcards: score_files("metrics.json", of_comparison(MODELS.names, wildcards)),
        predictions=lambda wildcards: score_files("predictions.csv", of_comparison(MODELS.names, wildcards)),
        records=lambda wildcards: [
            path("models", run, "training_run.json") for run in of_comparison(MODELS.training_runs, wildcards)
        ],
        decision_rules=lambda wildcards: [
            path("models", model, "decision_rule.json") for model in compared_by_set(wildcards)
        ],
        raw_outputs=lambda wildcards: [
            table
            for model in compared_by_set(wildcards)
            for table in raw_outputs_of([model], MODELS.splits_of(model)[0])
        ],
        folds=[path("organized", fold, "index.csv") for fold in TRAINING_SPLITS if FOLDS and JOINED_SETS],
    output:
        **{
            f"{split}_roc": report(
                f"{COMPARED}/roc-{split}.png",
                caption="../report/model_curves.rst",
                category="Comparison",
                labels=comparison_labels(f"ROC of all models on {split}"),
            )
            for split in MODELS.tests
        },
        table=f"{COMPARED}/comparison.csv",
        pairs=f"{COMPARED}/pairs.csv",
        repeats=f"{COMPARED}/repeats.csv",
        data_sets=f"{COMPARED}/by_data_set.csv",
        markdown=f"{COMPARED}/comparison.md",
        selected=f"{COMPARED}/selected_model.json",
        figure=report(
            f"{COMPARED}/comparison.png",
            caption="../report/comparison.rst",
            category="Comparison",
            labels=comparison_labels("kappa and accuracy with intervals"),
        ),
    log:
        path("logs", "compare", "{without}.log") if LEFT_OUT_SETS else path("logs", "compare.log"),
    wildcard_constraints:
        without=any_of(f"without-{name}" for name in LEFT_OUT_SETS),
    localrule: True
    conda:
        "../../envs/retinaflow.yaml"
    params:
        code=code_of("compare.py"),
        bootstrap_samples=CONFIG.score.bootstrap_samples,
        seed=CONFIG.seed,
        repeats=lookups.repeats(CONFIG),
        curves=roc_curves,
        data_sets=compared_sets,
        by_data_set=lambda wildcards: {
            lookups.common_name(model): model_output_kind(model) for model in compared_by_set(wildcards)
        },
        runs=compared_runs,
        left_out=left_out_set,
    script:
        "../scripts/compare.py"


def left_out_places(models):
    """Places of the files of `score_files` of some models, by the data set that is left out of them."""
    left_out = [lookups.left_out_of(model) for model in models for _ in MODELS.splits_of(model)]
    return {name: [place for place, other in enumerate(left_out) if other == name] for name in LEFT_OUT_SETS}


if LEFT_OUT_SETS:

    localrules:
        compare_leave_out,

    rule compare_leave_out:
        input:
            scores=score_files("metrics.json"),
            predictions=score_files("predictions.csv"),
        output:
            table=path("comparison", "leave_out.csv"),
            markdown=path("comparison", "leave_out.md"),
        log:
            path("logs", "compare_leave_out.log"),
        conda:
            "../../envs/retinaflow.yaml"
        params:
            code=code_of("compare_leave_out.py"),
            left_out=left_out_places(MODELS.names),
            bootstrap_samples=CONFIG.score.bootstrap_samples,
            seed=CONFIG.seed,
            repeats=lookups.repeats(CONFIG),
        script:
            "../scripts/compare_leave_out.py"
