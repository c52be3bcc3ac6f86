# Stage 5: raw outputs of each network on images that it was not trained on, and grades of each model.

from dataclasses import asdict


def figure_labels(figure, split):
    """Labels function: those of a figure of a model or training run in the report."""

    def labels(wildcards):
        _, _, fold = wildcards[0].partition("/")
        # The split comes first, since the report makes a switch of a later label with two values.
        return {"split": " ".join(filter(None, [fold, split])), "figure": figure}

    return labels


def raw_outputs_of(models, split):
    """Tables of raw outputs of models on a split. Without folds, raw outputs without TTA are columns of the network's table."""
    own = [model if FOLDS else model.removesuffix(f"+{NO_TTA}") for model in models]
    return [path("scores", model, split, "raw_outputs.csv") for model in own]


def model_output_kind(model):
    """Columns of the raw outputs that a model is graded by."""
    return "no_tta" if model.endswith(f"+{NO_TTA}") and not FOLDS else "output"


def output_kind(wildcards):
    """Parameter function: `model_output_kind` of the model."""
    return model_output_kind(wildcards.model)


def fold_indices(wildcards):
    """Index tables of the folds, of a model that has the held-out images of all folds."""
    pooled = MODELS.splits_of(wildcards.model)[0] == "out-of-fold"
    return [path("organized", fold, "index.csv") for fold in TRAINING_SPLITS] if pooled else []


def graded_files(splits):
    """Files of a model that is graded on some splits. Its decision rule is fitted on the first."""
    files = {}
    for split in splits:
        files[f"{split}_predictions"] = path("scores", "{model}", split, "predictions.csv")
        files[f"{split}_metrics"] = path("scores", "{model}", split, "metrics.json")
        files[f"{split}_figure"] = report(
            path("scores", "{model}", split, "confusion_matrix.png"),
            caption="../report/confusion_matrix.rst",
            category="Models",
            subcategory=lambda wildcards: wildcards.model.split("/")[0],
            labels=figure_labels("confusion matrix", split),
        )
    return files


def graded_models(splits):
    """Models that are graded on these splits."""
    return [model for model in MODELS.names if MODELS.splits_of(model) == splits]


rule score:
    input:
        **{f"{split}_indices": indices(split) for split in MODELS.scored},
        **{f"{split}_pixels": shards(split, "npy") for split in MODELS.scored},
        **{f"{split}_rows": shards(split, "csv") for split in MODELS.scored},
        model=path("models", "{training_run}", "model.keras"),
        history=path("models", "{training_run}", "history.csv"),
        record=path("models", "{training_run}", "training_run.json"),
        earlier=lambda wildcards: earlier_images(network_of(wildcards.training_run)),
    output:
        **{split: path("scores", "{training_run}", split, "raw_outputs.csv") for split in MODELS.scored},
        curves=report(
            path("scores", "{training_run}", "learning_curves.png"),
            caption="../report/learning_curves.rst",
            category="Models",
            subcategory=lambda wildcards: network_of(wildcards.training_run),
            labels=figure_labels("learning curves", ""),
        ),
    log:
        path("logs", "score", "{training_run}.log"),
    conda:
        "../../envs/retinaflow.yaml"
    threads: lambda wildcards: network_settings(wildcards).cpu_threads
    resources:
        gpu=1,
        mem_mb=score_memory,
        runtime=scheduled(score_runtime),
    params:
        code=code_of("score.py"),
        splits=MODELS.scored,
        # Scores on the validation split of a fold are scores on held-out images.
        unseen=MODELS.scored if FOLDS else MODELS.tests,
        grade_names=GRADE_NAMES,
        objective=lambda wildcards: MODELS.objective(wildcards.training_run),
        tta_views=CONFIG.score.tta_views,
        seed=CONFIG.seed,
        backend=lambda wildcards: network_settings(wildcards).backend,
        cpu_threads=lambda wildcards: network_settings(wildcards).cpu_threads,
    script:
        "../scripts/score.py"


rule grade:
    input:
        raw_outputs=lambda wildcards: [
            table for split in MODELS.splits_of(wildcards.model) for table in raw_outputs_of([wildcards.model], split)
        ],
        inventories=[path("inventory", f"{data_set}.csv") for data_set in INVENTORIES],
        folds=fold_indices,
    output:
        **graded_files(MODELS.scored),
        decision_rule=path("models", "{model}", "decision_rule.json"),
    log:
        path("logs", "grade", "{model}.log"),
    wildcard_constraints:
        model=any_of(graded_models(MODELS.scored)),
    priority: lambda wildcards: int(wildcards.model in MODELS.linear)
    localrule: True
    conda:
        "../../envs/retinaflow.yaml"
    params:
        code=code_of("grade.py"),
        splits=lambda wildcards: MODELS.splits_of(wildcards.model),
        kind=output_kind,
        objective=lambda wildcards: MODELS.objective(wildcards.model),
        grade_names=GRADE_NAMES,
        referable_grade=lookups.screened_grade(CONFIG),
        referable_sensitivity=required_sensitivity(CONFIG.screening.operating_point),
        bootstrap_samples=CONFIG.score.bootstrap_samples,
        seed=CONFIG.seed,
        scales={split: asdict(scale) for split, scale in SCALES.items()},
        data_sets=INVENTORIES,
        joined_sets=JOINED_SETS if len(JOINED_SETS) > 1 else [],
        recalibration=lookups.recalibration(CONFIG),
    script:
        "../scripts/grade.py"


if MODELS.unpaired:

    localrules:
        grade_eyes,

    use rule grade as grade_eyes with:
        output:
            **graded_files(MODELS.splits_of("eye_average")),
            decision_rule=path("models", "{model}", "decision_rule.json"),
        wildcard_constraints:
            model=any_of(graded_models(MODELS.splits_of("eye_average"))),


if FOLDS:

    localrules:
        grade_combined,
        pool,
        pool_no_tta,

    use rule grade as grade_combined with:
        output:
            **graded_files(MODELS.splits_of("pooled")),
            decision_rule=path("models", "{model}", "decision_rule.json"),
        wildcard_constraints:
            model=any_of(graded_models(MODELS.splits_of("pooled"))),

    rule pool:
        input:
            **{
                split: lambda wildcards, split=split: raw_outputs_of(MODELS.runs_of(wildcards.network), split)
                for split in MODELS.scored
            },
        output:
            **{
                split: path("scores", "{network}", folder, "raw_outputs.csv")
                for split, folder in zip(MODELS.scored, MODELS.splits_of("pooled"))
            },
        log:
            path("logs", "pool", "{network}.log"),
        conda:
            "../../envs/retinaflow.yaml"
        params:
            code=code_of("pool.py"),
            tests=MODELS.tests,
            objective=lambda wildcards: MODELS.objective(wildcards.network),
            grade_count=len(GRADE_NAMES),
            kind="output",
        script:
            "../scripts/pool.py"

    use rule pool as pool_no_tta with:
        output:
            **{
                split: path("scores", f"{{network}}+{NO_TTA}", folder, "raw_outputs.csv")
                for split, folder in zip(MODELS.scored, MODELS.splits_of("pooled"))
            },
        log:
            path("logs", "pool", f"{{network}}+{NO_TTA}.log"),
        params:
            tests=MODELS.tests,
            objective=lambda wildcards: MODELS.objective(wildcards.network),
            grade_count=len(GRADE_NAMES),
            kind="no_tta",


if MODELS.ensembles:

    localrules:
        ensemble,

    rule ensemble:
        input:
            **{
                split: lambda wildcards, split=split: raw_outputs_of(MODELS.ensembles[wildcards.ensemble], split)
                for split in MODELS.splits_of("pooled")
            },
        output:
            **{split: path("scores", "{ensemble}", split, "raw_outputs.csv") for split in MODELS.splits_of("pooled")},
        log:
            path("logs", "ensemble", "{ensemble}.log"),
        wildcard_constraints:
            ensemble=any_of(MODELS.ensembles),
        conda:
            "../../envs/retinaflow.yaml"
        params:
            code=code_of("ensemble.py"),
            splits=MODELS.splits_of("pooled"),
            objectives=lambda wildcards: list(map(MODELS.objective, MODELS.ensembles[wildcards.ensemble])),
            objective=lambda wildcards: MODELS.objective(wildcards.ensemble),
            grade_count=len(GRADE_NAMES),
        script:
            "../scripts/ensemble.py"
