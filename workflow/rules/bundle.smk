# Deployment bundles: for each ranked model, one folder that grades new images without this workflow.


def views_of_features(model):
    """Whether a model is linear and uses features of several views of each image."""
    return MODELS.is_linear(model) and CONFIG.features.views > 1


def augment_ranges(network):
    """The ranges of the random changes of a network's images, without mixing of images."""
    return FEATURE_NETWORKS[network].augment.model_dump(exclude={"mixup", "cutmix"})


def bundle_content(wildcards):
    """Parameter function: settings of a model's bundle that ``bundling.BundleJob`` expects."""
    model = wildcards.model
    frozen = model in MODELS.linear
    return {
        "model": model,
        "kind": MODELS.kind(model),
        "grade_names": GRADE_NAMES,
        "objective": MODELS.objective(model),
        "patient_pattern": CONFIG.data.patient_pattern,
        "pixel_limit": CONFIG.data.pixel_limit,
        "tta_views": 1 if model.endswith(f"+{NO_TTA}") else CONFIG.score.tta_views,
        "fellow_eye_weight": CONFIG.eyes.fellow_eye_weight,
        "feature_views": {"views": CONFIG.features.views, "seed": CONFIG.seed} if views_of_features(model) else None,
        "networks": [
            {
                "name": network,
                "objective": "features" if frozen else MODELS.objective(network),
                "variant": lookups.variant(CONFIG, network).name,
                "training_runs": [network] if frozen else MODELS.runs_of(network),
                "augment": augment_ranges(network) if views_of_features(model) else None,
            }
            for network in MODELS.feature_networks_of(model)
        ],
    }


def bundled_graphs(wildcards):
    """Input function: graph of each training run of a model, or of each frozen backbone of a linear model."""
    if wildcards.model in MODELS.linear:
        return [path("features", network, "backbone.onnx") for network in MODELS.feature_networks_of(wildcards.model)]
    return [path("models", run, "network.onnx") for run in MODELS.records_of(wildcards.model)]


def bundled_trained_on(wildcards):
    """Input function: images that the training runs of a model, or the models that its backbones are of, were trained on."""
    if wildcards.model in MODELS.linear:
        return [file for network in MODELS.feature_networks_of(wildcards.model) for file in earlier_images(network)]
    return [path("models", run, "trained_on.json") for run in MODELS.records_of(wildcards.model)]


def bundled_indices(wildcards):
    """Input function: index tables of the images that a linear model on frozen backbones was fitted to."""
    return (
        [path("organized", split, "index.csv") for split in TRAINING_SPLITS] if wildcards.model in MODELS.linear else []
    )


def bundled_linear(wildcards):
    """Input function: files of a linear model."""
    return linear_files(wildcards.model) if MODELS.is_linear(wildcards.model) else []


def one_eye_linear(wildcards):
    """Input function: files of the linear model for images without fellow eye."""
    model = MODELS.one_eye(wildcards.model)
    return linear_files(model) if model in MODELS.linear else []


def one_eye_rule(wildcards):
    """Input function: decision rule of the model for images without fellow eye, if there is one."""
    model = MODELS.one_eye(wildcards.model)
    return [path("models", model, "decision_rule.json")] if model else []


def validation_outputs(wildcards):
    """Input function: raw outputs of a model on validation images, for the drift of the risk of new images.

    With folds there are none: held-out images have the outputs of one network, and new images the mean of all.
    """
    return [] if FOLDS else raw_outputs_of([wildcards.model], MODELS.splits_of(wildcards.model)[0])


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
        mem_mb=convert_memory,
        runtime=scheduled(convert_runtime),
    params:
        code=code_of("convert_network.py"),
        objective=lambda wildcards: MODELS.objective(wildcards.training_run),
        grade_names=GRADE_NAMES,
        seed=CONFIG.seed,
    script:
        "../scripts/convert_network.py"


# Graph of a frozen backbone. All linear models share it.
rule convert_backbone:
    input:
        weights=lambda wildcards: weights_of(wildcards.network),
    output:
        graph=path("features", "{network}", "backbone.onnx"),
    log:
        path("logs", "convert", "{network}-backbone.log"),
    priority: lambda wildcards: int(wildcards.network in FIRST)
    conda:
        "../../envs/retinaflow.yaml"
    threads: 2
    resources:
        mem_mb=convert_memory,
        runtime=scheduled(convert_runtime),
    params:
        code=code_of("convert_backbone.py"),
        settings=feature_settings,
        seed=CONFIG.seed,
    script:
        "../scripts/convert_backbone.py"


rule bundle:
    input:
        graphs=bundled_graphs,
        linear=bundled_linear,
        one_eye_linear=one_eye_linear,
        one_eye_rule=one_eye_rule,
        decision_rule=path("models", "{model}", "decision_rule.json"),
        eye_average=eye_average_rule,
        metrics=lambda wildcards: [
            path("scores", wildcards.model, split, "metrics.json") for split in MODELS.splits_of(wildcards.model)
        ],
        records=model_records,
        trained_on=bundled_trained_on,
        indices=bundled_indices,
        inventory=path("inventory", "train.csv"),
        shards=lambda wildcards: shard_files(MODELS.feature_networks_of(wildcards.model)[0], TRAINING_SPLITS, "npy"),
        rows=lambda wildcards: shard_files(MODELS.feature_networks_of(wildcards.model)[0], TRAINING_SPLITS, "csv"),
        raw_outputs=validation_outputs,
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
        one_eye=lambda wildcards: MODELS.one_eye(wildcards.model),
        output_kind=output_kind,
    script:
        "../scripts/bundle.py"
