# Deployment bundles: for each ranked model, one folder that grades new images without this workflow.


def bundle_content(wildcards):
    """Parameter function: settings of a model's bundle that ``bundling.BundleJob`` expects."""
    model = wildcards.model
    return {
        "model": model,
        "kind": MODELS.kind(model),
        "grade_names": GRADE_NAMES,
        "objective": MODELS.objective(model),
        "patient_pattern": CONFIG.data.patient_pattern,
        "pixel_limit": CONFIG.data.pixel_limit,
        "tta_views": 1 if model.endswith(f"+{NO_TTA}") else CONFIG.score.tta_views,
        "fellow_eye_weight": CONFIG.eyes.fellow_eye_weight,
        "networks": [
            {
                "name": network,
                "objective": MODELS.objective(network),
                "variant": lookups.variant(CONFIG, network).name,
                "training_runs": MODELS.runs_of(network),
            }
            for network in MODELS.networks_of(model)
        ],
    }


def eye_average_rule(wildcards):
    """Input function: decision rule of the eye average of a network or of this model, if there is one."""
    name = f"{wildcards.model.removesuffix(f'+{NO_TTA}').removesuffix(f'+{EYE_AVERAGE}')}+{EYE_AVERAGE}"
    return [path("models", name, "decision_rule.json")] if name in MODELS.names else []


rule convert_network:
    input:
        model=path("models", "{training_run}", "model.keras"),
    output:
        graph=path("models", "{training_run}", "network.onnx"),
    log:
        path("logs", "convert", "{training_run}.log"),
    conda:
        "../../envs/retinaflow.yaml"
    threads: 2
    resources:
        mem_mb=score_memory,
        runtime=scheduled(score_runtime),
    params:
        code=code_of("convert_network.py"),
        objective=lambda wildcards: MODELS.objective(wildcards.training_run),
        grade_names=GRADE_NAMES,
        seed=CONFIG.seed,
    script:
        "../scripts/convert_network.py"


rule bundle:
    input:
        graphs=lambda wildcards: [path("models", run, "network.onnx") for run in MODELS.records_of(wildcards.model)],
        decision_rule=path("models", "{model}", "decision_rule.json"),
        eye_average=eye_average_rule,
        metrics=lambda wildcards: [
            path("scores", wildcards.model, split, "metrics.json") for split in MODELS.splits_of(wildcards.model)
        ],
        records=model_records,
        inventory=path("inventory", "train.csv"),
        shards=lambda wildcards: shard_files(MODELS.networks_of(wildcards.model)[0], TRAINING_SPLITS, "npy"),
        card=path("cards", "{model}.md"),
    output:
        folder=directory(path("models", "{model}", "bundle")),
    log:
        path("logs", "bundle", "{model}.log"),
    wildcard_constraints:
        model=any_of(MODELS.bundled),
    localrule: True
    conda:
        "../../envs/retinaflow.yaml"
    params:
        code=code_of("bundle.py"),
        content=bundle_content,
        training_runs=lambda wildcards: MODELS.records_of(wildcards.model),
    script:
        "../scripts/bundle.py"
