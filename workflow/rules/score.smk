# Stage 5: what each model says of photographs that it did not train on, and what that is graded as.


rule score:
    input:
        **{f"{part}_indices": indices(part) for part in SCORED},
        **{f"{part}_pixels": shards(part, "npy") for part in SCORED},
        **{f"{part}_rows": shards(part, "csv") for part in SCORED},
        model=path("models", "{training_run}", "model.keras"),
        history=path("models", "{training_run}", "history.csv"),
        record=path("models", "{training_run}", "training_run.json"),
    output:
        **{part: path("scores", "{training_run}", part, "raw_outputs.csv") for part in SCORED},
        curves=report(
            path("scores", "{training_run}", "learning_curves.png"),
            caption="../report/learning_curves.rst",
            category="Graders",
            subcategory=lambda wildcards: backbone_of(wildcards.training_run),
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
        parts=SCORED,
        classes=CLASSES,
        objective=lambda wildcards: system_objective(wildcards.training_run),
        views=CONFIG.score.tta_views,
        seed=CONFIG.seed,
        backend=lambda wildcards: network_settings(wildcards).backend,
        cpu_threads=lambda wildcards: network_settings(wildcards).cpu_threads,
    script:
        "../scripts/score.py"


rule grade:
    input:
        outputs=lambda wildcards: [
            table for part in system_parts(wildcards.model) for table in outputs_of([wildcards.model], part)
        ],
        inventories=[path("inventory", f"{dataset}.csv") for dataset in DATASETS],
    output:
        **graded("validation"),
        decision=path("models", "{model}", "decision_rule.json"),
    log:
        path("logs", "grade", "{model}.log"),
    wildcard_constraints:
        model=any_of(system for system in systems() if system_parts(system)[0] == "validation"),
    localrule: True
    conda:
        "../../envs/retinaflow.yaml"
    params:
        code=code_of("grade.py"),
        parts=lambda wildcards: system_parts(wildcards.model),
        kind=output_kind,
        objective=lambda wildcards: system_objective(wildcards.model),
        classes=CLASSES,
        referable_grade=CONFIG.score.referable_grade,
        referable_sensitivity=CONFIG.score.referable_sensitivity,
        bootstrap=CONFIG.score.bootstrap_samples,
        seed=CONFIG.seed,
    script:
        "../scripts/grade.py"


if FOLDS:

    localrules:
        grade_combined,
        pool,
        pool_single,

    use rule grade as grade_combined with:
        output:
            **graded("out-of-fold"),
            decision=path("models", "{model}", "decision_rule.json"),
        wildcard_constraints:
            model=any_of(system for system in systems() if system_parts(system)[0] == "out-of-fold"),

    rule pool:
        input:
            validation=lambda wildcards: outputs_of(runs(wildcards.network), "validation"),
            # What the folds put out for the test set, to be averaged.
            test=lambda wildcards: [table for part in SCORED[1:] for table in outputs_of(runs(wildcards.network), part)],
        output:
            **{
                part: path("scores", "{network}", folder, "raw_outputs.csv")
                for part, folder in zip(SCORED, system_parts("pooled"))
            },
        log:
            path("logs", "pool", "{network}.log"),
        conda:
            "../../envs/retinaflow.yaml"
        params:
            code=code_of("pool.py"),
            objective=lambda wildcards: system_objective(wildcards.network),
            classes=len(CLASSES),
            kind="output",
        script:
            "../scripts/pool.py"

    use rule pool as pool_single with:
        output:
            **{
                part: path("scores", f"{{network}}+{SINGLE}", folder, "raw_outputs.csv")
                for part, folder in zip(SCORED, system_parts("pooled"))
            },
        log:
            path("logs", "pool", f"{{network}}+{SINGLE}.log"),
        params:
            objective=lambda wildcards: system_objective(wildcards.network),
            classes=len(CLASSES),
            kind="single",


rule average:
    input:
        **{part: outputs_of(CONFIG.models, part) for part in system_parts(AVERAGE)},
    output:
        **{part: path("scores", AVERAGE, part, "raw_outputs.csv") for part in system_parts(AVERAGE)},
    log:
        path("logs", f"{AVERAGE}.log"),
    localrule: True
    conda:
        "../../envs/retinaflow.yaml"
    params:
        code=code_of("average.py"),
        parts=system_parts(AVERAGE),
        objectives=[system_objective(backbone) for backbone in CONFIG.models],
        objective=system_objective(AVERAGE),
        classes=len(CLASSES),
    script:
        "../scripts/average.py"
