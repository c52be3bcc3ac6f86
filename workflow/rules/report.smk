# Figures and pages for `snakemake --report`, on top of those that are made anyway. No other stage needs any of them.

# Figures of each model and split beside its confusion matrix, and what the report calls them.
ILLUSTRATIONS = {
    "roc": "ROC and precision-recall",
    "reliability": "reliability",
    "quality": "quality of the images",
    "mistakes": "worst mistakes",
}


def model_records(wildcards):
    """Records of the trainings that a model is made of, and the files of a linear model."""
    records = [path("models", run, "training_run.json") for run in MODELS.records_of(wildcards.model)]
    return records + (linear_files(wildcards.model) if MODELS.is_linear(wildcards.model) else [])


def model_shards(suffix):
    """Input function: shard files of the images that a model is scored on; of an ensemble, in the variant of one network."""

    def files(wildcards):
        network = MODELS.feature_networks_of(wildcards.model)[0]
        pooled = wildcards.split == "out-of-fold"
        splits = TRAINING_SPLITS if pooled else MODELS.stored_splits(wildcards.model, wildcards.split)
        return shard_files(network, splits, suffix)

    return files


def template_digests(*names):
    """Digests of templates of cards and pages. The digests of code do not have them."""
    folder = library_folder() / "reporting/templates"
    return [digest((folder / f"{name}.jinja").read_bytes()) for name in names]


rule illustrate:
    input:
        predictions=path("scores", "{model}", "{split}", "predictions.csv"),
        metrics=path("scores", "{model}", "{split}", "metrics.json"),
        decision_rule=path("models", "{model}", "decision_rule.json"),
        outputs=lambda wildcards: raw_outputs_of([wildcards.model], wildcards.split)[0],
        pixels=model_shards("npy"),
        rows=model_shards("csv"),
    output:
        **{
            name: report(
                path("report", "{model}", "{split}", f"{name}.png"),
                caption=f"../report/{name}.rst",
                category="Models",
                subcategory="{model}",
                labels={"split": "{split}", "figure": label},
            )
            for name, label in ILLUSTRATIONS.items()
        },
    log:
        path("logs", "report", "{model}", "{split}.log"),
    wildcard_constraints:
        model=any_of(MODELS.ranked),
        split=any_of(MODELS.splits_of(MODELS.ranked[0])),
    localrule: True
    conda:
        "../../envs/retinaflow.yaml"
    params:
        code=code_of("illustrate.py"),
        kind=output_kind,
        objective=lambda wildcards: MODELS.objective(wildcards.model),
        grade_names=GRADE_NAMES,
        referable_grade=lookups.screened_grade(CONFIG),
        scale=lambda wildcards: asdict(SCALES[wildcards.split]) if wildcards.split in SCALES else None,
    script:
        "../scripts/illustrate.py"


# Splits of the figure of grades: those that are labelled with the grades of the networks.
DRAWN = [split for split in SHARDS if split not in SCALES]


rule illustrate_data:
    input:
        indices=[path("organized", split, "index.csv") for split in DRAWN],
        pixels=shard_files(next(iter(FEATURE_NETWORKS)), TRAINING_SPLITS[:1], "npy"),
        rows=shard_files(next(iter(FEATURE_NETWORKS)), TRAINING_SPLITS[:1], "csv"),
        records=[path("models", run, "training_run.json") for run in MODELS.training_runs],
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
            labels={"figure": "images of each grade"},
        ),
    log:
        path("logs", "report", "data.log"),
    localrule: True
    conda:
        "../../envs/retinaflow.yaml"
    params:
        code=code_of("illustrate_data.py"),
        splits=DRAWN,
        grade_names=GRADE_NAMES,
    script:
        "../scripts/illustrate_data.py"


rule pages:
    input:
        comparison=path("comparison", "leave_out.md" if LEFT_OUT_SETS else "comparison.md"),
        problems=path("inventory", "problems.md"),
        records=[path("models", run, "training_run.json") for run in MODELS.training_runs],
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
            labels={"figure": "problems of images and labels"},
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
        templates=template_digests("page.html", "provenance.html", "table.html"),
        changed=lambda wildcards: changes.changed(CONFIG),
    script:
        "../scripts/pages.py"


rule model_card:
    input:
        metrics=lambda wildcards: [
            path("scores", wildcards.model, split, "metrics.json") for split in MODELS.splits_of(wildcards.model)
        ],
        decision_rule=path("models", "{model}", "decision_rule.json"),
        records=model_records,
    output:
        card=path("cards", "{model}.md"),
        page=report(
            path("report", "{model}", "card.html"),
            caption="../report/card.rst",
            category="Models",
            subcategory="{model}",
            labels={"split": "", "figure": "model card"},
        ),
    log:
        path("logs", "report", "{model}-card.log"),
    wildcard_constraints:
        model=any_of(MODELS.ranked),
    localrule: True
    conda:
        "../../envs/retinaflow.yaml"
    params:
        code=code_of("model_card.py"),
        templates=template_digests("model_card.md", "page.html"),
    script:
        "../scripts/model_card.py"


rule data_card:
    input:
        inventories=[path("inventory", f"{data_set}.csv") for data_set in INVENTORIES],
        problems=[path("inventory", f"{data_set}-problems.csv") for data_set in INVENTORIES],
        indices=[path("organized", split, "index.csv") for split in SHARDS],
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
        templates=template_digests("data_card.md", "page.html"),
        data_sets=INVENTORIES,
        splits=list(SHARDS),
        grade_names=GRADE_NAMES,
    script:
        "../scripts/data_card.py"
