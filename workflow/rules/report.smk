# Figures and pages for `snakemake --report`, on top of those that are made anyway. No other stage needs any of them.


rule illustrate:
    input:
        predictions=path("scores", "{model}", "{split}", "predictions.csv"),
        metrics=path("scores", "{model}", "{split}", "metrics.json"),
        outputs=lambda wildcards: outputs_of([wildcards.model], wildcards.split)[0],
        pixels=system_shards("npy"),
        rows=system_shards("csv"),
    output:
        **{
            name: report(
                path("report", "{model}", "{split}", f"{name}.png"),
                caption=f"../report/{name}.rst",
                category="Graders",
                subcategory="{model}",
                labels={"split": "{split}", "figure": label},
            )
            for name, label in ILLUSTRATIONS.items()
        },
    log:
        path("logs", "report", "{model}", "{split}.log"),
    wildcard_constraints:
        model=any_of(whole_systems()),
        split=any_of(system_parts(whole_systems()[0])),
    localrule: True
    conda:
        "../../envs/retinaflow.yaml"
    params:
        code=code_of("illustrate.py"),
        kind=output_kind,
        objective=lambda wildcards: system_objective(wildcards.model),
        classes=CLASSES,
        referable_grade=CONFIG.score.referable_grade,
    script:
        "../scripts/illustrate.py"


rule illustrate_data:
    input:
        indices=[path("organized", part, "index.csv") for part in SHARDS],
        pixels=shard_files(next(iter(CONFIG.models)), TRAINING_PARTS[:1], "npy"),
        rows=shard_files(next(iter(CONFIG.models)), TRAINING_PARTS[:1], "csv"),
        records=[path("models", run, "training_run.json") for run in RUNS],
    output:
        grades=report(
            path("report", "grades.png"),
            caption="../report/grades.rst",
            category="Data",
            labels={"figure": "grades and class weights"},
        ),
        samples=report(
            path("report", "samples.png"),
            caption="../report/samples.rst",
            category="Data",
            labels={"figure": "photographs of each grade"},
        ),
    log:
        path("logs", "report", "data.log"),
    localrule: True
    conda:
        "../../envs/retinaflow.yaml"
    params:
        code=code_of("illustrate_data.py"),
        parts=list(SHARDS),
        classes=CLASSES,
    script:
        "../scripts/illustrate_data.py"


rule pages:
    input:
        comparison=path("comparison", "comparison.md"),
        problems=path("inventory", "problems.md"),
        records=[path("models", run, "training_run.json") for run in RUNS],
    output:
        comparison=report(
            path("report", "comparison.html"),
            caption="../report/comparison_table.rst",
            category="Comparison",
            labels={"figure": "table"},
        ),
        problems=report(
            path("report", "problems.html"),
            caption="../report/problems.rst",
            category="Data",
            labels={"figure": "problems of photographs and labels"},
        ),
        provenance=report(
            path("report", "provenance.html"),
            caption="../report/provenance.rst",
            category="Provenance",
            labels={"figure": "settings, versions, digests, times"},
        ),
    log:
        path("logs", "report", "pages.log"),
    localrule: True
    conda:
        "../../envs/retinaflow.yaml"
    params:
        code=code_of("pages.py"),
        changed=lambda wildcards: changes.changed(CONFIG),
    script:
        "../scripts/pages.py"


rule model_card:
    input:
        metrics=lambda wildcards: [
            path("scores", wildcards.model, part, "metrics.json") for part in system_parts(wildcards.model)
        ],
        decision=path("models", "{model}", "decision_rule.json"),
        records=system_records,
    output:
        card=path("cards", "{model}.md"),
        page=report(
            path("report", "{model}", "card.html"),
            caption="../report/card.rst",
            category="Graders",
            subcategory="{model}",
            labels={"part": "", "figure": "model card"},
        ),
    log:
        path("logs", "report", "{model}-card.log"),
    wildcard_constraints:
        model=any_of(whole_systems()),
    localrule: True
    conda:
        "../../envs/retinaflow.yaml"
    params:
        code=code_of("model_card.py"),
    script:
        "../scripts/model_card.py"


rule data_card:
    input:
        inventories=[path("inventory", f"{dataset}.csv") for dataset in DATASETS],
        problems=[path("inventory", f"{dataset}-problems.csv") for dataset in DATASETS],
        indices=[path("organized", part, "index.csv") for part in SHARDS],
    output:
        card=path("cards", "data.md"),
        page=report(
            path("report", "data.html"),
            caption="../report/card.rst",
            category="Data",
            labels={"figure": "data card"},
        ),
    log:
        path("logs", "report", "data-card.log"),
    localrule: True
    conda:
        "../../envs/retinaflow.yaml"
    params:
        code=code_of("data_card.py"),
        datasets=list(DATASETS),
        parts=list(SHARDS),
        classes=CLASSES,
    script:
        "../scripts/data_card.py"
