# Evidence for a clinical review of one model, from tables of other stages. No other stage needs any of it.

EVIDENCE_TABLES = [
    "endpoints",
    "calibration",
    "net_benefit",
    "subgroups",
    "sizes",
    "agreement",
    "suspects",
    "recalibration",
    "local_images",
    "flow",
]
REVIEWED, REVIEWED_SPLITS = MODELS.reviewed(CONFIG.model)
REVIEWED_SETS = list(dict.fromkeys([*DATA_SETS, *INVENTORIES]))


def evidence_output():
    """Files of `snakemake evidence`."""
    return {
        **{name: path("evidence", f"{name}.csv") for name in EVIDENCE_TABLES},
        "checklists": path("evidence", "checklists.csv"),
        "page": path("evidence", "evidence.html"),
        "latex": path("evidence", "evidence.tex"),
        "figures": [
            path("evidence", split, f"{name}.png")
            for split in REVIEWED_SPLITS
            for name in ("roc", "calibration", "subgroups", "suspects")
        ],
        "flows": [path("evidence", data_set, "flow.png") for data_set in REVIEWED_SETS],
    }


def no_evidence(wildcards):
    """Input function: raise an error that says why there is no evidence."""
    raise WorkflowError(
        "`snakemake evidence` describes one model. With split.leave_out, each model measures how well others would do on a "
        "new data set. Set split.leave_out to null."
    )


def reviewed_output():
    """Inputs of `snakemake evidence`."""
    return [no_evidence] if LEFT_OUT_SETS else list(evidence_output().values())


def reviewed_settings(model):
    """Settings of a model that its methods section names."""
    networks = list(dict.fromkeys(network_of(run) for run in MODELS.records_of(model)))
    train = CONFIG.models[networks[0]] if networks else CONFIG.train
    return {
        "networks": [f"{name}: {CONFIG.models[name].backbone}" for name in networks],
        "train": train.model_dump(include={"class_weights", "balanced_sampling"}),
        "preprocess": CONFIG.preprocess.model_dump(exclude={"shard_size"}),
        "split": CONFIG.split.model_dump(include={"unit", "folds", "validation"}),
        "seed": CONFIG.seed,
    }


rule write_evidence:
    input:
        comparison=path("comparison", "comparison.csv"),
        decision_rules=[path("models", model, "decision_rule.json") for model in REVIEWED],
        raw_outputs=[
            table for model in REVIEWED for split in REVIEWED_SPLITS for table in raw_outputs_of([model], split)
        ],
        predictions=[path("scores", model, split, "predictions.csv") for model in REVIEWED for split in REVIEWED_SPLITS],
        inventories=[path("inventory", f"{data_set}.csv") for data_set in REVIEWED_SETS],
        problems=[path("inventory", f"{data_set}-problems.csv") for data_set in REVIEWED_SETS],
        indices=[path("organized", split, "index.csv") for split in TRAINING_SPLITS],
    output:
        **evidence_output(),
    log:
        path("logs", "evidence.log"),
    localrule: True
    conda:
        "../../envs/retinaflow.yaml"
    params:
        code=code_of("evidence.py"),
        templates=template_digests("page.html", "table.html"),
        model=CONFIG.model,
        models=REVIEWED,
        kinds=[model_output_kind(model) for model in REVIEWED],
        splits=REVIEWED_SPLITS,
        tests=MODELS.tests,
        training_splits=TRAINING_SPLITS,
        data_sets=REVIEWED_SETS,
        scales={split: asdict(scale) for split, scale in SCALES.items()},
        endpoints=CONFIG.endpoints,
        screened=CONFIG.screening.endpoint,
        recalibration=lookups.recalibration(CONFIG),
        run_settings=[reviewed_settings(model) for model in REVIEWED],
        settings=CONFIG.evidence.model_dump(),
        bootstrap_samples=CONFIG.score.bootstrap_samples,
        seed=CONFIG.seed,
    script:
        "../scripts/evidence.py"
